"""Which finished shards have to be done again, because photos have changed or may be read by now."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem

from s3pot_batch.manifests.embedded import SCHEME as EMBEDDED
from s3pot_batch.manifests.embedded import manifest_of, read_embedded
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.finished import THREADS, finished
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.manifests.plan import Plan

STAGE = "references"
"""The one that reads photos."""
PASSING = ("MissingFile", "UnreadableFile", "FileTooSlow")
"""Failures whose reason may have passed."""
AT_ONCE = 4096
"""Files that a thread asks for their sizes and times."""
GONE = (-1, -1)


def changed_shards(run: Path, plan: Plan, *, retry_failed: bool = False) -> frozenset[int]:
    """The finished shards with a photo that is another one by now, or that failed and may come through.

    A local file is another one if its size or time differ and its SHA-256, too.

    Args:
        run: the run folder.
        plan: its plan.
        retry_failed: every failed photo may come through.
    """
    done = finished(run, STAGE).of(plan)
    if not done.table.num_rows:
        return frozenset()
    images = plan.table["image"].take(done.table["index"])
    failed = _booleans(pc.equal(done.table["status"], "failed"))
    passing = failed & _booleans(pc.is_in(done.table["error_type"], pa.array(PASSING)))
    remote = _booleans(pc.match_substring(images, "://"))
    again = (failed if retry_failed else passing & remote).copy()
    local = np.flatnonzero(~remote & ~again)
    files = images.take(pa.array(local)).to_pylist()
    then = np.stack([done.table[name].fill_null(-1).to_numpy()[local] for name in ("file_size", "file_time")], axis=1)
    now = _stamps_now(files, then, _booleans(pc.starts_with(images, EMBEDDED))[local])
    there = now[:, 0] >= 0  # of what is gone, what was made of it stays
    hopeful = np.flatnonzero(there & passing[local])
    again[local[hopeful]] = [_may_be_read(files[row]) for row in hopeful]
    suspects = local[there & (then[:, 0] >= 0) & (now != then).any(axis=1) & ~again[local]]
    again[suspects] = [_is_another(run, plan, int(done.table["index"][int(row)].as_py())) for row in suspects]
    return frozenset(np.unique(done.shard_of[again]).tolist())


def _stamps_now(files: Sequence[str], then: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Size and time of each file; of a photo inside its manifest, the manifest's time alone tells."""
    if not inside.any():
        return _stamps(files)
    now = _stamps([manifest_of(file) if within else file for file, within in zip(files, inside, strict=True)])
    now[inside, 0] = np.where(now[inside, 0] < 0, -1, then[inside, 0])
    return now


def _may_be_read(file: str) -> bool:
    """Whether it is a file by now, and not a folder or a pipe, and may be read."""
    return os.path.isfile(file) and os.access(file, os.R_OK)  # noqa: PTH113  (Path raises at odd names)


def _booleans(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(values.fill_null(pa.scalar(value=False)).to_numpy(zero_copy_only=False), bool)


def _stamps(files: Sequence[str]) -> NDArray[np.int64]:
    """Size and time of each file, N×2; −1 where there is none."""
    parts = [files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(_stamps_of, parts))
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def _stamps_of(files: Sequence[str]) -> NDArray[np.int64]:
    """The same of some files.

    Arrow asks for all of them while Python's other threads work. With a call for each, threads would spend more time
    on taking turns than on asking.
    """
    try:
        found = LocalFileSystem().get_file_info(list(files))
    except (OSError, ValueError):  # one of them has a name that Arrow takes for none
        return np.array([_stamp(file) for file in files], np.int64)
    columns = [one.size for one in found], [one.mtime_ns for one in found]
    return np.stack([pa.array(column, pa.int64()).fill_null(-1) for column in columns], axis=1)


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)  # noqa: PTH116 — of a million files, making the paths would take longer
    except (OSError, ValueError):
        return GONE
    return found.st_size, found.st_mtime_ns


def _is_another(run: Path, plan: Plan, number: int) -> bool:
    """Whether a photo's file has another content than was read."""
    item = plan.item(number)
    table = pq.read_table(items_path(run, STAGE, item.shard), columns=["index", "content"])
    before = table.filter(pc.equal(table["index"], number))["content"].to_pylist()
    if before == [None]:
        return True  # it was not read
    try:
        if item.image.startswith(EMBEDDED):
            return bool([hashlib.sha256(read_embedded(item.image)).hexdigest()] != before)
        with Path(item.image).open("rb") as file:
            return bool([hashlib.file_digest(file, "sha256").hexdigest()] != before)
    except (OSError, ManifestError, pa.ArrowException):
        return False
