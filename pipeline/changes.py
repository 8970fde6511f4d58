"""Which finished shards have to be done again, because photos have changed or may be read by now."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.manifests.plan import Plan, PlannedItem

STAGE = "references"
"""The one that reads photos."""
COLUMNS = ("status", "error_type", "file_size", "file_time", "content")
PASSING = ("MissingFile", "UnreadableFile", "FileTooSlow")
"""Failures whose reason may have passed."""
THREADS = 8


def changed_shards(run: Path, plan: Plan, *, retry_failed: bool = False) -> frozenset[int]:
    """The finished shards with a photo that is another one by now, or that failed and may come through.

    A local file is another one if its size or time differ and its SHA-256, too.

    Args:
        run: the run folder.
        plan: its plan.
        retry_failed: every failed photo may come through.
    """

    def changed(shard: int) -> bool:
        path = items_path(run, STAGE, shard)
        if not path.exists():
            return False
        try:
            rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        except (pa.ArrowException, OSError):
            return False  # of an earlier version, or damaged: then it is not done anyway
        pairs = zip(plan.shard(shard), rows, strict=False)
        return any(_again(item, row, retry_failed=retry_failed) for item, row in pairs if item.wanted)

    shards = plan.wanted_shards
    with ThreadPoolExecutor(THREADS) as threads:
        return frozenset(shard for shard, found in zip(shards, threads.map(changed, shards), strict=True) if found)


def _again(item: PlannedItem, row: Mapping[str, Any], *, retry_failed: bool) -> bool:
    failed = row["status"] == "failed"
    if failed and retry_failed:
        return True
    if "://" in item.image:
        return failed and row["error_type"] in PASSING
    try:
        found = Path(item.image).stat()
    except (OSError, ValueError):
        return False  # it is gone: what was made of it stays
    if failed and row["error_type"] in PASSING:
        return True
    if row["file_size"] is None or (found.st_size, found.st_mtime_ns) == (row["file_size"], row["file_time"]):
        return False
    with Path(item.image).open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() != row["content"])
