"""Planning a million photos: what a shard of a long manifest costs, against one of a short manifest."""

import pickle
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.plan import Settled, read_plan, write_plan
from s3pot_batch.pipeline.job import Job, Tasks, open_job
from s3pot_batch.pipeline.options import Options

SHORT, LONG = 1_000, 1_000_000
LEAST_SHARDS = 2_000
"""A short plan is gone through again until so many shards are measured."""


@dataclass(frozen=True)
class Planned:
    """What planning took, in CPU seconds of this process."""

    photos: int
    shards: int
    manifest: float
    """To read and check the manifest, to write the plan and to read it again."""
    per_shard: float
    """What a shard costs before a worker has it: to see that it is not done, to make its task with its photos, and to
    pickle that."""
    task: int
    """Bytes of a pickled task, at most."""

    @property
    def whole(self) -> float:
        """The whole pass."""
        return self.manifest + self.shards * self.per_shard


def planning() -> None:
    """One planning pass over 1,000 and over 1,000,000 photos, and the ratio of what a shard costs."""
    with tempfile.TemporaryDirectory() as folder:
        short, long = (plan(Path(folder), photos) for photos in (SHORT, LONG))
    for one in (short, long):
        print(
            f"planning, {one.photos} photos: {1e3 * one.per_shard:.2f} ms per shard, tasks of {one.task} bytes, "
            f"{one.manifest:.1f} s for manifest and plan, {one.whole:.1f} s in all"
        )
    print(f"planning, a shard of {LONG} photos against one of {SHORT}: ratio {long.per_shard / short.per_shard:.2f}")


def plan(folder: Path, photos: int) -> Planned:
    """One planning pass: from a manifest to the pickled tasks of all shards."""
    manifest = folder / f"{photos}.parquet"
    write_parquet(pa.table({"image": [f"photos/{n:07d}.jpg" for n in range(photos)]}), manifest)
    started = time.process_time()
    job = open_job(Options(manifest, folder / str(photos)), "references")
    write_plan(job.plan, job.run)
    job = replace(job, settled=Settled(read_plan(job.run), written=True))
    read = time.process_time()
    passes = max(1, LEAST_SHARDS // job.plan.shards)
    sizes = [len(task) for _ in range(passes) for task in pickled(job)]
    per_shard = (time.process_time() - read) / len(sizes)
    return Planned(photos, job.plan.shards, read - started, per_shard, max(sizes))


def pickled(job: Job) -> list[bytes]:
    """The tasks of a job's last stage that are still to be done, as they cross the wire."""
    stage = job.stages[-1]
    return [pickle.dumps(task) for task in Tasks(stage, job.run, job.plan, job.pending(stage))]
