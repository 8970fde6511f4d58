"""How long something takes."""

import time
from collections.abc import Callable

import numpy as np


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The median of a few runs after one warm-up."""
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))
