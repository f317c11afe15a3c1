"""Folders are written whole or not at all."""

from pathlib import Path

import pytest

from fastreid.utils.folders import atomic_folder, put_back


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[False, True], ids=["new", "replaced"])
def target(request, tmp_path):
    """A folder to write, and the content beside it that must stay after an error."""
    target = tmp_path / "below" / "made"
    if request.param:
        target.mkdir(parents=True)
        (target / "old").write_text("1")
    return target


def test_it_gets_its_name_at_the_end(target):
    before = contents(target)
    with atomic_folder(target) as draft:
        (draft / "new").write_text("2")
        assert contents(target) == before
    assert contents(target.parent) == {"made/new": "2"}


@pytest.mark.parametrize("moment", ["block", "first rename", "second rename"])
def test_after_an_error_everything_is_as_before(target, moment, monkeypatch):
    before, rename, renames = contents(target), Path.rename, []

    def interrupted(path, to):
        renames.append(path)
        if moment == "first rename" or (moment == "second rename" and path.name == ".made.draft"):
            monkeypatch.undo()
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as draft:
        (draft / "new").write_text("2")
        if moment == "block":
            raise KeyboardInterrupt
    assert contents(target) == before and (renames != []) == (moment != "block")
    assert [path for path in target.parent.iterdir() if path != target] == []


def test_a_draft_of_a_killed_process_is_removed(target):
    draft = target.with_name(".made.draft")
    draft.mkdir(parents=True)
    (draft / "half").write_text("0")
    with atomic_folder(target) as empty:
        assert empty == draft and contents(empty) == {}
    assert contents(target.parent) == {}


def test_a_kill_between_two_renames_is_undone(tmp_path):
    before = tmp_path / ".made.before"
    before.mkdir()
    (before / "old").write_text("1")
    put_back(tmp_path / "made")
    put_back(tmp_path / "made")
    assert contents(tmp_path) == {"made/old": "1"}
