"""The folder of a stage: its settings hold for all that is written into it."""

import json
import subprocess
import sys

import pytest

from fastreid.config import ConfigError
from fastreid.generation.stage import StageFolder

ROW = {"gid": 0, "number": 0}


def settings_of(folder):
    return json.loads((folder / "settings.json").read_text())


def test_settings_that_nothing_depends_on_may_be_set_right(tmp_path):
    StageFolder(tmp_path).begin({"steps": 2})
    with StageFolder(tmp_path).journal.writer("1of2"):
        pass  # stopped before its first row
    StageFolder(tmp_path).begin({"steps": 50})
    assert settings_of(tmp_path) == {"steps": 50}


def test_other_settings_are_refused_while_a_shard_runs(tmp_path):
    one, other = StageFolder(tmp_path), StageFolder(tmp_path)
    one.begin({"steps": 2})
    with one.writer("1of2"):
        with pytest.raises(ConfigError, match=r"steps was 2, not 50.* or stop the shards that run \(1of2\) and delete"):
            other.begin({"steps": 50})
        other.begin({"steps": 2})
        with other.writer("2of2") as writer:
            writer.add(ROW)
    with pytest.raises(ConfigError, match="steps was 2, not 50.* or delete the folder"):
        other.begin({"steps": 50})
    assert settings_of(tmp_path) == {"steps": 2}


def test_a_shard_of_another_process_is_seen(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom fastreid.generation.stage import StageFolder\n"
        "stage = StageFolder(Path(sys.argv[1]))\nstage.begin({'steps': 2})\n"
        "with stage.writer('1of2'):\n    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ConfigError, match="steps was 2, not 50"):
            StageFolder(tmp_path).begin({"steps": 50})
        other.kill()
        other.wait()
        assert list(tmp_path.glob(".*.lock"))
        StageFolder(tmp_path).begin({"steps": 50})
    finally:
        other.kill()
        other.communicate()


def test_a_shard_whose_settings_were_replaced_before_its_first_row_is_refused(tmp_path):
    one, other = StageFolder(tmp_path), StageFolder(tmp_path)
    one.begin({"steps": 2})
    other.begin({"steps": 50})
    with other.writer("2of2") as writer:
        writer.add(ROW)
    with pytest.raises(ConfigError, match="steps was 50, not 2"), one.writer("1of2"):
        pass
    assert one.journal.rows() == [ROW]


@pytest.mark.parametrize("content", ["[]", "{}", "{", "3", "[" * 100_000])
@pytest.mark.parametrize("has_rows", [True, False], ids=["rows", "files"])
def test_damaged_settings_are_refused(content, has_rows, tmp_path):
    stage = StageFolder(tmp_path)
    stage.begin({"steps": 2})
    if has_rows:
        with stage.writer("1of1") as writer:
            writer.add(ROW)
    else:
        (tmp_path / "00000").mkdir()
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ConfigError, match=r"settings.json is damaged, .*: restore it, or delete the folder"):
        stage.begin({"steps": 50})
    assert (tmp_path / "settings.json").read_text() == content
    with pytest.raises(ConfigError, match=r"settings.json is damaged"), stage.writer("1of1"):
        pass


def test_damaged_settings_of_an_empty_folder_are_written_again(tmp_path):
    (tmp_path / "settings.json").write_text("[]")
    StageFolder(tmp_path).begin({"steps": 2})
    assert settings_of(tmp_path) == {"steps": 2}
