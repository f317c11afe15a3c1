"""Standard output and error that take any text: whatever the locale, and also where they are closed."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO


def make_writable() -> None:
    """Let standard output and error take every text; what their encoding lacks is written as ``\\u2194``.

    A stream that the caller closed (``>&-``) becomes the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def as_writable(text: str, stream: TextIO) -> str:
    """`text` with what `stream` cannot encode as escapes; for streams that `make_writable` has not changed."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nothing reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; no descriptor where output is captured
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def close_quietly(*, if_broken: bool = False) -> None:
    """Send what standard output still holds to the null device, so that Python does not complain when it ends.

    Args:
        if_broken: only if it cannot be written.
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
