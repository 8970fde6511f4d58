"""The answer: ``segments.parquet``, one row per input row."""

import hashlib
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import REDO, file_metadata, replacing
from s3pot_batch.manifests.finished import shard_stamps
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.outcomes import Outcome, count_statuses, items_path, read_outcomes, shard_is_done
from s3pot_batch.manifests.plan import Plan, PlannedItem
from s3pot_batch.manifests.schema import ANSWER_VERSION, SEGMENTS, STATUSES

STAGE = "segments"
ANSWER = "segments.parquet"
ROW_GROUP = 1024
"""Photos that are in memory at once, about; a row group per shard would make a slow file."""
SHARDS = 16
"""Shards that are in memory at once: a manifest that was reordered goes to and fro between them."""


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
    basis = _basis(manifest, plan, run, fingerprint)
    metadata = file_metadata(
        manifest.table, {"schema_version": str(ANSWER_VERSION), "fingerprint": fingerprint, "basis": basis}
    )
    tally, answers = dict.fromkeys(STATUSES, 0), _Answers(plan, run, fingerprint)
    numbers = plan.numbers(manifest.image_ids).tolist()
    if -1 in numbers:
        raise ManifestError(f"{run} is not planned for {manifest.image_ids[numbers.index(-1)]}; run the command again")
    with replacing(out or run / ANSWER) as temporary:
        with pq.ParquetWriter(temporary, schema.with_metadata(metadata), compression="zstd") as writer:
            for first in range(0, len(numbers), ROW_GROUP):
                rows = [answers.row(number) for number in numbers[first : first + ROW_GROUP]]
                # from_pylist with a schema keeps the answer's columns, and of each face the answer's fields.
                answer = pa.Table.from_pylist(rows, schema=SEGMENTS)
                given = manifest.table.slice(first, len(rows))
                writer.write_table(pa.Table.from_arrays([*given.columns, *answer.columns], schema=schema))
                for status, count in count_statuses(answer).items():
                    tally[status] += count
        if sum(tally.values()) != manifest.table.num_rows:
            raise AssertionError(f"{manifest.table.num_rows} rows in, {tally} rows out")
    return tally


def answer_is_current(manifest: Manifest, plan: Plan, run: Path, fingerprint: str) -> bool:
    """Whether the run's answer was made of just this: a million rows take minutes to write."""
    try:
        with pq.ParquetFile(run / ANSWER) as file:
            made_of = (file.schema_arrow.metadata or {}).get(b"basis", b"")
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError):
        return False
    basis = _basis(manifest, plan, run, fingerprint).encode()
    return bool(rows == manifest.table.num_rows and made_of == basis)


def _basis(manifest: Manifest, plan: Plan, run: Path, fingerprint: str) -> str:
    """A digest of what an answer is made of: the manifest and the shards' files, by their sizes and times."""
    file = manifest.path.stat()
    stamps = sorted((shard, *stamp) for shard, stamp in shard_stamps(run, STAGE).items())
    facts = (run.name, fingerprint, manifest.digest, file.st_size, file.st_mtime_ns, plan.shards, stamps)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class _Answers:
    """The outcomes of a run by the photos' numbers; a few shards are in memory at once."""

    def __init__(self, plan: Plan, run: Path, fingerprint: str) -> None:
        self.plan, self.run, self.fingerprint = plan, run, fingerprint
        self.shard = lru_cache(maxsize=SHARDS)(self._shard)
        self.shard_of = plan.table["shard"].to_pylist()

    def row(self, number: int) -> dict[str, Any]:
        """A photo's answer, with where it comes from."""
        shard = self.shard_of[number]
        item, outcome = self.shard(shard)[number]
        return {
            **asdict(outcome), "run": self.run.absolute().name, "shard": shard, "row": item.row,
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    def _shard(self, shard: int) -> dict[int, tuple[PlannedItem, Outcome]]:
        planned = self.plan.shard(shard)
        done = shard_is_done(self.run, STAGE, shard, self.fingerprint)
        outcomes = read_outcomes(self.run, STAGE, shard) if done else tuple(_lost(item) for item in planned)
        if [(one.index, one.image_id) for one in outcomes] != [(item.index, item.image_id) for item in planned]:
            path = items_path(self.run, STAGE, shard)
            raise ManifestError(f"{path}: its rows are not the photos of shard {shard}; {REDO}")
        return {item.index: (item, outcome) for item, outcome in zip(planned, outcomes, strict=True)}


def _lost(item: PlannedItem) -> Outcome:
    return Outcome(item.index, item.image_id, "failed", "ShardError", "shard was not processed; run the command again")
