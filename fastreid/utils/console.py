"""Standard output and error that accept any text in any locale, and that may be closed."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO


def make_writable() -> None:
    r"""Make standard output and error accept any text; unsupported characters are written as ``\u2194``.

    A stream that the caller has closed (``>&-``) is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def as_writable(text: str, stream: TextIO) -> str:
    """Escape the characters of `text` that `stream` cannot encode; for streams that `make_writable` has not changed."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def reader_is_gone() -> bool:
    """Whether standard output is a pipe without a reader."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; no descriptor where output is captured
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def close_quietly(*, if_broken: bool = False) -> None:
    """Redirect standard output to the null device, so that Python does not report an error when it ends.

    Args:
        if_broken: do so only if it cannot be written.
    """
    if if_broken:
        try:
            sys.stdout.flush()
            return
        except (OSError, ValueError):
            pass
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
