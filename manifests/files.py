"""Reading manifests, and the files that a run writes: always whole, never half."""

import hashlib
import math
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import ManifestError
from manifests.schema import ITEM_SCHEMA, SCHEMA_VERSION, SEGMENTS, STATUSES

REDO = "delete it and run the command again"


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


def read_table(path: Path, advice: str = REDO) -> pa.Table:
    """Read one Parquet file whole.

    Raises:
        ManifestError: it cannot be read; the text ends with ``advice``.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table() refuses repeated column names before we can name them
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, advice) from error


def _unreadable(path: Path, error: Exception, advice: str) -> ManifestError:
    return ManifestError(f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())}); {advice}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved into place at the end, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``table`` with ``metadata`` and the schema's version, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(file_metadata(table, metadata)), temporary, compression="zstd")


def file_metadata(table: pa.Table, metadata: Mapping[str, str] | None = None) -> dict[bytes, bytes]:
    """The metadata of a file that holds ``table``: its own, the schema's version, and ``metadata``."""
    added = {"schema_version": str(SCHEMA_VERSION), **(metadata or {})}
    return {**(table.schema.metadata or {}), **{key.encode(): value.encode() for key, value in added.items()}}


def items_path(run: Path, stage: str, shard: int) -> Path:
    """Where the outcome of one shard of one stage stands."""
    return run / "items" / stage / f"{shard:05d}.parquet"


def write_items(run: Path, stage: str, shard: int, rows: Sequence[Mapping[str, object]], fingerprint: str) -> None:
    """Write a finished shard's rows; this file is the shard's completion marker and is written last.

    Raises:
        ValueError: a row has an unknown column or status. (Arrow alone would drop the column in silence.)
    """
    for row in rows:
        unknown = sorted(set(row) - set(ITEM_SCHEMA.names))
        if unknown or row.get("status") not in STATUSES:
            found = f"column {unknown[0]}" if unknown else f"status {row.get('status')!r}"
            raise ValueError(f"{stage}, shard {shard}, photo {row.get('image_id')}: unknown {found}")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=ITEM_SCHEMA)
    write_parquet(table, items_path(run, stage, shard), {"fingerprint": fingerprint, "stage": stage})


def read_items(run: Path, stage: str, shard: int) -> pa.Table:
    """The outcome of a finished shard (``ITEM_SCHEMA``).

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    path = items_path(run, stage, shard)
    if not path.exists():
        raise ManifestError(f"{path}: shard {shard} of {stage} is not finished; run that stage first")
    return read_table(path)


def shard_is_done(run: Path, stage: str, shard: int, fingerprint: str) -> bool:
    """Whether the shard was finished with this fingerprint.

    Raises:
        ManifestError: it was finished with another one, or its file is damaged.
    """
    path = items_path(run, stage, shard)
    if not path.exists():
        return False
    try:
        found = (pq.read_schema(path).metadata or {}).get(b"fingerprint", b"").decode()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, REDO) from error
    if found != fingerprint:
        raise ManifestError(
            f"{path} was made with other settings ({found[:12]} ≠ {fingerprint[:12]}); use another --run"
        )
    return True


def counts(table: pa.Table) -> dict[str, int]:
    """How many rows of an items or answer table have which status."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(table["status"].combine_chunks()).to_pylist()}
