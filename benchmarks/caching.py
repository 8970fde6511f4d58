"""The token cache: encoder calls and seconds per epoch with and without it."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from PIL import Image

from benchmarks.models import LANDMARKS
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.job import Job, open_job, work
from s3pot_batch.pipeline.options import Options
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.pairs import encode_pair
from s3pot_batch.stages.models.adapters.attention import untrained
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.store import filled_rows
from s3pot_batch.stages.tokens import CachedPairs
from s3pot_batch.stages.training import TrainingState, train

if TYPE_CHECKING:
    from s3pot_batch.stages.models.segmenters._sam import SamSegmenter

FACES, EPOCHS, MEASURED = 6, 50, 3
"""Faces, epochs of a training (authors' settings), and how many of them are gone through: they are all alike."""


def caching() -> None:
    """Train on a few faces from the cache; encode one epoch anew to compare."""
    with tempfile.TemporaryDirectory() as folder:
        job = covered_faces(Path(folder))
        settings = job.config.settings
        segmenter = Models(job.config.profile).segmenter
        calls: list[int] = []
        handle = cast("SamSegmenter", segmenter).sam.image_encoder.register_forward_hook(
            lambda _module, given, _found: calls.append(len(given[0]))
        )
        work(job)
        filling = sum(calls)
        rows = filled_rows(job.run, job.plan)
        network = S3POT(segmenter, untrained(segmenter), settings.segments)
        state = TrainingState(job.run / "state.pt", job.config.fingerprint("train"))
        cached = CachedPairs(job.run, rows, "cpu")
        calls.clear()
        started = time.perf_counter()
        train(network, cached, settings.training, settings.seed, state)
        epoch, with_cache = (time.perf_counter() - started) / MEASURED, filling + EPOCHS * sum(calls) // MEASURED
        calls.clear()
        started = time.perf_counter()
        for row in rows:
            encode_pair(network, read_pair(job.run, row))
        encoding, once = time.perf_counter() - started, sum(calls)
        handle.remove()
    print(f"images encoded over {EPOCHS} epochs: {with_cache} with the cache, {EPOCHS * once} without, "
          f"ratio {EPOCHS * once / with_cache:.0f}")  # fmt: skip
    print(f"an epoch of {len(rows)} faces: {epoch:.3f} s from the cache, {epoch + encoding:.3f} s encoding anew, "
          f"ratio {(epoch + encoding) / epoch:.1f}")  # fmt: skip


def covered_faces(folder: Path) -> Job:
    """A job that caches the tokens of scikit-image's astronaut, with a patch on her face at several places."""
    import skimage.data

    for n in range(FACES):
        photo = skimage.data.astronaut()
        photo[120 + 4 * n : 145 + 4 * n, 200 + 5 * n : 225 + 5 * n] = (40, 90, 160)
        Image.fromarray(photo).save(folder / f"{n}.png")
    columns = {"image": [f"{n}.png" for n in range(FACES)], "landmarks": [LANDMARKS.tolist()] * FACES}
    write_parquet(pa.table(columns), folder / "in.parquet")
    job = open_job(Options(folder / "in.parquet", folder / "run", device="cpu", workers=0), "tokens")
    return replace(job, config=job.config.with_settings({"training": {"epochs": MEASURED}}))
