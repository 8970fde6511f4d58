"""The answer: ``segments.parquet``, one row per input row."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from manifests.files import Manifest, counts, items_path, read_items, write_parquet
from manifests.plan import Plan, PlannedItem
from manifests.schema import ANSWER, STATUSES

STAGE = "segments"


def assemble_segments(manifest: Manifest, plan: Plan, run: Path, fingerprint: str) -> dict[str, int]:
    """Write ``run/segments.parquet`` from the shards' items, and count the statuses.

    A photo whose shard has no outcome becomes a ``failed`` row that says so: no row is ever lost.
    """
    answers = [row for shard in range(plan.shards) for row in _shard_answers(plan, run, shard, fingerprint)]
    answer = pa.Table.from_pylist(answers, schema=ANSWER)
    table = manifest.table
    for name in ANSWER.names:
        table = table.append_column(ANSWER.field(name), answer[name])
    tally = {status: counts(answer).get(status, 0) for status in STATUSES}
    if sum(tally.values()) != manifest.table.num_rows:
        raise AssertionError(f"{manifest.table.num_rows} rows in, {tally} rows out")
    write_parquet(table, run / "segments.parquet", {"fingerprint": fingerprint})
    return tally


def _shard_answers(plan: Plan, run: Path, shard: int, fingerprint: str) -> Iterator[Mapping[str, Any]]:
    planned = plan.shard(shard)
    if items_path(run, STAGE, shard).exists():
        rows = read_items(run, STAGE, shard).to_pylist()
    else:
        rows = [_lost(item) for item in planned]
    for item, row in zip(planned, rows, strict=True):
        keep = {name: row.get(name) for name in ANSWER.names}
        keep["faces"] = [{field.name: face[field.name] for field in ANSWER.field("faces").type.value_type}
                         for face in row["faces"]]  # fmt: skip
        yield {**keep, "run": run.name, "shard": shard, "row": item.row, "fingerprint": fingerprint}


def _lost(item: PlannedItem) -> dict[str, Any]:
    return {"index": item.index, "status": "failed", "error_type": "ShardError", "faces": [],
            "error": "its shard was not finished; run the same command again"}  # fmt: skip
