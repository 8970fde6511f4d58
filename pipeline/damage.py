"""Arrays of finished shards that are not there any more as they were written: found before anybody reads them."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from s3pot_batch.manifests.errors import DamagedOutcomes
from s3pot_batch.manifests.finished import finished, shard_stamps
from s3pot_batch.manifests.outcomes import items_path, read_checksums
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.stages.base import Stage, StageContext
from s3pot_batch.stages.errors import DamagedData


def damaged_shards(run: Path, plan: Plan, stages: Sequence[Stage]) -> Iterator[tuple[Stage, int]]:
    """The finished shards of some stages whose arrays are not what was written.

    A shard's outcomes are written after its arrays: only a file that is younger than they are, or that lacks and was
    not of zeros, is read and held against its checksums.
    """
    for stage in stages:
        for shard in _suspects(run, plan, stage) if stage.store else ():
            if not _is_whole(run, stage, shard):
                yield stage, shard


def has_metadata(store: Path) -> bool:
    """Whether the metadata of a store and of its arrays agree, or nothing was written there."""
    if not store.exists():
        return True
    try:
        known = _metadata(store)["consolidated_metadata"]["metadata"]
        return all(_metadata(store / name) == said for name, said in known.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mend_metadata(stage: Stage, plan: Plan, context: StageContext) -> None:
    """Make a store's metadata anew, and leave its arrays' files as they are."""
    from s3pot_batch.stages import store  # with Zarr, which takes a while

    store.create(context.run / str(stage.store), plan, stage.module.arrays(context))


def _suspects(run: Path, plan: Plan, stage: Stage) -> list[int]:
    store, done = run / str(stage.store), finished(run, stage.name).of(plan)
    filled = set(done.table.filter(pc.equal(done.table["status"], "ok"))["shard"].to_pylist())
    if not filled:
        return []
    finished_at = {shard: made for shard, (_, made) in shard_stamps(run, stage.name).items()}
    arrays = _arrays(store)
    found = set() if arrays else set(filled)
    for array in arrays:
        with os.scandir(array) as entries:
            written = {_shard_of(entry.name): entry.stat().st_mtime_ns for entry in entries}
        lacking = filled - set(written)
        found |= {shard for shard in filled - lacking if written[shard] > finished_at[shard]}
        if lacking:
            zeros = _zeros(array)
            found |= {shard for shard in lacking if not _is_blank(run, stage, shard, array.name, zeros)}
    return sorted(found)


def _zeros(array: Path) -> str:
    """The checksum of a row of zeros."""
    from s3pot_batch.stages import store

    metadata = _metadata(array)
    return store.checksum(np.zeros(metadata["shape"][1:], metadata["data_type"]))


def _is_blank(run: Path, stage: Stage, shard: int, name: str, zeros: str) -> bool:
    """Whether nothing but zeros was written to an array's shard, of which Zarr makes no file."""
    try:
        return all(sums.get(name) == zeros for sums in read_checksums(run, stage.name, shard).values())
    except DamagedOutcomes:
        return False


def _arrays(store: Path) -> list[Path]:
    """An array has metadata; folders that a desktop or a NAS puts in have none."""
    return [file.parent for file in store.glob("*/zarr.json")]


def _shard_of(file: str) -> int:
    """The shard of an array's file, called such as ``c.12.0.0``; −1 of another one."""
    part = file.split(".")[1:2]
    return int(part[0]) if file.startswith("c.") and part and part[0].isdecimal() else -1


def _is_whole(run: Path, stage: Stage, shard: int) -> bool:
    """Whether every row is what was written; its files are as old as their outcomes then, and are not read again."""
    from s3pot_batch.stages import store

    path = run / str(stage.store)
    try:
        for row, sums in read_checksums(run, stage.name, shard).items():
            store.read_row(path, row, *sums)
    except (DamagedData, DamagedOutcomes):
        return False
    when = items_path(run, stage.name, shard).stat().st_mtime_ns
    for array in _arrays(path):
        for file in array.glob(f"c.{shard}.*"):
            with suppress(PermissionError):  # somebody else's file: it is read again the next time
                os.utime(file, ns=(when, when))
    return True


def _metadata(folder: Path) -> Any:  # noqa: ANN401  (JSON)
    return json.loads((folder / "zarr.json").read_bytes())
