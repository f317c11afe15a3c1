"""Errors that a user's file, key, disk or machine can cause, and the place where tools report them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator

from fastreid.utils.console import close_quietly, make_writable, reader_is_gone
from fastreid.utils.machine import machine_sentence

logger = logging.getLogger(__name__)

DEBUG_VARIABLE = "FASTREID_DEBUG"
# Functions of an error that return a sentence, or None; modules with knowledge of their own append to it.
EXPLANATIONS: list[Callable[[BaseException], str | None]] = []


class UserError(Exception):
    """Base class of errors that a user can cause and repair; the message says what is wrong, where, and what to do."""


class ArgumentError(UserError, ValueError):
    """An argument that cannot be, where it usually is the value of a key or comes from a user's data."""


class Cancelled(SystemExit, KeyboardInterrupt):
    """Ctrl-C as a quiet exit; code that calls a tool still finds it to be a KeyboardInterrupt."""


def sentence_of(error: BaseException) -> str | None:
    """What a user should read about an error; None for a fault of the library.

    It is the message of a `UserError`, and a sentence about what the file, the disk or the machine refused for
    others. An error of a data worker is unwrapped: torch puts its traceback into the message.
    """
    if isinstance(error, UserError):
        return _shortened(_without_traceback(str(error)).strip())
    for explain in (*EXPLANATIONS, machine_sentence):
        if sentence := explain(error):
            return _shortened(_one_paragraph(sentence))
    return None


@contextlib.contextmanager
def reported_as(tool: str) -> Iterator[None]:
    """End the process with ``TOOL: error: SENTENCE`` and status 1 for what a user, a disk or a machine can cause.

    The traceback goes to the log at level DEBUG, and to the terminal if the environment variable FASTREID_DEBUG is
    set. Ctrl-C ends with status 130, and a reader of the output that went away (``| head``) with 141, without a
    word. Other exceptions pass with their traceback: they are faults of the library. The output takes any text while
    the block runs, whatever the encoding of the terminal.
    """
    make_writable()
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        _log_traceback()
        print(f"{tool}: interrupted", file=sys.stderr)
        raise Cancelled(130) from None
    except Exception as error:
        _log_traceback()
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            close_quietly()
            raise SystemExit(141) from None
        if (sentence := sentence_of(error)) is None or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        close_quietly(if_broken=True)
        hush_clean_up()
        raise SystemExit(f"{tool}: error: {sentence}") from error


def hush_clean_up() -> None:
    """Send what destructors of half-made objects raise, as torch's of data workers, to the log: it is a consequence."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda raised: logger.debug("in %r", raised.object, exc_info=raised.exc_value or False)


def _log_traceback() -> None:
    logger.debug("stopped by", exc_info=True)


def _without_traceback(text: str) -> str:
    """The message itself, where torch put the traceback of a data worker before it."""
    if "Original Traceback" not in text:
        return text
    # The exception is the first line after the frames that is not indented; its message may go on below it.
    found = list(re.finditer(r"^[\w.]+: ", text, re.MULTILINE))
    return text[found[-1].end() :] if found else text


def _one_paragraph(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _shortened(text: str) -> str:
    """Without the middle of words that are no names any more, as those of a file that was damaged."""
    return re.sub(r"\S{1000,}", lambda word: f"{word[0][:300]} … {word[0][-30:]}", text)
