"""Zarr arrays of a run: one shard of the plan is one Zarr shard, and one task writes it.

Tasks that share a Zarr shard corrupt it silently (zarr-python #3682); here the two boundaries are the same.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.manifests.files import sync
from s3pot_batch.manifests.outcomes import Checksums, items_path, read_checksums, read_outcomes
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.stages.base import STAGES
from s3pot_batch.stages.errors import DamagedData, ShardError

ENCODING: dict[str, Any] = {"encoding": "s3pot-batch", "version": 1}


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: a square picture per Zarr row."""

    dtype: str
    side: int
    meaning: str
    channels: int = 0
    """0: no channel dimension."""

    def shape(self, rows: int) -> tuple[int, ...]:
        """(rows, y, x[, channel])."""
        return (rows, self.side, self.side, *((self.channels,) if self.channels else ()))


SHUFFLES: Mapping[str, Literal["bitshuffle"]] = {"uint8": "bitshuffle"}
"""How bits or bytes are sorted before they are compressed, where it is not by bytes; either takes less disk."""


def create(path: Path, plan: Plan, arrays: Mapping[str, ArraySpec]) -> None:
    """Create a store's arrays, empty, unless they are there; empty face slots take no space on disk.

    An array whose metadata is damaged gets it anew; its data is looked at row by row when it is read.

    Args:
        path: the store's folder.
        plan: photos and shards.
        arrays: what is in it, by name.

    Raises:
        ShardError: the arrays that are there have another shape.
    """
    for folder in (path, *(path / name for name in arrays)):
        if not _opens(folder):
            (folder / "zarr.json").unlink()
    group = zarr.open_group(path, mode="a", zarr_format=3, use_consolidated=False)
    group.attrs.update({**ENCODING, "shard_photos": plan.shard_size, "faces_per_photo": plan.max_faces})
    for name, spec in arrays.items():
        shape = spec.shape(plan.rows)
        if name in group:
            there = array_of(group, name).shape
            if there[1:] != shape[1:]:
                raise ShardError(f"{path}/{name} is {there}, not {shape}; use another --run")
            if there[0] < shape[0]:  # photos were added
                array_of(group, name).resize(shape)
            continue
        group.create_array(
            name, shape=shape, dtype=spec.dtype, chunks=spec.shape(1),
            shards=spec.shape(plan.shard_size * plan.max_faces),
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle=SHUFFLES.get(spec.dtype, "shuffle")),
            chunk_key_encoding={"name": "default", "separator": "."},  # a folder per dimension would triple the inodes
            dimension_names=("row", "y", "x", "channel")[: len(shape)], fill_value=0,
            attributes={"description": spec.meaning},
        )  # fmt: skip
    with warnings.catch_warnings():  # one small file lets xarray open the store without asking for every array
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def _opens(folder: Path) -> bool:
    """Whether a group or an array can be opened; one that is not there yet counts as well."""
    if not (folder / "zarr.json").exists():
        return True
    try:
        zarr.open(folder, mode="r", zarr_format=3)
    except Exception:  # noqa: BLE001 — half a JSON file, one with other keys, one of zeros: each raises something else
        return False
    return True


