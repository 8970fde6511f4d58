"""The answer: ``segments.parquet``, one row per input row."""

import hashlib
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from s3pot_batch.manifests.errors import DamagedOutcomes, ManifestError
from s3pot_batch.manifests.files import REDO, file_metadata, replacing
from s3pot_batch.manifests.finished import shard_stamps
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.origin import made_of
from s3pot_batch.manifests.outcomes import Outcome, count_statuses, items_path, read_items, shard_is_done
from s3pot_batch.manifests.plan import Plan, PlannedItem
from s3pot_batch.manifests.schema import ANSWER_VERSION, FACE_ANSWER, ITEM_SCHEMA, SEGMENTS, STATUSES

STAGE = "segments"
ANSWER = "segments.parquet"
WRITTEN = f".{ANSWER}.written"
"""The answer's size and time (nanoseconds): if they are others, somebody or something has changed it since."""
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
        ManifestError: an items file is of other settings.
        DamagedOutcomes: one is damaged, or of other photos.
    """
    schema = pa.schema([*manifest.table.schema, *SEGMENTS])
    basis = _basis(manifest, plan, run, fingerprint)
    origin = made_of(manifest.origin, manifest.table) if manifest.origin else {}
    facts = {"schema_version": str(ANSWER_VERSION), "fingerprint": fingerprint, "basis": basis}
    metadata = file_metadata(manifest.table, facts | origin)
    tally, answers = dict.fromkeys(STATUSES, 0), _Answers(plan, run, fingerprint)
    numbers = plan.numbers(manifest.image_ids)
    if (numbers < 0).any():
        raise ManifestError(f"{run} is not planned for {manifest.image_ids[numbers.argmin()]}; run the command again")
    with replacing(out or run / ANSWER) as temporary:
        with pq.ParquetWriter(
            temporary, schema.with_metadata(metadata), compression="zstd", write_page_checksum=True
        ) as writer:
            for first in range(0, len(numbers), ROW_GROUP):
                answer = answers.rows(numbers[first : first + ROW_GROUP])
                given = manifest.table.slice(first, answer.num_rows)
                writer.write_table(pa.Table.from_arrays([*given.columns, *answer.columns], schema=schema))
                for status, count in count_statuses(answer).items():
                    tally[status] += count
        if sum(tally.values()) != manifest.table.num_rows:
            raise AssertionError(f"{manifest.table.num_rows} rows in, {tally} rows out")
    if out is None:
        with replacing(run / WRITTEN) as temporary:
            temporary.write_text(_stamp(run / ANSWER), encoding="utf-8")
    return tally


def answer_is_current(manifest: Manifest, plan: Plan, run: Path, fingerprint: str) -> bool:
    """Whether the run's answer was made of just this: a million rows take minutes to write."""
    if was_written(run) is False:
        return False
    try:
        with pq.ParquetFile(run / ANSWER) as file:
            said = (file.schema_arrow.metadata or {}).get(b"basis", b"")
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError):
        return False
    basis = _basis(manifest, plan, run, fingerprint).encode()
    return bool(rows == manifest.table.num_rows and said == basis)


def was_written(run: Path) -> bool | None:
    """Whether the answer is the file that was written, by its size and time; ``None`` where nobody knows."""
    try:
        return (run / WRITTEN).read_text(encoding="utf-8") == _stamp(run / ANSWER)
    except FileNotFoundError:
        return False if (run / WRITTEN).exists() else None


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _basis(manifest: Manifest, plan: Plan, run: Path, fingerprint: str) -> str:
    """A digest of what an answer is made of: the manifest and the shards' files, by their sizes and times."""
    file = manifest.path.stat()
    stamps = sorted((shard, *stamp) for shard, stamp in shard_stamps(run, STAGE).items())
    facts = (run.name, fingerprint, manifest.digest, file.st_size, file.st_mtime_ns, plan.shards, stamps)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class _Answers:
    """The outcomes of a run by the photos' numbers; a few shards are in memory at once.

    They stay Arrow's from file to file: as objects of Python, a million of them would take minutes.
    """

    def __init__(self, plan: Plan, run: Path, fingerprint: str) -> None:
        self.plan, self.run, self.fingerprint = plan, run, fingerprint
        self.shard = lru_cache(maxsize=SHARDS)(self._shard)

    def rows(self, numbers: NDArray[np.int64]) -> pa.Table:
        """Some photos' answers, in order, with where they come from; of schema ``SEGMENTS``."""
        shard_of = self.plan.shard_of(numbers)
        by_shard = np.argsort(shard_of, kind="stable")
        shards, first = np.unique(shard_of[by_shard], return_index=True)
        parts = [
            self.shard(shard).take(pa.array(part - self.plan.first_of(shard)))
            for shard, part in zip(shards.tolist(), np.split(numbers[by_shard], first[1:]), strict=True)
        ]
        return pa.concat_tables(parts).take(pa.array(np.argsort(by_shard)))

    def _shard(self, shard: int) -> pa.Table:
        planned, path = self.plan.part(shard), items_path(self.run, STAGE, shard)
        if shard_is_done(self.run, STAGE, shard, self.fingerprint):
            outcomes = read_items(self.run, STAGE, shard)
        else:
            lost = [asdict(_lost(item)) for item in self.plan.shard(shard)]
            outcomes = pa.Table.from_pylist(lost, ITEM_SCHEMA)
        if any(outcomes[name].to_pylist() != planned[name].to_pylist() for name in ("index", "image_id")):
            raise DamagedOutcomes(STAGE, shard, f"{path}: its rows are not the photos of shard {shard}; {REDO}")
        facts = {"run": self.run.absolute().name, "shard": shard, "fingerprint": self.fingerprint}
        columns = {name: pa.repeat(value, planned.num_rows) for name, value in facts.items()}
        columns |= {"row": planned["row"], "faces": _faces(outcomes["faces"])}
        table = [columns.get(name, outcomes[name] if name in ITEM_SCHEMA.names else None) for name in SEGMENTS.names]
        return pa.Table.from_arrays(table, SEGMENTS.names).cast(SEGMENTS)


def _faces(faces: pa.ChunkedArray) -> pa.ListArray:
    """The faces of items with the fields that the answer has."""
    whole = faces.combine_chunks()
    fields = [whole.values.field(field.name) for field in FACE_ANSWER]
    return pa.ListArray.from_arrays(whole.offsets, pa.StructArray.from_arrays(fields, fields=list(FACE_ANSWER)))


def _lost(item: PlannedItem) -> Outcome:
    return Outcome(item.index, item.image_id, "failed", "ShardError", "shard was not processed; run the command again")
