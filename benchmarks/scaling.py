"""From 1 to 64 workers: how much of their time is work, where a shard takes ten seconds.

The work is a stand-in that sleeps, so that many workers find room on few cores. They are what the command starts on a
CPU: processes of their own, each with a nanny.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from s3pot_batch.pipeline.config import resolve
from s3pot_batch.pipeline.devices import Place
from s3pot_batch.pipeline.runner import Runner
from s3pot_batch.pipeline.scheduling import dask_runner
from s3pot_batch.stages.base import ShardReport, ShardTask, StageContext

WORKERS = (1, 4, 16, 64)
SHARDS, SECONDS = 5, 10.0
"""How many shards each worker has on average, and how long one takes."""


@dataclass(frozen=True)
class Scaled:
    """How many workers fared in one stage."""

    workers: int
    worked: float
    """Seconds that all shards took in their workers, added up."""
    wall: float
    """Seconds from the first shard that was given out to the last report; imports in the workers are in it."""
    start: float = 0.0
    """Seconds until all workers were there, before."""

    @property
    def efficiency(self) -> float:
        """The share of the workers' time in the stage that was work."""
        return self.worked / (self.workers * self.wall)

    @property
    def whole(self) -> float:
        """The same with the workers' start."""
        return self.worked / (self.workers * (self.start + self.wall))


def sleeps(task: ShardTask, _context: StageContext) -> ShardReport:
    """A shard that only takes its time."""
    time.sleep(SECONDS)
    return ShardReport(task.stage, task.shard, seconds=SECONDS)


def scaling() -> None:
    """Efficiency from 1 to 64 workers."""
    for workers in WORKERS:
        started = time.perf_counter()
        with dask_runner((Place("cpu"),) * workers, imports=[__name__]) as run:  # as the command does with its stages
            start = time.perf_counter() - started
            found = scaled(run, workers, start)
        print(
            f"scaling, workers: {workers}: {workers * SHARDS} shards of {SECONDS:.0f} s in {found.wall:.1f} s, "
            f"efficiency {found.efficiency:.3f}; with the {start:.1f} s of their start {found.whole:.3f}",
            flush=True,
        )


def scaled(run: Runner, workers: int, start: float = 0.0) -> Scaled:
    """Run some shards for each worker; the clock starts when the first one is given out."""
    with tempfile.TemporaryDirectory() as folder:
        context = resolve().context("references", Path(folder), device="cpu", batch_size=1)
        tasks = [ShardTask("references", Path(folder), shard) for shard in range(workers * SHARDS)]
        started = time.perf_counter()
        reports = run(sleeps, tasks, context, lambda _: None)
        wall = time.perf_counter() - started
    return Scaled(workers, sum(report.seconds for report in reports), wall, start)
