"""What Dask adds to a shard: a stand-in stage that sleeps, on one and on two workers, and in this process."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from s3pot_batch.pipeline.config import resolve
from s3pot_batch.pipeline.devices import Place
from s3pot_batch.pipeline.runner import Runner, run_serial
from s3pot_batch.pipeline.scheduling import dask_runner
from s3pot_batch.stages.base import ShardReport, ShardTask, StageContext

SHARDS, SECONDS = 40, 0.25
"""How many shards there are, and how long each one sleeps; a real one takes minutes."""


def sleeps(task: ShardTask, _context: StageContext) -> ShardReport:
    """A shard that only takes its time."""
    time.sleep(SECONDS)
    return ShardReport(task.stage, task.shard)


@dataclass(frozen=True)
class Scheduled:
    """How a runner did, its start and end aside."""

    overhead: float
    """Seconds per shard and worker, beyond the shard's own."""

    @property
    def efficiency(self) -> float:
        """The shard's own share of the time."""
        return SECONDS / (SECONDS + self.overhead)


def scheduling() -> None:
    """Overhead per shard and efficiency of this process, and of one and two workers."""
    print(f"scheduling, this process: {_text(schedule(run_serial, 1))}")
    for workers in (1, 2):
        with dask_runner((Place("cpu"),) * workers) as run:
            print(f"scheduling, Dask, workers: {workers}: {_text(schedule(run, workers))}")


def _text(found: Scheduled) -> str:
    return f"{1e3 * found.overhead:.1f} ms on top of a shard of {SECONDS} s, efficiency {found.efficiency:.3f}"


def schedule(run: Runner, workers: int, shards: int = SHARDS) -> Scheduled:
    """Run shards that sleep.

    The clock starts when each worker has reported a shard, for its first one waits for imports; from there on the
    others are worked off.
    """
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        context = resolve().context("references", Path(folder), device="cpu", batch_size=1)
        tasks = [ShardTask("references", Path(folder), shard) for shard in range(shards)]
        run(sleeps, tasks, context, lambda _: ended.append(time.perf_counter()))
    elapsed = ended[-1] - ended[workers - 1]
    return Scheduled(elapsed * workers / (shards - workers) - SECONDS)