def array_of(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    """The array ``name`` of a store.

    Raises:
        ShardError: the store has something else by that name.
    """
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise ShardError(f"{group.store_path}/{name} is no array; remove the run folder and start again")
    return found


def write_rows(
    path: Path, arrays: Mapping[str, ArraySpec], rows: range, values: Mapping[int, Mapping[str, NDArray[np.generic]]]
) -> Checksums:
    """Write whole Zarr shards, down to the disk.

    Args:
        path: the store's folder.
        arrays: what is in it.
        rows: all rows of a shard's photos.
        values: what goes where, by row and array; the other rows stay empty.

    Returns:
        What :func:`read_row` holds the filled rows against.
    """
    group = zarr.open_group(path, mode="r+")
    sums: Checksums = {row: {} for row in values}
    for name, spec in arrays.items():
        whole = np.zeros(spec.shape(len(rows)), spec.dtype)
        for row, named in values.items():
            whole[row - rows.start] = named[name]
            sums[row][name] = checksum(whole[row - rows.start])
        array = array_of(group, name)
        shard = (rows.start // (array.shards or (1,))[0], *(0 for _ in array.shape[1:]))
        file = path / name / array.metadata.encode_chunk_key(shard)
        file.unlink(missing_ok=True)  # Zarr would read what is there first, and may find it damaged
        if values:  # of a shard without a face there is no file, which Zarr takes 10 ms to find out
            array[rows.start : rows.stop] = whole
            sync(file)
    return sums


def checksum(values: NDArray[np.generic]) -> str:
    """A hash of an array's values."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).hexdigest()


def read_rows(path: Path, name: str, rows: slice | list[int]) -> NDArray[np.generic]:
    """Rows of one array of a store as NumPy, as they are."""
    array = array_of(zarr.open_group(path, mode="r"), name)
    if isinstance(rows, slice):
        return np.asarray(array[rows])
    return np.stack([np.asarray(array[row]) for row in rows])


def read_row(path: Path, row: int, *names: str) -> tuple[NDArray[Any], ...]:
    """One row of several arrays of the store that a stage of a run has written.

    Raises:
        DamagedData: it is not what was written there. Zarr gives zeros for a file that is gone.
    """
    shard, stage = 0, _stage_of(path)
    try:
        opened = _opened(path, (path / "zarr.json").stat().st_mtime_ns)
        shard = row // opened.rows_per_shard
        values = tuple(np.asarray(opened.array(name)[row]) for name in names)
    except (MemoryError, ShardError):
        raise
    except Exception as error:
        raise DamagedData(stage, shard, f"{path}: row {row} cannot be read ({one_line(error)})") from error
    written = _checksums(path.parent, stage, shard).get(row, {})
    for name, found in zip(names, values, strict=True):
        if name in written and checksum(found) != written[name]:
            raise DamagedData(stage, shard, f"{path}/{name}: row {row} is not what was written there")
    return values


class _Opened:
    """A store whose metadata was read: to read it again for every row would take longer than the row."""

    def __init__(self, path: Path) -> None:
        self.group = zarr.open_group(path, mode="r")
        attributes = self.group.attrs
        self.rows_per_shard = cast("int", attributes["shard_photos"]) * cast("int", attributes["faces_per_photo"])
        self.arrays: dict[str, zarr.Array[Any]] = {}

    def array(self, name: str) -> "zarr.Array[Any]":
        if name not in self.arrays:
            self.arrays[name] = array_of(self.group, name)
        return self.arrays[name]


@lru_cache(maxsize=16)
def _opened(path: Path, changed: int) -> _Opened:
    del changed  # a part of the key: photos were added, or the store was made anew
    return _Opened(path)


def _stage_of(path: Path) -> str:
    """The stage that writes a store; of one that is none of a run's, its own name."""
    return next((stage.name for stage in STAGES if stage.store == path.name), path.stem)


def _checksums(run: Path, stage: str, shard: int) -> Checksums:
    path = items_path(run, stage, shard)
    return _remembered(run, stage, shard, path.stat().st_mtime_ns) if path.exists() else {}


@lru_cache(maxsize=64)
def _remembered(run: Path, stage: str, shard: int, changed: int) -> Checksums:
    del changed  # a part of the key
    return read_checksums(run, stage, shard)


def filled_rows(run: Path, plan: Plan, stage: str = "references") -> list[int]:
    """The Zarr rows that hold a face, in order, from the shards' outcomes."""
    return [
        face.row for shard in plan.wanted_shards for outcome in read_outcomes(run, stage, shard)
        for face in outcome.faces
    ]  # fmt: skip
