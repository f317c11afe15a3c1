"""Notices to the user about the config, which are logged once, and a second time in the log of the run."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)

NOTICES: list[str] = []
"""Notices that were logged before the log file of a run was open; `default_setup` repeats them there."""


@functools.cache
def notify(sentence: str) -> None:
    """Log a sentence as a warning, once per process, and keep it in `NOTICES`.

    Args:
        sentence: the notice.
    """
    NOTICES.append(sentence)
    logger.warning("%s", sentence)
