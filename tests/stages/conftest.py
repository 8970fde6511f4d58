"""A tiny segmenter of the package's own classes, and pairs to prompt it with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from manifests.files import write_items
from manifests.plan import Plan, PlannedItem, read_plan, write_plan
from stages import store
from stages.base import ShardTask, StageContext
from stages.models.profiles import PartSpec, Profile
from stages.models.sam import build_vit_sam, encode
from stages.segmentation import tokens as token_cache
from stages.segmentation.network import S3POT
from stages.segmentation.selection import PromptSelector
from stages.settings import FaceSettings, Settings, TrainingSettings

TRAINING = TrainingSettings(epochs=6, batch=3, learning_rate=1e-2)

TINY = {"embed_dim": 32, "depth": 1, "num_heads": 4, "img_size": 64, "patch_size": 8, "out_chans": 32}
"""8×8 tokens of 32 channels from 64 px; the channel count is not 3, so a reshape by it cannot pass unseen."""


@pytest.fixture
def sam():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vit_sam(**TINY).eval()


@pytest.fixture
def network(sam):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return S3POT(sam, PromptSelector(32))


@pytest.fixture
def region():
    """M: an ellipse in the middle of a 64 px frame."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return ((y - 32) / 26) ** 2 + ((x - 32) / 20) ** 2 < 1


@pytest.fixture
def pictures():
    """Photo and reference, 2×64×64×3 uint8: alike but for a square in front of the face."""
    reference = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    raw = reference.clone()
    raw[28:48, 20:40] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return torch.stack([raw, reference])


@pytest.fixture
def tokens(sam, pictures):
    return encode(sam, pictures)


@pytest.fixture
def run(tmp_path, sam, pictures, region):
    """A run of three photos with stage one done: two faces, and a photo without one. And its context."""
    plan = Plan(tuple(PlannedItem(n, f"p{n}", "", None, None, 0, n) for n in range(3)), 3, 1, "digest")
    run, frame = tmp_path / "run", 64
    write_plan(plan, run)
    store.create(run, "references.zarr", plan, frame)
    raw, reference = (np.stack([p, p, 0 * p]) for p in pictures.numpy())
    inside = np.stack([region, np.zeros_like(region), np.zeros_like(region)]).astype(np.uint8)
    store.write_shard(run, "references.zarr", plan, 0,
                      {"raw": raw, "reference": reference, "parsing": inside, "region": inside})  # fmt: skip
    rows = [{"index": n, "image_id": f"p{n}", "status": "ok" if n < 2 else "no_face",
             "faces": [{"row": n}] if n < 2 else []} for n in range(3)]  # fmt: skip
    write_items(run, "references", 0, rows, "references")
    weights = tmp_path / "sam.safetensors"
    save_file(sam.state_dict(), weights)
    segmenter = PartSpec("sam_vit", str(weights), options=tuple(TINY.items()))
    empty = PartSpec("none")
    settings = Settings(faces=FaceSettings(frame=frame, max_faces=1), training=TRAINING)
    context = StageContext(Profile("tiny", empty, empty, empty, segmenter, empty), settings, "fingerprint")
    return run, context


@pytest.fixture
def cached_run(run):
    """The same with its token cache."""
    return cache_tokens(*run)


def cache_tokens(run, context):
    token_cache.prepare(run, read_plan(run), context)
    token_cache.run_shard(ShardTask("tokens", run, 0), context)
    return run, context


def with_settings(context, section, **changes):
    """The context with some settings changed."""
    changed = replace(getattr(context.settings, section), **changes)
    return replace(context, settings=replace(context.settings, **{section: changed}))
