"""Manifests that hold the photos: structs with ``bytes`` in the column ``image``, as in Hugging Face datasets."""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table, unreadable

SCHEME = "manifest-row:"
CONVERT = "convert a CSV with: s3pot-batch index"


def read_photo_table(path: Path) -> tuple[pa.Table, bool]:
    """A manifest's table, and whether its photos lie in it: these stay there, and ``image`` is what they are called.

    Raises:
        ManifestError: it is no Parquet file that can be read.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, CONVERT) from error
    kind = schema.field("image").type if schema.names.count("image") == 1 else pa.null()
    parts = [field.name for field in kind] if pa.types.is_struct(kind) else []
    if "bytes" not in parts:
        return read_table(path, CONVERT), False
    with pq.ParquetFile(path) as file:
        paths = ["image.path"] if "path" in parts else []
        table = file.read(columns=[*(name for name in schema.names if name != "image"), *paths])
        rows = file.metadata.num_rows
    image = table["image"].combine_chunks().field("path") if paths else pa.nulls(rows, pa.string())
    rest = table.drop_columns(["image"]) if paths else table
    named = [name or f"row-{row}" for row, name in enumerate(image.to_pylist())]
    return rest.add_column(schema.names.index("image"), "image", pa.array(named, pa.string())), True


def embedded_location(path: Path, row: int) -> str:
    """What :func:`read_embedded` takes."""
    return f"{SCHEME}{row}:{path.resolve()}"


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
