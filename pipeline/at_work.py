"""What is worked on in a run folder, as its locks tell; it is seen from other terminals, too."""

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path

from s3pot_batch.stages.headway import read_headway


@dataclass(frozen=True)
class AtWork:
    """A shard that some process works on now."""

    stage: str
    shard: int
    seconds: float
    """For how long."""
    done: float = 0.0
    """What is done of it, in the stage's unit; an hour's shard is not silent until it ends."""

    def text(self) -> str:
        """The same for a person."""
        done = f", {int(10 * self.done) / 10:g} done" if self.done else ""
        return f"shard {self.shard} ({self.seconds:.0f} s{done})"


def at_work(run: Path, stage: str = "*") -> list[AtWork]:
    """The shards that are worked on now, those first that take longest.

    Args:
        run: the run folder.
        stage: of this stage alone.
    """
    locks = (run / "items").glob(f"{stage}/*.lock")
    found = [AtWork(path.parent.name, int(path.stem), *held) for path in locks if (held := _held(path))]
    return sorted(found, key=lambda one: -one.seconds)


def _held(lock: Path) -> tuple[float, float] | None:
    """For how many seconds a lock has been held, and what has been done meanwhile; one of a dead process is free."""
    try:
        with lock.open("rb") as file:
            since, done = read_headway(file) or (lock.stat().st_mtime, 0.0)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return max(time.time() - since, 0.0), done
    except (OSError, ValueError):
        return None  # it has just gone, or this storage knows no locks
    return None
