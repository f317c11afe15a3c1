"""Errors that a file, a key, the disk or the machine of a user can cause, and how tools report them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastreid.utils.console import close_quietly, make_writable, reader_is_gone
from fastreid.utils.system_errors import system_error_sentence

logger = logging.getLogger(__name__)

DEBUG_VARIABLE = "FASTREID_DEBUG"
# Functions that return a sentence for an error, or None; modules append theirs.
EXPLANATIONS: list[Callable[[BaseException], str | None]] = []


class UserError(Exception):
    """Base class of errors that a user can cause and correct; the message says what is wrong, where, and what to do."""


class ArgumentError(UserError, ValueError):
    """An invalid argument, which usually is the value of a key or comes from the data of a user."""


class Cancelled(SystemExit, KeyboardInterrupt):
    """Ctrl-C as an exit without a traceback; callers of a tool can catch it as a KeyboardInterrupt."""


class _Signalled(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def sentence_of(error: BaseException) -> str | None:
    """Return a sentence about an error for the user; None for a fault of the library.

    It is the message of a `UserError`; for other errors, a sentence about the file, the disk or the machine. The
    message of an error of a data worker is extracted from the traceback that torch puts around it.
    """
    if isinstance(error, UserError):
        return _shortened(_without_traceback(str(error)).strip())
    for explain in (*EXPLANATIONS, system_error_sentence):
        if sentence := explain(error):
            return _shortened(_one_paragraph(sentence))
    return None


def first_line_of(error: BaseException) -> str:
    """Return the first line of the message of another library's error; the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def reported_as(tool: str) -> Iterator[None]:
    """End the process with ``TOOL: error: SENTENCE`` and status 1 for errors of a user, a disk or a machine.

    The traceback is logged at level DEBUG, and printed if the environment variable FASTREID_DEBUG is set. The status is
    130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, which end the block as Ctrl-C does, so that it cleans up,
    and 141 without a message if the output has no reader any more (``| head``). Other exceptions are faults of the
    library and keep their traceback. In the block, output accepts any text in any encoding.

    Args:
        tool: name of the tool.
    """
    make_writable()
    try:
        with _signals_as_interrupts():
            yield
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        _log_traceback()
        number = error.number if isinstance(error, _Signalled) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        print(f"{tool}: {how}", file=sys.stderr)
        raise Cancelled(128 + number) from None
    except Exception as error:
        _log_traceback()
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            close_quietly()
            raise SystemExit(141) from None
        if (sentence := sentence_of(error)) is None or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        close_quietly(if_broken=True)
        log_destructor_errors()
        raise SystemExit(f"{tool}: error: {sentence}") from error


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP raise an error in the main thread, unless they are handled or ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    names = ("SIGTERM", "SIGHUP") if is_main else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    process = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == process:
            raise _Signalled(number)
        signal.signal(number, signal.SIG_DFL)  # a worker that was forked in the block
        os.kill(os.getpid(), number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)


def log_destructor_errors() -> None:
    """Log errors of destructors, as of torch's data workers, instead of printing them: they are consequences."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda raised: logger.debug("in %r", raised.object, exc_info=raised.exc_value or False)


def _log_traceback() -> None:
    logger.debug("stopped by", exc_info=True)  # noqa: LOG014 - called by exception handlers


def _without_traceback(text: str) -> str:
    """Remove the traceback of a data worker that torch puts before the message."""
    if "Original Traceback" not in text:
        return text
    # The exception is the first line after the frames that is not indented; its message may go on below it.
    found = list(re.finditer(r"^[\w.]+: ", text, re.MULTILINE))
    return text[found[-1].end() :] if found else text


def _one_paragraph(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _shortened(text: str) -> str:
    """Remove the middle of very long words, as damaged files have them."""
    return re.sub(r"\S{1000,}", lambda word: f"{word[0][:300]} … {word[0][-30:]}", text)
