"""Zarr arrays of a run: one shard of the plan is one Zarr shard, and one task writes it.

Tasks that share a Zarr shard corrupt it silently (zarr-python #3682); here the two boundaries are the same.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from manifests.files import read_items
from manifests.plan import Plan
from stages.errors import ShardError

ENCODING: dict[str, Any] = {"encoding": "s3pot-batch", "version": 1}
Contents = Mapping[str, tuple[str, int, str]]
CONTENTS: dict[str, Contents] = {
    "references.zarr": {
        "raw": ("uint8", 3, "aligned photo, RGB"),
        "reference": ("uint8", 3, "the same face with nothing in front of it, RGB"),
        "parsing": ("uint8", 0, "facer celebm/448 class id"),
        "region": ("uint8", 0, "1 inside the parsed face region M"),
    },
    "masks.zarr": {
        "occlusion": ("float16", 0, "probability that the pixel of the face is hidden, 1 = occluded"),
        "visible_face": ("uint8", 0, "1 where the face is seen"),
        "contrast": ("float16", 0, "1 − cosine of raw and reference tokens, at the frame's size"),
        "prompts": ("int8", 0, "at a prompt's pixel: 1 = face point, 2 = occlusion point, 0 elsewhere"),
    },
}
"""Arrays by store: dtype, channels (0: none), what a value means. Dimensions: row, y, x[, channel]."""


def create(run: Path, store: str, plan: Plan, frame: int, contents: Contents | None = None) -> None:
    """Create the store's arrays, empty, unless they are there; empty face slots take no space on disk.

    Args:
        run: the run folder.
        store: its name in there.
        plan: photos and shards.
        frame: side of every array's rows.
        contents: its arrays; by default what ``CONTENTS`` says.

    Raises:
        ShardError: the arrays that are there have another shape.
    """
    group = zarr.open_group(run / store, mode="a", zarr_format=3)
    group.attrs.update({**ENCODING, "shard_photos": plan.shard_size, "faces_per_photo": plan.max_faces})
    for name, (dtype, channels, meaning) in (contents or CONTENTS[store]).items():
        trailing = (channels,) if channels else ()
        shape = (plan.rows, frame, frame, *trailing)
        if name in group:
            there = array_of(group, name).shape
            if there != shape:
                raise ShardError(f"{run / store}/{name} is {there}, not {shape}; use another --run")
            continue
        dimensions = ("row", "y", "x", "channel")[: len(shape)]
        group.create_array(
            name, shape=shape, dtype=dtype, chunks=(1, frame, frame, *trailing),
            shards=(plan.shard_size * plan.max_faces, frame, frame, *trailing), dimension_names=dimensions,
            fill_value=0, attributes={"description": meaning},
        )  # fmt: skip
    with warnings.catch_warnings():  # one small file lets xarray open the store without asking for every array
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def array_of(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    """The array ``name`` of a store.

    Raises:
        ShardError: the store has something else by that name.
    """
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise ShardError(f"{group.store_path}/{name} is no array; remove the run folder and start again")
    return found


def write_shard(run: Path, store: str, plan: Plan, shard: int, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write whole Zarr shards: each array holds all face slots of the shard's photos, (slots, y, x[, channel])."""
    group = zarr.open_group(run / store, mode="r+")
    first = shard * plan.shard_size * plan.max_faces
    for name, values in arrays.items():
        array_of(group, name)[first : first + len(values)] = values


def read_rows(run: Path, store: str, name: str, rows: slice | list[int]) -> NDArray[np.generic]:
    """Rows of one array as NumPy."""
    array = array_of(zarr.open_group(run / store, mode="r"), name)
    if isinstance(rows, slice):
        return np.asarray(array[rows])
    return np.stack([np.asarray(array[row]) for row in rows])


def filled_rows(run: Path, plan: Plan, stage: str = "references") -> list[int]:
    """The Zarr rows that hold a face, in order, from the shards' items."""
    return [
        face["row"] for shard in range(plan.shards) for faces in read_items(run, stage, shard)["faces"].to_pylist()
        for face in faces
    ]  # fmt: skip
