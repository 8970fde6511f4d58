"""How far the work on a shard is: written into the lock that is held meanwhile, and read there by whoever looks on."""

import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PAUSE_SECONDS = 1.0
"""Between two writes, so that neither quick photos nor a slow storage make it cost anything."""
WIDTH = 20
"""Characters of a number: what is written later has the same length, and hides what was there."""


class Headway:
    """What is done of a shard by now, in the unit of its stage.

    Args:
        lock: the file, which is held; without one nothing is written, nor into one whose content is the lock itself, as
            where a storage has no locks of its own.
    """

    def __init__(self, lock: Path | None = None) -> None:
        self.lock = None
        with suppress(OSError):  # the one who held it before may have removed it just now
            self.lock = lock if lock and lock.stat().st_size in {0, 2 * WIDTH} else None
        self.since = self.written = time.time()
        self.done = 0.0
        self._write()

    def add(self, units: float) -> None:
        """So much more is done: photos, or epochs; parts of one count, too."""
        self.done += units
        if time.time() - self.written >= PAUSE_SECONDS:
            self._write()

    def _write(self) -> None:
        if self.lock:
            self.written = time.time()
            with suppress(OSError), self.lock.open("r+b") as file:  # it is only told less then
                file.write(f"{self.since:{WIDTH}.3f}{self.done:{WIDTH}.6f}".encode())


def read_headway(lock: BinaryIO) -> tuple[float, float] | None:
    """Since when a shard is worked on, in seconds of that machine's clock, and how much is done.

    Args:
        lock: the file, opened at its start.
    """
    text = lock.read(2 * WIDTH)
    try:
        return float(text[:WIDTH]), float(text[WIDTH:])
    except ValueError:
        return None  # nobody has written anything yet
