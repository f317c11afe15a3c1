"""Logging: short lines on the terminal, complete ones in OUTPUT_DIR/log.txt."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import cache
from pathlib import Path

from termcolor import colored

from fastreid.utils.console import as_writable, close_quietly

PACKAGE = "fastreid"
_PLAIN = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
_TIME = "%m/%d %H:%M:%S"
_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "light_red"}


class _TerminalFormatter(logging.Formatter):
    """Short lines: time and message. Warnings and errors also have their level, in colour where termcolor allows it.

    Args:
        color: whether the levels may be coloured.
    """

    def __init__(self, *, color: bool) -> None:
        super().__init__("[%(asctime)s] %(message)s", _TIME)
        self._no_color = None if color else True

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < logging.WARNING:
            return line
        level = colored(f"{record.levelname}:", _COLOURS.get(record.levelno), no_color=self._no_color)
        return line.replace("] ", f"] {level} ", 1)


class _TerminalHandler(logging.Handler):
    """Writes to the current sys.stdout, so that redirection and progress bars work.

    If it is closed, or a pipe without a reader (``| head``), nothing more is written there; the run continues, and
    log.txt has every line.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is None or sys.stdout.closed:
            return
        try:
            _write_line(as_writable(self.format(record), sys.stdout))
        except OSError as error:
            close_quietly()
            if not isinstance(error, BrokenPipeError) and sys.stderr is not None:
                print(f"cannot write to standard output ({error.strerror}); continuing without it", file=sys.stderr)
        except Exception:  # logging must never stop a run; handleError reports it on stderr
            self.handleError(record)


class _LogFile(logging.FileHandler):
    """log.txt; if the disk is full, one message is printed and the run continues."""

    def __init__(self, path: Path) -> None:
        # Names of files need not be text.
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"cannot write {self.baseFilename}: {error.strerror}; continuing without it", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the disk may still be full
            super().close()


def _write_line(line: str) -> None:
    bars = sys.modules.get("tqdm")
    if bars is not None:  # a progress bar is redrawn below the line
        bars.tqdm.write(line, file=sys.stdout)
    else:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


class _FileFormatter(logging.Formatter):
    """Complete lines, in which the logger of the set-up has another name.

    Args:
        name: name of the logger.
        shown: name in the lines of it and of the loggers below it.
    """

    def __init__(self, name: str, shown: str) -> None:
        super().__init__(_PLAIN, _TIME)
        self._name, self._shown = name, shown

    def format(self, record: logging.LogRecord) -> str:
        if self._name == self._shown or f"{record.name}.".partition(f"{self._name}.")[0]:
            return super().format(record)
        renamed = logging.makeLogRecord(vars(record))
        renamed.name = self._shown + record.name[len(self._name) :]
        return super().format(renamed)


def setup_logger(
    output: str | os.PathLike[str] | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = PACKAGE,
    abbrev_name: str | None = None,
    level: int = logging.INFO,
) -> logging.Logger:
    """Set the handlers of a logger and return it; a second call replaces them. The arguments are fast-reid's.

    Rank 0 writes to the terminal and to the file; other ranks write only to a file of their own, which ends in
    ``.rankN``, and their warnings to the terminal. termcolor colours the levels on terminals; it honours ``NO_COLOR``
    and ``FORCE_COLOR``.

    Args:
        output: the folder of log.txt, or a file that ends in .txt or .log; None for no file.
        distributed_rank: number of this process.
        color: whether levels may be coloured.
        name: the logger, by default that of the package. Others do not pass their lines on to loggers above them.
        abbrev_name: name of the logger in the file, instead of `name`.
        level: least level of lines on the terminal.
    """
    logger = logging.getLogger(name)
    _drop_handlers(logger)
    logger.setLevel(logging.DEBUG)  # handlers have levels of their own
    logger.propagate = name == PACKAGE
    terminal = _TerminalHandler(level if distributed_rank == 0 else logging.WARNING)
    terminal.setFormatter(_TerminalFormatter(color=color))
    logger.addHandler(terminal)
    if output is not None:
        handler = _file_handler(Path(output), distributed_rank)
        handler.setFormatter(_FileFormatter(name, name if abbrev_name is None else abbrev_name))
        logger.addHandler(handler)
    return logger


def _file_handler(output: Path, rank: int) -> logging.Handler:
    is_file = output.suffix in (".txt", ".log") and not output.is_dir()
    path = output if is_file else output / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return _LogFile(path if rank == 0 else path.with_name(f"{path.name}.rank{rank}"))


def _drop_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@cache
def log_once(log: logging.Logger, level: int, sentence: str) -> None:
    """Log a sentence once per process, as several parts may read the same files."""
    log.log(level, "%s", sentence)
