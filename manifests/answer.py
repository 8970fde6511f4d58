"""The answer: ``segments.parquet``, one row per input row."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import REDO, file_metadata, replacing
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.outcomes import Outcome, count_statuses, items_path, read_outcomes, shard_is_done
from s3pot_batch.manifests.plan import Plan, PlannedItem
from s3pot_batch.manifests.schema import SEGMENTS, STATUSES

STAGE = "segments"
ANSWER = "segments.parquet"
ROW_GROUP = 1024
"""Photos that are in memory at once, about; a row group per shard would make a slow file."""


def assemble_segments(
    manifest: Manifest, plan: Plan, run: Path, fingerprint: str, out: Path | None = None
) -> dict[str, int]:
    """Write the answer from the shards' outcomes, shard by shard, and count the statuses.

    A photo whose shard has no outcome becomes a ``failed`` row that says so: no row is ever lost.

    Args:
        manifest: the photos of ``plan``, all of them; its columns come first.
        plan: the plan of ``run``.
        run: the run folder.
        fingerprint: of the settings; outcomes that were made with another one are refused.
        out: the file to write, ``run/segments.parquet`` if not given.

    Raises:
        ManifestError: an items file is damaged, or is not of these settings or photos.
    """
    schema = pa.schema([*manifest.table.schema, *SEGMENTS])
    metadata = file_metadata(manifest.table, {"fingerprint": fingerprint})
    tally = dict.fromkeys(STATUSES, 0)
    step = max(1, ROW_GROUP // plan.shard_size)
    with replacing(out or run / ANSWER) as temporary:
        with pq.ParquetWriter(temporary, schema.with_metadata(metadata), compression="zstd") as writer:
            for first in range(0, plan.shards, step):
                shards = range(first, min(first + step, plan.shards))
                rows = [row for shard in shards for row in _answers(plan, run, shard, fingerprint)]
                answer = pa.Table.from_pylist(rows, schema=SEGMENTS)
                given = manifest.table.slice(first * plan.shard_size, len(rows))
                writer.write_table(pa.Table.from_arrays([*given.columns, *answer.columns], schema=schema))
                for status, count in count_statuses(answer).items():
                    tally[status] += count
        if sum(tally.values()) != manifest.table.num_rows:
            raise AssertionError(f"{manifest.table.num_rows} rows in, {tally} rows out")
    return tally


def _answers(plan: Plan, run: Path, shard: int, fingerprint: str) -> Iterator[dict[str, Any]]:
    planned = plan.shard(shard)
    done = shard_is_done(run, STAGE, shard, fingerprint)
    outcomes = read_outcomes(run, STAGE, shard) if done else [_lost(item) for item in planned]
    if [(one.index, one.image_id) for one in outcomes] != [(item.index, item.image_id) for item in planned]:
        raise ManifestError(f"{items_path(run, STAGE, shard)}: its rows are not the photos of shard {shard}; {REDO}")
    for item, outcome in zip(planned, outcomes, strict=True):
        # from_pylist with a schema keeps the answer's columns, and of each face the answer's fields.
        yield {
            **asdict(outcome), "run": run.absolute().name, "shard": shard, "row": item.row, "fingerprint": fingerprint,
        }  # fmt: skip


def _lost(item: PlannedItem) -> Outcome:
    return Outcome(item.index, item.image_id, "failed", "ShardError", "shard was not processed; run the command again")
