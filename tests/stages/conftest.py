"""A tiny segmenter of the package's own classes, pairs to prompt it with, and a run of three photos."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, items_path, write_outcomes
from s3pot_batch.manifests.plan import Plan, read_plan, write_plan
from s3pot_batch.manifests.schema import PLAN
from s3pot_batch.stages import references, store
from s3pot_batch.stages.base import ShardTask, StageContext, run_task, stage_named
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.pairs import Pair
from s3pot_batch.stages.models.adapters import attention
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from s3pot_batch.stages.models.profiles import PartSpec, Profile
from s3pot_batch.stages.models.segmenters._attention import fold
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.settings import FaceSettings, Settings, TrainingSettings, changed

TRAINING = TrainingSettings(epochs=6, batch=3, learning_rate=1e-2)

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 4, "img_size": 64, "patch_size": 8, "out_chans": 32}
"""8×8 tokens of 32 channels from 64 px; the channel count is not 3, so a reshape by it cannot pass unseen."""

FRAME = 64
LOOKING = (24.0, 24.0, 40.0, 24.0, 32.0, 34.0, 26.0, 44.0, 38.0, 44.0)
"""Landmarks of a face in a frame of 64 px."""


def tiny_sam():
    """A segmenter of the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = build_vit_sam(**TINY)
    fold(sam.image_encoder)  # as the kind sam_vit does
    return sam


@pytest.fixture
def sam():
    return tiny_sam()


@pytest.fixture
def segmenter(sam):
    return SamSegmenter(sam)


@pytest.fixture
def network(segmenter):
    return fresh_network(segmenter)


def fresh_network(segmenter, settings=None):
    """The segmenter with an adapter of the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter = AttentionAdapter(segmenter.shape.channels)
    return S3POT(segmenter, adapter, settings) if settings else S3POT(segmenter, adapter)


def an_ellipse():
    """In the middle of a 64 px frame."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return ((y - 32) / 26) ** 2 + ((x - 32) / 20) ** 2 < 1


@pytest.fixture
def region():
    """M."""
    return an_ellipse()


def a_square_in_front():
    """Photo and reference, 2×64×64×3 uint8: alike but for a square in front of the face."""
    reference = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    raw = reference.clone()
    raw[28:48, 20:40] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return torch.stack([raw, reference])


@pytest.fixture
def pictures():
    """Photo and reference."""
    return a_square_in_front()


@pytest.fixture
def face_pair(pictures, region):
    """The same as the method takes them."""
    raw, reference = pictures.numpy()
    return Pair(raw, reference, region.numpy())


@pytest.fixture
def tokens(segmenter, pictures):
    return segmenter.encode(pictures)


def context_of(folder):
    """Of the run in a folder, with the weights that lie beside it."""
    empty, parser = PartSpec("none"), PartSpec("facer")  # of the parser, only its classes are asked for
    segmenter = PartSpec("sam_vit", str(folder / "sam.safetensors"), options=tuple(TINY.items()))
    profile = Profile("tiny", empty, parser, empty, segmenter, PartSpec("attention", str(folder / "adapter")))
    settings = Settings(faces=FaceSettings(frame=FRAME, max_faces=1), training=TRAINING)
    return StageContext(folder / "run", profile, settings, "fingerprint")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Where the run lies as it was made once: every test gets a copy, which is quicker."""
    folder = tmp_path_factory.mktemp("made")
    sam, run = tiny_sam(), folder / "run"
    photos = [{"index": n, "image_id": f"p{n}", "image": f"/p{n}.png", "shard": 0, "row": n} for n in range(3)]
    plan = Plan(pa.Table.from_pylist(photos, PLAN), 3, 1, "digest")
    write_plan(plan, run)
    save_file(sam.state_dict(), folder / "sam.safetensors")
    attention.save(folder / "adapter", fresh_network(SamSegmenter(sam)).adapter, {}, "card")
    context = context_of(folder)
    store.create(run / "references.zarr", plan, references.arrays(context))
    raw, reference = a_square_in_front().numpy()
    inside = an_ellipse().numpy()
    values = {
        row: {"raw": raw, "reference": reference, "parsing": inside.astype(np.uint8), "region": inside}
        for row, inside in enumerate((inside, np.zeros_like(inside)))
    }
    store.write_rows(run / "references.zarr", references.arrays(context), range(3), values)
    box, matrix = (12.0, 6.0, 52.0, 58.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    outcomes = [
        Outcome(n, f"p{n}", "ok", height=64, width=64, faces=(FaceOutcome(n, box, 0.9, LOOKING, matrix, 0.8),))
        for n in range(2)
    ]
    outcomes.append(Outcome(2, "p2", "no_face", height=64, width=64))
    write_outcomes(run, "references", 0, outcomes, "references")
    return folder


@pytest.fixture(scope="session")
def made_cached(made, tmp_path_factory):
    """The same with its token cache."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("cached") / "made")
    do("tokens", context_of(folder))
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A run of three photos with stage one done: two faces, of which the second has no region, and none. Its context.

    The photos are 64 px as the frame is, and aligned as they are.
    """
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run", context_of(tmp_path)


@pytest.fixture
def cached_run(made_cached, tmp_path):
    """The same with its token cache."""
    shutil.copytree(made_cached, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run", context_of(tmp_path)


PACKAGE = {
    "METADATA": "Metadata-Version: 2.1\nName: toy-parts\nVersion: 1.0\n",
    "entry_points.txt": """
[s3pot_batch.segmenters]
scored = tests.stages.models.scored
exhausted = tests.stages.models.exhausted
sam_small = tests.stages.models.scored
lost = toy_parts.nowhere

[s3pot_batch.parsers]
two_classes = tests.stages.models.two_classes

[s3pot_batch.objectives]
softer_rejection = tests.stages.method.softer:softer_rejection
face_hinge = tests.stages.method.softer:softer_rejection
""",
}


@pytest.fixture
def toy_parts(tmp_path, monkeypatch):
    """Another package with parts of its own, as pip leaves it behind: what it says of itself lies on the path."""
    said = tmp_path / "site-packages" / "toy_parts-1.0.dist-info"
    said.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (said / name).write_text(text)
    monkeypatch.syspath_prepend(said.parent)


def task_of(stage, context, shard=0):
    """The task that a job would give to a worker, with its photos."""
    whole = stage_named(stage).scope == "run"
    return ShardTask(stage, context.run, shard, () if whole else read_plan(context.run).shard(shard))


def prepare(stage, context):
    """Create the stage's empty arrays, as a job does before any shard runs."""
    found = stage_named(stage)
    if found.store:
        store.create(context.run / found.store, read_plan(context.run), found.module.arrays(context))


def do(stage, context, shard=0):
    """Run one task of a stage as a job would; faces are decoded before their masks are drawn."""
    if stage == "segments" and not items_path(context.run, "decoded", shard).exists():
        do("decoded", context, shard)
    prepare(stage, context)
    return run_task(task_of(stage, context, shard), context)


def with_segmenter(context, kind, **options):
    """The context with another kind of segmenter, which reads the same weights."""
    segmenter = replace(context.profile.segmenter, kind=kind, options=tuple({**TINY, **options}.items()))
    return replace(context, profile=replace(context.profile, segmenter=segmenter))


def with_settings(context, section, **changes):
    """The context with some settings changed."""
    return replace(context, settings=changed(context.settings, {section: changes}))
