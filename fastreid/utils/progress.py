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
    """Pass `items` through, telling how far the loop is; silent in all processes but the main one.

    Args:
        total: how many items there are.
        description: what is being done, "extracting features".
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
