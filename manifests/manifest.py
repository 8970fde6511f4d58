"""Reading a manifest: the user's table, checked, and what the pipeline needs of each row."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table
from s3pot_batch.manifests.schema import SEGMENTS


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: the user's table as it is, and what the pipeline needs of each row."""

    path: Path
    table: pa.Table
    images: tuple[str, ...]
    """Absolute path or fsspec URL of every photo."""
    image_ids: tuple[str, ...]
    bboxes: tuple[tuple[float, ...] | None, ...]
    landmarks: tuple[tuple[float, ...] | None, ...]
    digest: str
    """SHA-256 (hex) of images, ids, boxes and landmarks: another list of photos is another run."""


def read_manifest(path: Path, limit: int | None = None) -> Manifest:
    """Read and check a manifest; ``limit`` keeps its first rows only.

    Raises:
        ManifestError: naming the row (counted from 0) and the column.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; build one with: s3pot-batch index PHOTOS --out {path}")
    table = read_table(path, "convert a CSV with: s3pot-batch index")
    table = table.slice(0, limit) if limit is not None else table
    _check_columns(path, table)
    folder = path.parent.resolve()
    images = tuple(_location(path, folder, row, name) for row, name in enumerate(table["image"].to_pylist()))
    image_ids = _image_ids(path, table, folder, images)
    bboxes = _numbers(path, table, "bbox", count=4, levels=1)
    for row, bbox in enumerate(bboxes):
        if bbox and not (bbox[0] < bbox[2] and bbox[1] < bbox[3]):
            raise ManifestError(f"{path}: row {row}, column bbox: {bbox} is not x0 < x1, y0 < y1")
    landmarks = _numbers(path, table, "landmarks", count=10, levels=2)
    content = repr((images, image_ids, bboxes, landmarks)).encode()
    return Manifest(path, table, images, image_ids, bboxes, landmarks, hashlib.sha256(content).hexdigest())


def _check_columns(path: Path, table: pa.Table) -> None:
    if "image" not in table.column_names:
        raise ManifestError(f"{path}: no column image; it has {', '.join(table.column_names) or 'no columns'}")
    if not table.num_rows:
        raise ManifestError(f"{path}: the manifest has no rows")
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise ManifestError(f"{path}: column {repeated[0]} occurs twice; rename one")
    taken = sorted(set(table.column_names) & set(SEGMENTS.names))
    if taken:
        raise ManifestError(f"{path}: column {taken[0]} is a name of the answer's; rename it")
    for name in ("image", "image_id"):
        if name in table.column_names and not _is_text(table.schema.field(name).type):
            raise ManifestError(f"{path}: column {name} is {table.schema.field(name).type}, not text")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _location(path: Path, folder: Path, row: int, name: str | None) -> str:
    if not name:
        raise ManifestError(f"{path}: row {row}, column image: empty; every row needs a photo")
    if "://" in name or Path(name).is_absolute():
        return name
    if ".." in PurePosixPath(name).parts:
        raise ManifestError(
            f"{path}: row {row}, column image: {name} leaves the manifest's folder; use an absolute path"
        )
    return str(folder / name)


def _image_ids(path: Path, table: pa.Table, folder: Path, images: Sequence[str]) -> tuple[str, ...]:
    if "image_id" not in table.column_names:
        return _derived_ids(folder, images)
    seen: dict[str, int] = {}
    for row, name in enumerate(table["image_id"].to_pylist()):
        if not name:
            raise ManifestError(f"{path}: row {row}, column image_id: empty; drop the column or fill it")
        if name in seen:
            raise ManifestError(f"{path}: row {row}, column image_id: {name} is also row {seen[name]}; make it unique")
        seen[name] = row
    return tuple(seen)


def _derived_ids(folder: Path, images: Sequence[str]) -> tuple[str, ...]:
    """The path without its suffix; rows that share one keep the suffix, and repeated rows get a number."""
    names = [image.removeprefix(f"{folder}{os.sep}") for image in images]
    briefs = [os.path.splitext(name)[0] for name in names]  # noqa: PTH122  (pathlib would turn s3:// into s3:/)
    alike, used = Counter(briefs), Counter[str]()
    ids: dict[str, None] = {}
    for name, brief in zip(names, briefs, strict=True):
        base = candidate = name if alike[brief] > 1 else brief
        while candidate in ids:
            used[base] += 1
            candidate = f"{base}#{used[base] + 1}"
        ids[candidate] = None
    return tuple(ids)


def _numbers(
    path: Path, table: pa.Table, column: str, *, count: int, levels: int
) -> tuple[tuple[float, ...] | None, ...]:
    """Each row's ``count`` numbers, or None; with two ``levels``, pairs of numbers are flattened."""
    if column not in table.column_names:
        return tuple(None for _ in range(table.num_rows))
    kind, depth = table.schema.field(column).type, 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if not pa.types.is_null(kind) and not (_is_number(kind) and 1 <= depth <= levels):
        found = table.schema.field(column).type
        raise ManifestError(f"{path}: column {column} is {found}, not a list of {count} numbers")
    rows: list[tuple[float, ...] | None] = []
    for row, value in enumerate(table[column].to_pylist()):
        if value is None:
            rows.append(None)
            continue
        pairs = [list(pair or ()) for pair in value] if depth > 1 else []
        flat = [number for pair in pairs for number in pair] if depth > 1 else value
        uneven = any(len(pair) != 2 for pair in pairs)
        if uneven or len(flat) != count or any(number is None or not math.isfinite(number) for number in flat):
            raise ManifestError(f"{path}: row {row}, column {column}: {value} is not {count} finite numbers")
        rows.append(tuple(float(number) for number in flat))
    return tuple(rows)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
