"""Files that a run writes: always whole, never half."""

import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.manifests.schema import SCHEMA_VERSION

REDO = "delete it and run the command again"


def read_table(path: Path, advice: str = REDO, columns: Collection[str] | None = None) -> pa.Table:
    """Read one Parquet file, or those of some columns that it has.

    Raises:
        ManifestError: it cannot be read; the text ends with ``advice``.
    """
    try:
        # pq.read_table() refuses repeated column names before we can name them
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(None if columns is None else [name for name in file.schema_arrow.names if name in columns])
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, advice) from error


def numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, none of them null; Arrow's own ways to NumPy import pandas first: a third of a second."""
    if not len(column):
        return np.zeros(0, np.int64)
    return np.from_dlpack(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())


def unreadable(path: Path, error: Exception, advice: str = REDO) -> ManifestError:
    """The error that says that a file is no Parquet file."""
    return ManifestError(f"{path}: not a Parquet file that can be read ({one_line(error)}); {advice}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved into place at the end, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")  # a long name would grow too long
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make sure that a file is on the disk, so that what says "finished" is never there before what was finished."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_parquet(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``table`` with ``metadata`` and the schema's version, whole or not at all, down to the disk."""
    with replacing(path) as temporary:
        whole = table.replace_schema_metadata(file_metadata(table, metadata))
        pq.write_table(whole, temporary, compression="zstd", write_page_checksum=True)
        sync(temporary)


def file_metadata(table: pa.Table, metadata: Mapping[str, str] | None = None) -> dict[bytes, bytes]:
    """The metadata of a file that holds ``table``: its own, the schema's version, and ``metadata``."""
    added = {"schema_version": str(SCHEMA_VERSION), **(metadata or {})}
    return {**(table.schema.metadata or {}), **{key.encode(): value.encode() for key, value in added.items()}}
