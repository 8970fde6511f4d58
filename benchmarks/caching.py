"""The token cache: encoder calls and seconds per epoch with and without it."""

import tempfile
import time
from pathlib import Path

import numpy as np

from manifests.files import write_items
from manifests.plan import Plan, PlannedItem, write_plan
from stages import store
from stages.base import ShardTask, StageContext
from stages.models.catalog import EMBEDDED, load
from stages.references import warp
from stages.segmentation import tokens
from stages.segmentation.network import S3POT
from stages.segmentation.pairs import encode_pair, read_pair
from stages.segmentation.selection import PromptSelector
from stages.segmentation.training import train
from stages.settings import FaceSettings, Settings, TrainingSettings

FACES, EPOCHS = 6, 50


def caching() -> None:
    """Train on a few faces for 50 epochs from the cache; encode one epoch anew to compare."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        context = stage_one(run)
        sam = load(EMBEDDED.segmenter, "cpu")
        calls = []
        handle = sam.image_encoder.register_forward_hook(lambda _module, given, _found: calls.append(len(given[0])))
        tokens.prepare(run, Plan(items(), FACES, 1, ""), context)
        tokens.run_shard(ShardTask("tokens", run, 0), context)
        network = S3POT(sam, PromptSelector(sam.prompt_encoder.embed_dim))
        cached = tokens.CachedPairs(run, list(range(FACES)), "cpu")
        started = time.perf_counter()
        train(network, cached, context.settings.training, seed=0, state=run / "state.pt", fingerprint="")
        epoch, with_cache = (time.perf_counter() - started) / EPOCHS, sum(calls)
        calls.clear()
        started = time.perf_counter()
        for row in range(FACES):
            encode_pair(network, read_pair(run, row))
        encoding, once = time.perf_counter() - started, sum(calls)
        handle.remove()
    print(f"images encoded over {EPOCHS} epochs: {with_cache} with the cache, {EPOCHS * once} without, "
          f"ratio {EPOCHS * once / with_cache:.0f}")  # fmt: skip
    print(f"an epoch of {FACES} faces: {epoch:.3f} s from the cache, {epoch + encoding:.3f} s encoding anew, "
          f"ratio {(epoch + encoding) / epoch:.1f}")  # fmt: skip


def items() -> tuple[PlannedItem, ...]:
    """The planned photos."""
    return tuple(PlannedItem(n, f"p{n}", "", None, None, 0, n) for n in range(FACES))


def stage_one(run: Path) -> StageContext:
    """A run folder with references: scikit-image's astronaut at several turns, and a copy with a patch on it."""
    import skimage.data

    plan, frame = Plan(items(), FACES, 1, ""), 256
    write_plan(plan, run)
    store.create(run, "references.zarr", plan, frame)
    face = np.array([[2.4, 0.0, -410.0], [0.0, 2.4, -160.0]])
    shifts = [np.array([[0, 0, 6.0 * n], [0, 0, -4.0 * n]]) for n in range(FACES)]
    reference = np.stack([warp(skimage.data.astronaut(), face + shift, frame) for shift in shifts])
    raw, region = reference.copy(), np.zeros(reference.shape[:3], np.uint8)
    raw[:, 130:180, 90:150] = (40, 90, 160)
    region[:, 40:220, 60:200] = 1
    arrays = {"raw": raw, "reference": reference, "parsing": region, "region": region}
    store.write_shard(run, "references.zarr", plan, 0, arrays)
    rows = [{"index": n, "image_id": f"p{n}", "status": "ok", "faces": [{"row": n}]} for n in range(FACES)]
    write_items(run, "references", 0, rows, "")
    settings = Settings(faces=FaceSettings(max_faces=1), training=TrainingSettings(epochs=EPOCHS))
    return StageContext(EMBEDDED, settings, "")
