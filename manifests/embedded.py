"""Manifests that hold the photos: structs with ``bytes`` in the column ``image``, as in Hugging Face datasets.

Where there are none, their ``path`` is the photo's.
"""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table, unreadable

SCHEME = "manifest-row:"
CONVERT = "convert a CSV with: s3pot-batch index"


def read_photo_table(path: Path) -> tuple[pa.Table, NDArray[np.bool_] | None]:
    """A manifest's table, and which of its photos lie in it, if any does; ``image`` is the others' path, or a name.

    Raises:
        ManifestError: it is no Parquet file that can be read, or what it holds are no photos.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, CONVERT) from error
    kind = schema.field("image").type if schema.names.count("image") == 1 else pa.null()
    parts = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    if not set(parts) & {"bytes", "path"}:
        return read_table(path, CONVERT), None
    for part, fits, wanted in (("bytes", _is_binary, "binary"), ("path", is_text, "text")):
        if part in parts and not (fits(parts[part]) or pa.types.is_null(parts[part])):
            raise ManifestError(f"{path}: column image: its {part} is {parts[part]}, not {wanted}")
    with pq.ParquetFile(path) as file:
        others = [name for name in schema.names if name != "image"]
        table = file.read(columns=[*others, *(["image.path"] if "path" in parts else [])])
        inside = _filled(file) if "bytes" in parts else np.zeros(table.num_rows, bool)
    image = table["image"].combine_chunks().field("path") if "path" in parts else pa.nulls(len(inside), pa.string())
    rest = table.drop_columns(["image"]) if "path" in parts else table
    named = pc.coalesce(image.cast(pa.string()), pa.array([f"row-{row}" for row in range(len(inside))], pa.string()))
    if "bytes" in parts:  # of a row that has neither, one can say no more
        inside |= ~np.asarray(image.is_valid().to_numpy(zero_copy_only=False), bool)
    return rest.add_column(schema.names.index("image"), "image", named), inside


def holds_photos(path: Path) -> bool:
    """Whether a file is there and is a manifest whose images are structs."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return schema.names.count("image") == 1 and bool(pa.types.is_struct(schema.field("image").type))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of that type holds text, however it is stored."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _filled(file: pq.ParquetFile) -> NDArray[np.bool_]:
    """Which rows hold a photo's bytes; these are looked at only where the file says that some are missing."""
    at = next(n for n in range(len(file.schema)) if file.schema.column(n).path == "image.bytes")
    found = [np.zeros(0, bool)]
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        known = facts.column(at).statistics
        if known is not None and known.has_null_count and known.null_count == 0:
            found.append(np.ones(facts.num_rows, bool))
            continue
        image = file.read_row_group(group, columns=["image.bytes"])["image"].combine_chunks()
        found.append(np.asarray(image.field("bytes").is_valid().to_numpy(zero_copy_only=False), bool))
    return np.concatenate(found)


def embedded_location(path: Path, row: int) -> str:
    """What :func:`read_embedded` takes."""
    return f"{SCHEME}{row}:{path.resolve()}"


def manifest_of(location: str) -> str:
    """The manifest that an :func:`embedded_location` is in."""
    return location.removeprefix(SCHEME).split(":", 1)[1]


def read_embedded(location: str) -> bytes:
    """The photo at an :func:`embedded_location`.

    Raises:
        ManifestError: the manifest has changed, or the row holds no bytes.
    """
    row, path = location.removeprefix(SCHEME).split(":", 1)
    group, within = _place(path, Path(path).stat().st_mtime_ns, int(row))
    content = _photos(path, Path(path).stat().st_mtime_ns, group)[within].as_py()
    if content is None:
        raise ManifestError(f"{path}: row {row}, column image: its bytes are empty")
    return bytes(content)


@lru_cache(maxsize=8)
def _starts(path: str, changed: int) -> tuple[int, ...]:
    """The first row of every row group, and the number of rows."""
    del changed  # a part of the key
    with pq.ParquetFile(path) as file:
        starts = [0]
        for group in range(file.num_row_groups):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return tuple(starts)


def _place(path: str, changed: int, row: int) -> tuple[int, int]:
    starts = _starts(path, changed)
    for group, (first, following) in enumerate(pairwise(starts)):
        if first <= row < following:
            return group, row - first
    raise ManifestError(f"{path}: it has no row {row} any more")


@lru_cache(maxsize=1)
def _photos(path: str, changed: int, group: int) -> pa.Array:
    """The photos of one row group; a shard's rows follow each other, so the next photo is mostly in it, too."""
    del changed
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["image.bytes"])["image"].combine_chunks().field("bytes")
