"""What goes to the terminal and what to the files."""

import logging

import pytest

from fastreid.utils.logger import setup_logger


@pytest.fixture(autouse=True)
def put_handlers_back():
    logger = logging.getLogger("fastreid")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


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
    logger = setup_logger(tmp_path, rank=1)
    logger.info("mine")
    logger.warning("look")
    out = capsys.readouterr().out
    assert "mine" not in out and "look" in out
    assert "mine" in (tmp_path / "log.txt.rank1").read_text()
    assert not (tmp_path / "log.txt").exists()
