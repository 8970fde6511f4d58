"""Reading manifests, and the files that a run writes: always whole, never half."""

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import ManifestError
from manifests.schema import ANSWER, ITEMS, SCHEMA_VERSION


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
    """SHA-256 of everything above: another list of photos is another run."""


def read_manifest(path: Path, limit: int | None = None) -> Manifest:
    """Read and check a manifest; ``limit`` keeps its first rows only.

    Raises:
        ManifestError: naming the row (counted from 0) and the column.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; build one with: s3pot-batch index PHOTOS --out {path}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{path}: not a Parquet file ({error}); convert a CSV with: s3pot-batch index") from error
    table = table.slice(0, limit) if limit is not None else table
    _check_columns(path, table)
    folder = path.parent.resolve()
    names = table["image"].to_pylist()
    images = tuple(_location(path, folder, row, name) for row, name in enumerate(names))
    image_ids = _image_ids(path, table, folder, images)
    bboxes = tuple(_numbers(path, table, "bbox", row, 4) for row in range(len(names)))
    for row, bbox in enumerate(bboxes):
        if bbox and not (bbox[0] < bbox[2] and bbox[1] < bbox[3]):
            raise ManifestError(f"{path}: row {row}, column bbox: {bbox} is not x0 < x1, y0 < y1")
    landmarks = tuple(_numbers(path, table, "landmarks", row, 10) for row in range(len(names)))
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
    taken = sorted(set(table.column_names) & set(ANSWER.names))
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
    stems = [
        str(Path(image).relative_to(folder)) if image.startswith(f"{folder}{os.sep}") else image for image in images
    ]
    short = [str(PurePosixPath(stem).with_suffix("")) for stem in stems]
    count = {name: short.count(name) for name in set(short)} if len(set(short)) < len(short) else {}
    seen: set[str] = set()
    names = []
    for stem, brief in zip(stems, short, strict=True):
        name = stem if count.get(brief, 1) > 1 else brief
        base, n = name, 1
        while name in seen:
            n += 1
            name = f"{base}#{n}"
        seen.add(name)
        names.append(name)
    return tuple(names)


def _numbers(path: Path, table: pa.Table, column: str, row: int, count: int) -> tuple[float, ...] | None:
    value = table[column][row].as_py() if column in table.column_names else None
    if value is None:
        return None
    try:
        flat = [float(x) for part in value for x in (part if isinstance(part, list) else [part])]
    except (TypeError, ValueError):
        flat = []
    if len(flat) != count or not all(abs(x) < float("inf") for x in flat):
        raise ManifestError(f"{path}: row {row}, column {column}: {value} is not {count} finite numbers")
    return tuple(flat)


def write_parquet(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``table`` under a temporary name and move it into place, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = {**(table.schema.metadata or {}), b"schema_version": str(SCHEMA_VERSION).encode()}
    merged |= {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        pq.write_table(table.replace_schema_metadata(merged), temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def items_path(run: Path, stage: str, shard: int) -> Path:
    """Where the outcome of one shard of one stage stands."""
    return run / "items" / stage / f"{shard:05d}.parquet"


def write_items(run: Path, stage: str, shard: int, rows: Sequence[Mapping[str, object]], fingerprint: str) -> None:
    """Write a finished shard's rows; this file is the shard's completion marker and is written last."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=ITEMS)
    write_parquet(table, items_path(run, stage, shard), {"fingerprint": fingerprint, "stage": stage})


def read_items(run: Path, stage: str, shard: int) -> pa.Table:
    """The outcome of a finished shard."""
    return pq.read_table(items_path(run, stage, shard))


def shard_is_done(run: Path, stage: str, shard: int, fingerprint: str) -> bool:
    """Whether the shard was finished with this fingerprint.

    Raises:
        ManifestError: it was finished with another one.
    """
    path = items_path(run, stage, shard)
    if not path.exists():
        return False
    found = (pq.read_schema(path).metadata or {}).get(b"fingerprint", b"").decode()
    if found != fingerprint:
        raise ManifestError(
            f"{path} was made with other settings ({found[:12]} ≠ {fingerprint[:12]}); use another --run"
        )
    return True


def counts(table: pa.Table) -> dict[str, int]:
    """How many rows of an items or answer table have which status."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(table["status"].combine_chunks()).to_pylist()}
