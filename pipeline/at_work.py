"""What is worked on in a run folder, as its locks tell; it is seen from other terminals, too."""

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AtWork:
    """A shard that some process works on now."""

    stage: str
    shard: int
    seconds: float
    """For how long."""

    def text(self) -> str:
        """The same for a person."""
        return f"shard {self.shard} ({self.seconds:.0f} s)"


def at_work(run: Path, stage: str = "*") -> list[AtWork]:
    """The shards that are worked on now, those first that take longest.

    Args:
        run: the run folder.
        stage: of this stage alone.
    """
    locks = (run / "items").glob(f"{stage}/*.lock")
    found = [AtWork(path.parent.name, int(path.stem), since) for path in locks if (since := _held(path)) is not None]
    return sorted(found, key=lambda one: -one.seconds)


def _held(lock: Path) -> float | None:
    """For how many seconds a lock has been held; one that a dead process left is free."""
    try:
        with lock.open("rb") as file:
            since = time.time() - lock.stat().st_mtime
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return max(since, 0.0)
    except (OSError, ValueError):
        return None  # it has just gone, or this storage knows no locks
    return None
