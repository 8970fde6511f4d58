"""What all finished shards of a stage hold, at a glance: a million photos' statuses without opening thousands of files.

The shards' own files stay the truth. What is asked most is kept beside their folder in one file, and a shard's part of
it is believed for as long as its own file has the same size and time.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import numbers, read_table, write_parquet
from s3pot_batch.manifests.outcomes import fingerprint_of, items_path
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.manifests.schema import FINISHED, STATUSES

COLUMNS = [name for name in FINISHED.names if name not in ("shard", "made", "bytes", "fingerprint")]
"""What is read out of a shard's own file."""
WORTH_KEEPING = 64
"""Shards that are read anew before the file is written anew."""
Stamps = dict[int, tuple[int, int]]
"""Bytes and time (nanoseconds) of finished shards' files."""
THREADS = 8
"""Files that are asked at once."""


@dataclass(frozen=True)
class Finished:
    """The finished shards of one stage."""

    table: pa.Table
    """Of schema ``FINISHED``, a row per photo, by shard."""

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(_starts(self.shard_of))

    @cached_property
    def fingerprints(self) -> dict[int, str]:
        """What each finished shard was made with."""
        first = _starts(self.shard_of)
        made = self.table["fingerprint"].take(pa.array(first)).to_pylist()
        return dict(zip(self.shard_of[first].tolist(), made, strict=True))

    @cached_property
    def shard_of(self) -> NDArray[np.int32]:
        """Each row's shard."""
        return numbers(self.table["shard"])

    def of(self, plan: Plan) -> "Finished":
        """The same without the photos that the manifest lists no more."""
        wanted = plan.wanted_photos
        rows = numbers(self.table["index"])
        known = rows < len(wanted)  # a run folder may hold more than a damaged plan knows
        keep = known & wanted[np.where(known, rows, 0)] if len(wanted) else known
        return self if keep.all() else Finished(self.table.filter(pa.array(keep)))

    def misplaced(self, plan: Plan) -> set[int]:
        """Shards whose file is of other photos than the plan says."""
        rows = numbers(self.table["index"])
        known = rows < plan.table.num_rows
        elsewhere = ~known | (plan.shard_of(np.where(known, rows, 0)) != self.shard_of)
        return set(np.unique(self.shard_of[elsewhere]).tolist())

    @property
    def statuses(self) -> dict[str, int]:
        """How many photos have which status."""
        counts = pc.value_counts(self.table["status"]).to_pylist()
        return dict.fromkeys(STATUSES, 0) | {entry["values"]: entry["counts"] for entry in counts}

    def failures(self, plan: Plan) -> list[dict[str, str]]:
        """``image_id``, ``error_type`` and ``error`` of each photo that failed."""
        failed = self.table.filter(pc.equal(self.table["status"], "failed"))
        named = failed.append_column("image_id", plan.table["image_id"].take(failed["index"]))
        rows: list[dict[str, str]] = named.select(["image_id", "error_type", "error"]).to_pylist()
        return rows


_LAST: dict[tuple[Path, str], tuple[Stamps, Finished]] = {}
"""What was answered last, and for which files: a command asks several times."""


def finished(run: Path, stage: str) -> Finished:
    """The finished shards of a stage; one whose file is damaged is not finished."""
    there = shard_stamps(run, stage)
    if _LAST.get((run, stage), (None, None))[0] == there:
        return _LAST[run, stage][1]
    found = Finished(_table(run, stage, there))
    _LAST[run, stage] = there, found
    return found


def _table(run: Path, stage: str, there: Stamps) -> pa.Table:
    kept, known = _kept(run, stage, there)
    new = sorted(set(there) - known)
    with ThreadPoolExecutor(THREADS) as threads:
        read = [table for table in threads.map(lambda shard: _read(run, stage, shard, there[shard]), new) if table]
    table = kept
    if read:
        table = pa.concat_tables([kept, *read]).unify_dictionaries()
        table = table.take(pc.sort_indices(table, [("shard", "ascending"), ("index", "ascending")])).combine_chunks()
    if len(read) >= WORTH_KEEPING:
        with suppress(OSError):  # of a run folder that may only be read, it is asked anew each time
            write_parquet(table, _path(run, stage))
    return table


def _path(run: Path, stage: str) -> Path:
    return run / "items" / f"{stage}.parquet"


def shard_stamps(run: Path, stage: str) -> Stamps:
    """Bytes and time (nanoseconds) of each finished shard's file."""
    folder = items_path(run, stage, 0).parent
    if not folder.exists():
        return {}
    with os.scandir(folder) as entries:
        return {int(name): stamp for name, stamp in _stamps(entries) if name.isdecimal()}


def _stamps(entries: Iterator["os.DirEntry[str]"]) -> Iterator[tuple[str, tuple[int, int]]]:
    for entry in entries:
        if entry.name.endswith(".parquet"):
            found = entry.stat()
            yield entry.name.removesuffix(".parquet"), (found.st_size, found.st_mtime_ns)


def _kept(run: Path, stage: str, there: Stamps) -> tuple[pa.Table, set[int]]:
    """What was kept of the shards whose files are still the same, and which shards these are."""
    nothing = pa.Table.from_batches([], FINISHED), set[int]()
    if not there or not _path(run, stage).exists():
        return nothing
    try:
        table = read_table(_path(run, stage))
    except ManifestError:
        return nothing  # damaged: the shards' own files say the same
    if not table.schema.equals(FINISHED):  # of another version
        return nothing
    shard, size, made = (numbers(table[name]) for name in ("shard", "bytes", "made"))
    first = _starts(shard)  # of a million photos, only each shard's first is looked at
    stamps = zip(shard[first].tolist(), zip(size[first].tolist(), made[first].tolist(), strict=True), strict=True)
    same = np.array([there.get(number) == stamp for number, stamp in stamps], bool)
    known = set(shard[first][same].tolist())
    if same.all():
        return table, known
    return table.filter(pa.array(np.repeat(same, np.diff(first, append=len(shard))))), known


def _starts(shard: NDArray[np.int32]) -> NDArray[np.int64]:
    """The first row of each shard, of rows by shard."""
    return np.flatnonzero(np.concatenate([[True], shard[1:] != shard[:-1]])[: len(shard)])


def _read(run: Path, stage: str, shard: int, stamp: tuple[int, int]) -> pa.Table | None:
    """A shard's rows out of its own file, or ``None`` if it is damaged."""
    try:
        with pq.ParquetFile(items_path(run, stage, shard), page_checksum_verification=True) as file:
            made = fingerprint_of(file)
            table = file.read(columns=COLUMNS)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return None
    rows = table.num_rows
    facts = {"shard": shard, "bytes": stamp[0], "made": stamp[1], "fingerprint": made}
    for name, value in facts.items():
        table = table.append_column(name, pa.array([value] * rows, FINISHED.field(name).type))
    try:
        return table.select(FINISHED.names).cast(FINISHED)
    except (KeyError, pa.ArrowException):
        return None  # of a version that held less
