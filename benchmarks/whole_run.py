"""The pipeline itself at paper size, from photos on disk to masks, as a worker with a card does it; weights are random.

The photos are of one face each, which the detector finds; the parser draws one where it lies (``paper_size``).
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import skimage.data
from PIL import Image

from benchmarks.paper_size import few_steps
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.plan import Plan, fitting_shard_size, make_plan
from s3pot_batch.stages import store
from s3pot_batch.stages.base import ShardTask, StageContext, run_task, stage_named
from s3pot_batch.stages.beside import SHARDS
from s3pot_batch.stages.models.profiles import Profile

WAY = ("references", "decoded", "segments")


def write_photos(folder: Path, count: int) -> Path:
    """A manifest of JPEG files that differ in noise: scikit-image's astronaut, 512×512."""
    rng, portrait = np.random.default_rng(0), skimage.data.astronaut()
    names = [f"{n}.jpg" for n in range(count)]
    for name in names:
        noisy = portrait + rng.integers(-8, 9, portrait.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
    write_parquet(pa.table({"image": names}), folder / "in.parquet")
    return folder / "in.parquet"


@dataclass
class WholeRun:
    """All stages over photos that were not worked on yet; call it again, and it does so anew.

    Args:
        profile: with its settings.
        manifest: of :func:`write_photos`.
        device: where it runs; on ``cpu`` one shard comes after the other.
        at_once: faces.
        photos: of the manifest's, the first.
    """

    profile: Profile
    manifest: Path
    device: str
    at_once: int
    photos: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage and face, the last time."""
    faces: int = 0
    """That were found, the last time."""

    def few(self) -> "WholeRun":
        """The same as ``paper-lcm`` draws."""
        settings = self.profile.settings
        drawn = settings.model_copy(update={"references": few_steps(settings.references)})
        return replace(self, profile=replace(self.profile, settings=drawn), seconds={})

    def __call__(self) -> None:
        """From photos to masks.

        Raises:
            RuntimeError: a face was not found, or a photo failed: then nothing that was timed means anything.
        """
        runs = (self.manifest.parent / f"run{n}" for n in itertools.count())
        run = next(folder for folder in runs if not folder.exists())
        most = self.profile.settings.faces.max_faces
        plan = make_plan(
            read_manifest(self.manifest, self.photos), shard_size=fitting_shard_size(self.photos), max_faces=most
        )
        for name in WAY:
            started = time.perf_counter()
            self.faces = sum(self._stage(name, run, plan))
            self.seconds[name] = (time.perf_counter() - started) / self.photos
        if self.faces != self.photos:
            raise RuntimeError(f"{self.faces} of {self.photos} photos came through")

    def _stage(self, name: str, run: Path, plan: Plan) -> list[int]:
        """How many photos of each shard came through a stage."""
        context = StageContext(run, self.profile, self.profile.settings, "benchmark", self.device, self.at_once)
        stage = stage_named(name)
        store.create(run / str(stage.store), plan, stage.module.arrays(context))
        tasks = [ShardTask(name, run, shard, plan.shard(shard)) for shard in plan.wanted_shards]
        with ThreadPoolExecutor(1 if self.device == "cpu" else SHARDS) as threads:
            reports = threads.map(run_task, tasks, [context] * len(tasks))
            return [report.ok for report in reports]
