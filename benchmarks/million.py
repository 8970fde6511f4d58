"""A finished run of a million photos: what it takes to plan it, to look at it, and to see that nothing is left."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import Outcome, write_outcomes
from s3pot_batch.manifests.plan import write_plan
from s3pot_batch.pipeline.config import write_run
from s3pot_batch.pipeline.job import Job, open_job
from s3pot_batch.pipeline.options import Options
from s3pot_batch.stages.rle import encode_rle

PHOTOS = 1_000_000
FILES, FOLDERS = 1_000, 1_000
"""Photo files that there are, and folders; each photo of the manifest has a name of its own, a hard link to a file."""
ARRAYS, STAGES = 8, 3
"""Of the three Zarr stores, and what writes them; each array and each stage has a file per shard."""
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


@dataclass(frozen=True)
class Taken:
    """What a command took."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    """What others do on the machine counts little in it."""
    megabytes: float
    """The largest resident set of its process."""


def million() -> None:
    """Plan, status and resume of a million photos, each a command of its own."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, run = Path(folder) / "in.parquet", Path(folder) / "run"
        listing(manifest)
        words = ["segment", "--manifest", str(manifest), "--run", str(run), "--workers", "0", "--device", "cpu"]
        _say("plan (--dry-run)", command(*words, "--dry-run"))
        job = open_job(Options(manifest, run), "segments")
        print(f"million, {PHOTOS} photos: {job.plan.shards} shards, {job.plan.shards * (ARRAYS + STAGES)} files")
        finish(job)
        _say("status, first", command("status", "--run", str(run)))
        _say("status", command("status", "--run", str(run)))
        _say("segment, the answer to write", command(*words))
        _say("segment, nothing to do", command(*words))


def listing(manifest: Path) -> None:
    """A manifest of many photos, each a name of its own in one of many folders, as the system has to look up each."""
    photos = manifest.parent / "photos"
    for n in range(FOLDERS):
        (photos / f"{n:04d}").mkdir(parents=True)
    images = [f"photos/{n * FOLDERS // PHOTOS:04d}/{n:07d}.jpg" for n in range(PHOTOS)]
    for n, image in enumerate(images):
        if n < FILES:
            (manifest.parent / image).write_bytes(b"a photo")
        else:
            os.link(manifest.parent / images[n % FILES], manifest.parent / image)
    write_parquet(pa.table({"image": images, "image_id": [f"{n:07d}" for n in range(PHOTOS)]}), manifest)


def finish(job: Job) -> None:
    """Write what both stages leave behind of photos without a face, the Zarr stores aside."""
    nothing = encode_rle(np.zeros((512, 512), bool))
    size = Path(job.manifest.images[0]).stat().st_size
    write_plan(job.plan, job.run)
    write_run(job.config, job.run, [stage.name for stage in job.stages])
    for shard in range(job.plan.shards):
        items = job.plan.shard(shard)
        times = [Path(item.image).stat().st_mtime_ns for item in items]
        outcomes = [
            Outcome(item.index, item.image_id, "no_face", height=512, width=512, occlusion=nothing, face_region=nothing,
                    file_size=size, file_time=changed, content="0" * 64, seconds=1.0)
            for item, changed in zip(items, times, strict=True)
        ]  # fmt: skip
        for stage in job.stages:
            write_outcomes(job.run, stage.name, shard, outcomes, job.config.fingerprint(stage.name))


def command(*words: str) -> Taken:
    """Run the command line in a process of its own."""
    started = time.monotonic()
    # A process's resident set counts from before its exec, when it is still this one: so by way of a small one.
    asked = [sys.executable, "-c", MEASURED, sys.executable, "-m", "s3pot_batch", *words]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 — our own words
    kilobytes, cpu_seconds = map(float, done.stdout.split())
    return Taken(time.monotonic() - started, cpu_seconds, kilobytes / 1024)


def _say(what: str, taken: Taken) -> None:
    print(
        f"million, {what}: {taken.seconds:.1f} s, {taken.cpu_seconds:.1f} s of CPU, {taken.megabytes:.0f} MB",
        flush=True,
    )
