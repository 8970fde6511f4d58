"""Real files and outcomes for these tests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import Plan, settled, write_plan

FACE = FaceOutcome(
    row=4, bbox=(0.0, 1.0, 2.0, 3.0), score=0.5, landmarks=(1.0,) * 10, matrix=(1.0, 0.0, 0.5, 0.0, 1.0, 0.25),
    parse_confidence=0.9, occlusion_ratio=0.1, predicted_iou=0.7,
)  # fmt: skip
"""A face with every figure known."""


def manifest_file(folder: Path, **columns: object) -> Path:
    write_parquet(pa.table(columns), folder / "in.parquet")
    return folder / "in.parquet"


def settle_plan(manifest: Manifest, run: Path, *, shard_size: int, max_faces: int) -> Plan:
    """The run's plan for a manifest, written down."""
    plan = settled(manifest, run, shard_size=shard_size, max_faces=max_faces).plan
    write_plan(plan, run)
    return plan


def finish(run: Path, plan: Plan, shard: int, statuses: Sequence[str], fingerprint: str = "f") -> None:
    """Write a shard's outcomes as a stage would."""
    outcomes = [
        Outcome(item.index, item.image_id, status) for item, status in zip(plan.shard(shard), statuses, strict=True)
    ]
    write_outcomes(run, "segments", shard, outcomes, fingerprint)
