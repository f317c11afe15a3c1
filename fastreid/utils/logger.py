"""Logging: short lines on the terminal, complete ones in OUTPUT_DIR/log.txt."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

from termcolor import colored

from fastreid.utils.console import as_writable, close_quietly

PACKAGE = "fastreid"
_PLAIN = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
_TIME = "%m/%d %H:%M:%S"
_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "light_red"}


class _TerminalFormatter(logging.Formatter):
    """Short lines: time and message. Warnings and errors also have their level, in colour where termcolor allows it."""

    def __init__(self) -> None:
        super().__init__("[%(asctime)s] %(message)s", _TIME)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < logging.WARNING:
            return line
        level = colored(f"{record.levelname}:", _COLOURS.get(record.levelno))
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


def setup_logger(
    output_dir: str | os.PathLike[str] | None = None, *, rank: int = 0, level: int = logging.INFO
) -> logging.Logger:
    """Set the handlers of the logger of the package and return it; a second call replaces them.

    Rank 0 writes to the terminal and to ``output_dir/log.txt``; other ranks write only to
    ``output_dir/log.txt.rankN``, and their warnings to the terminal. termcolor colours the levels on terminals; it
    honours ``NO_COLOR`` and ``FORCE_COLOR``.
    """
    logger = logging.getLogger(PACKAGE)
    _drop_handlers(logger)
    logger.setLevel(logging.DEBUG)  # handlers have levels of their own
    terminal = _TerminalHandler(level if rank == 0 else logging.WARNING)
    terminal.setFormatter(_TerminalFormatter())
    logger.addHandler(terminal)
    if output_dir is not None:
        logger.addHandler(_file_handler(Path(output_dir), rank))
    return logger


def _file_handler(folder: Path, rank: int) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
    handler = _LogFile(folder / name)
    handler.setFormatter(logging.Formatter(_PLAIN, _TIME))
    return handler


def _drop_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
