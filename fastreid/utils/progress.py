"""Progress of a long loop: a bar on a terminal, lines with the time left elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from fastreid.utils import comm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], total: int, description: str, *, seconds_between_lines: float = 10.0
) -> Iterator[Item]:
    """Yield the items and show the progress, in the main process only.

    Args:
        items: the items of the loop.
        total: number of items.
        description: what the loop does, "extracting features".
        seconds_between_lines: time between two lines in the log, where there is no terminal.
    """
    if not comm.is_main_process():
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=description, dynamic_ncols=True, leave=False)
    else:
        yield from _logged(items, total, description, seconds_between_lines)


def _logged(items: Iterable[Item], total: int, description: str, seconds_between_lines: float) -> Iterator[Item]:
    start = last_line = time.perf_counter()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.perf_counter()
        if now - last_line >= seconds_between_lines and done < total:
            last_line = now
            left = (now - start) / done * (total - done)
            logger.info("%s: %d/%d, %.0f s left", description, done, total, left)
