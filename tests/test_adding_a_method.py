"""The method of docs/adding_a_method.md: its file and its config are taken from the page, and its commands are run."""

import json
import os
import shlex
import subprocess

import pytest
from torch import nn

from fastreid.modeling import ReidModel
from tests.miniature import FEW_STEPS, ROOT, rendered
from tests.pages import TEXTS, blocks
from tests.warm_python import warm_python

PAGE = TEXTS["docs/adding_a_method.md"]
COMMANDS = [shlex.split(line) for line in "".join(blocks(PAGE, "bash")).splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the two files of the page and a rendered benchmark."""
    folder = tmp_path_factory.mktemp("method")
    for language, name in (("python", "stripes.py"), ("yaml", "stripes.yml")):
        (text,) = blocks(PAGE, language)
        (folder / name).write_text(text)
    (folder / "datasets").mkdir()
    (folder / "datasets/quickstart").symlink_to(rendered(tmp_path_factory.getbasetemp(), "CARGO"))
    return folder


def run(folder, words, *keys):
    """Run a command of the page in a process of its own, as it adds keys to the config."""
    assert words[:2] == ["python", "tools/train_net.py"]
    command = [warm_python(), str(ROOT / words[1]), *words[2:], *FEW_STEPS, *keys]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_commands_of_the_page_run(folder):
    assert len(COMMANDS) == 3
    for words in COMMANDS:
        done = run(folder, words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    trained, evaluated = (
        json.loads((folder / f"logs/{name}/results.json").read_text()) for name in ("stripes", "stripes/evaluated")
    )
    assert trained == evaluated and sorted(trained) == ["CARGO", "CARGO_AG"]
    chance = json.loads((folder / "logs/stripes/ranked_lists.json").read_text())["CARGO"]["chance"]["mAP"]
    assert trained["CARGO"]["mAP"] > chance


def test_the_rule_of_a_key_is_checked(folder):
    done = run(folder, COMMANDS[0], "MODEL.STRIPES.NUM", "0")
    assert done.returncode == 1 and "MODEL.STRIPES.NUM must be 1 or more, got 0" in done.stdout + done.stderr


def test_the_table_lists_the_members_of_the_interface():
    table = PAGE.split("## What a model can declare")[1].split("\n## ")[0]
    listed = {row.split("`")[1].partition("(")[0] for row in table.splitlines() if row.startswith("| `")}
    classes = ReidModel.__mro__[: ReidModel.__mro__.index(nn.Module)]
    members = {name for base in classes for name in vars(base) if not name.startswith("_")}
    assert listed == members - {"checkpoint_state_dict", "load_checkpoint_state_dict"}  # rarely overridden
