"""Limit on the time that OpenMP threads spin while they wait for work."""

from __future__ import annotations

import os

# Rounds of a waiting loop, some tens of microseconds. Above 10,000, training beside a busy process took up to four
# times as long (benchmarks/spinning.py).
SPIN_COUNT = 3000


def bound_spin() -> None:
    """Limit how long waiting OpenMP threads spin before they sleep, unless the user has set it.

    By default they spin for milliseconds after each parallel loop. On a busy machine they use the cores of the threads
    that they wait for. GNU OpenMP, which PyTorch uses on Linux, reads the limit when it is loaded, so this function
    must be called before PyTorch is imported. Processes that are started later inherit the limit.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
