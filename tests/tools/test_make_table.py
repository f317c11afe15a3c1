"""tools/make_table.py: what it prints and writes, and options that do not go together."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.data.benchmarks.trees import touch
from tests.data.tables.test_video import boxes, videos  # noqa: F401
from tests.miniature import ROOT, run_tool
from tests.tools.holding import locked_by_another

PATHS = [f"{c}/{p}/{n}.jpg" for c in ("door", "gate") for p in "abcdefghij" for n in range(3)]


def make(folder, *words):
    return run_tool("tools/make_table.py", *words, cwd=folder)


def test_an_inferred_pattern_is_printed_with_its_reason(tmp_path, caplog):
    touch(tmp_path / "photos", *PATHS, "door/a/notes.txt")
    said = make(tmp_path, "--root", "photos", "--output", "people.csv")
    assert "pattern: {camera}/{person}/{name}\n  inferred: of the two levels of folders" in said
    assert "skipped 1 files with other suffixes: .txt (1)" in caplog.text
    assert "csv:people.csv  train" in said and "python tools/check_dataset.py csv:people.csv" in said
    again = make(tmp_path, "--root", "photos", "--output", "people.csv")
    assert "people.csv has this content already" in again


def test_names_in_utf8_are_read_where_the_system_decodes_ascii_only(tmp_path):
    touch(tmp_path / "photos", *PATHS, *(f"{camera}/ä李/{n}.jpg" for camera in ("door", "gate") for n in range(3)))
    make(tmp_path, "--root", "photos", "--output", "people.csv")
    for tool, *words in (
        ("make_table.py", "--root", "photos", "--output", "again.csv"),
        ("check_dataset.py", "csv:again.csv"),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / tool), *words],
            cwd=tmp_path,
            env=os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "people.csv").read_bytes()
    assert "ä李" in (tmp_path / "again.csv").read_text(encoding="utf-8")


def test_images_that_do_not_fit_are_listed(tmp_path):
    touch(tmp_path / "photos", *PATHS, "a.jpg")
    said = make(tmp_path, "--root", "photos", "--pattern", "{camera}/{person}/*", "--output", "people.csv")
    assert "1 images do not fit the pattern and are left out: a.jpg" in said and "inferred" not in said


def test_share_and_seed(tmp_path):
    touch(tmp_path / "photos", *PATHS)
    texts = []
    for number, words in enumerate(([], ["--seed", "4"], ["--test-people", "0.5"])):
        make(tmp_path, "--root", "photos", "--output", f"{number}.csv", *words)
        texts.append((tmp_path / f"{number}.csv").read_text())
    assert len(set(texts)) == 3 and [text.count(",train") for text in texts] == [42, 42, 30]


@pytest.mark.parametrize("pattern", [[], ["--pattern", "{split}/{camera}/{person}/{name}"]])
def test_a_share_of_the_people_has_no_effect_where_folders_say_the_split(tmp_path, pattern):
    touch(tmp_path / "photos", *(f"{split}/{path}" for split in ("train", "test") for path in PATHS))
    words = ["--root", "photos", "--output", "people.csv", *pattern]
    with pytest.raises(SystemExit, match="--test-people has no effect: the {split} of the pattern says who is tested"):
        make(tmp_path, *words, "--test-people", "0.3")
    assert not (tmp_path / "people.csv").exists()
    make(tmp_path, *words, "--seed", "3")  # it draws queries of the folder test


def test_a_seed_has_no_effect_where_folders_say_the_queries(tmp_path):
    touch(tmp_path / "photos", *(f"{split}/{path}" for split in ("train", "query", "gallery") for path in PATHS))
    words = ["--root", "photos", "--output", "people.csv"]
    with pytest.raises(SystemExit, match="--seed has no effect: the {split} of the pattern says which images are quer"):
        make(tmp_path, *words, "--seed", "0")
    assert not (tmp_path / "people.csv").exists()
    make(tmp_path, *words)


def test_a_table_in_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    touch(tmp_path / "photos", *PATHS)
    with locked_by_another(tmp_path / "out"):
        with pytest.raises(SystemExit, match="out is in use by"):
            make(tmp_path, "--root", "photos", "--output", "out/people.csv")
        assert not (tmp_path / "out/people.csv").exists()


def test_videos_become_files_and_a_table(videos, tmp_path):  # noqa: F811
    for name in ("door", "yard"):
        shutil.copy(videos / f"{name}.mp4", tmp_path)
        (tmp_path / name).mkdir()
        boxes(tmp_path / name, *(f"{frame},p{frame % 4},0,0,9,20" for frame in range(10)))
    said = make(
        tmp_path,
        *("--video", "door.mp4", "--boxes", "door/boxes.csv", "--video", "yard.mp4", "--boxes", "yard/boxes.csv"),
        *("--crops", "crops", "--output", "people.csv"),
    )
    assert "cut out into crops: 10 images of door, 10 images of yard" in said
    assert "csv:people.csv  query" in said.replace("csv:people.csv query", "csv:people.csv  query")
    assert len((tmp_path / "people.csv").read_text().splitlines()) == 21


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --root for a folder of images, or --video"),
        (["--root", "a", "--video", "b"], "give --root"),
        (["--video", "b"], "belong together"),
        (["--root", "a", "--every", "1"], "--every and --first-frame are for --video"),
        (["--root", "a", "--first-frame", "0"], "--every and --first-frame are for --video"),
        (["--root", "a", "--crops", "b"], "belong together"),
        (["--video", "b", "--boxes", "c", "--crops", "d", "--pattern", "{person}/*"], "--pattern is for --root"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        make(tmp_path, *words, "--output", "people.csv")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--root", "nowhere"], "there is no folder .*nowhere"),
        (["--root", ".", "--test-people", "1"], "above 0 and below 1"),
    ],
)
def test_errors_are_one_sentence(tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        make(tmp_path, *words, "--output", "people.csv")
    assert not (tmp_path / "people.csv").exists()
