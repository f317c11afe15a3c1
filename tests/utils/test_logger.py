"""What goes to the terminal and what to the files."""

import logging
import os
import subprocess
import sys

import pytest

from fastreid.utils.logger import setup_logger

pytestmark = pytest.mark.usefixtures("put_handlers_back")


def test_terminal_is_short_and_file_is_complete(tmp_path, capsys):
    setup_logger(tmp_path)
    child = logging.getLogger("fastreid.engine.hooks")
    child.info("saved")
    child.debug("only in the file")
    child.warning("careful")
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("] saved") and "WARNING: careful" in out
    assert "only in the file" not in out
    text = (tmp_path / "log.txt").read_text()
    assert "INFO fastreid.engine.hooks: saved" in text and "only in the file" in text


def test_calling_again_does_not_double_the_lines(tmp_path, capsys):
    setup_logger(tmp_path)
    setup_logger(tmp_path).info("once")
    assert capsys.readouterr().out.count("once") == 1


def test_other_ranks_keep_to_their_own_file_but_warn(tmp_path, capsys):
    logger = setup_logger(tmp_path, distributed_rank=1)
    logger.info("mine")
    logger.warning("look")
    out = capsys.readouterr().out
    assert "mine" not in out and "look" in out
    assert "mine" in (tmp_path / "log.txt.rank1").read_text()
    assert not (tmp_path / "log.txt").exists()


COLOURED = """
import logging
from fastreid.utils.logger import setup_logger
setup_logger({folder!r})
logging.getLogger("fastreid.x").warning("careful")
logging.getLogger("fastreid.x").info("fine")
"""


def run_with(folder, stdout, **variables):
    """What a process writes to its standard output with these environment variables and no other of termcolor's."""
    names = ("NO_COLOR", "FORCE_COLOR", "ANSI_COLORS_DISABLED")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", COLOURED.format(folder=str(folder))]
    return subprocess.run(command, stdout=stdout, env={**environment, "TERM": "xterm", **variables}, check=True)


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_levels_in_a_pipe_have_colour_only_if_forced(tmp_path, variables, is_coloured):
    out = run_with(tmp_path, subprocess.PIPE, **variables).stdout.decode()
    level = "\033[33mWARNING:\033[0m careful" if is_coloured else "] WARNING: careful"
    assert level in out and "] fine" in out
    assert "\033" not in (tmp_path / "log.txt").read_text()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="pseudo-terminals are of Unix")
@pytest.mark.parametrize(
    ("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_levels_on_a_terminal_have_colour_unless_it_is_refused(tmp_path, variables, is_coloured):
    here, there = os.openpty()
    try:
        run_with(tmp_path, there, **variables)
        out = os.read(here, 10_000).decode()
    finally:
        os.close(here)
        os.close(there)
    assert ("\033[33mWARNING:\033[0m careful" in out) == is_coloured and "careful" in out
