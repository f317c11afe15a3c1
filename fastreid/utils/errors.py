"""Errors that a user's file, key, disk or machine can cause, and the place where tools report them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger(__name__)


class UserError(Exception):
    """Base class of errors that a user can cause and repair; the message says what is wrong, where, and what to do."""


@contextlib.contextmanager
def reported_as(tool: str) -> Iterator[None]:
    """End the process with ``TOOL: error: MESSAGE`` and status 1 when the block raises a `UserError`.

    The traceback goes to the log at level DEBUG. Other exceptions pass: they are faults of the library.
    """
    try:
        yield
    except UserError as error:
        logger.debug("stopped by", exc_info=True)
        sys.exit(f"{tool}: error: {error}")
