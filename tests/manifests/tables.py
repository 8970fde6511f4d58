"""Real files for these tests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from manifests.files import write_items, write_parquet
from manifests.plan import Plan


def manifest_file(folder: Path, **columns: object) -> Path:
    write_parquet(pa.table(columns), folder / "in.parquet")
    return folder / "in.parquet"


def finish(run: Path, plan: Plan, shard: int, statuses: Sequence[str], fingerprint: str = "f") -> None:
    """Write a shard's items as a stage would."""
    rows = [
        {"index": item.index, "image_id": item.image_id, "status": status}
        for item, status in zip(plan.shard(shard), statuses, strict=True)
    ]
    write_items(run, "segments", shard, rows, fingerprint)
