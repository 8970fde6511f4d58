"""Building a manifest from folders, globs, single photos and CSV files."""

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import write_parquet

TRUTHS = ("mask", "region", "face")
"""Columns that hold masks, each a path or COCO RLE: what is hidden, where that is known, and the true face region."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def build_manifest(paths: Sequence[str | Path], out: Path, *, masks: bool = False) -> pa.Table:
    """List photos into a manifest and write it to ``out``.

    Args:
        paths: folders (searched to any depth), glob patterns, photos, or one CSV file with a column ``image``.
            The order is that of ``paths``, and by name inside a folder or pattern; a photo is listed once.
        out: the Parquet file; photos below its folder are listed by relative path, others by absolute path.
        masks: take ``NAME_mask.png`` beside a photo ``NAME.*`` as its ground truth (column ``mask``), not as a
            photo. A photo that is only called so (``bob_mask.png`` without a ``bob.*``) stays a photo.

    Raises:
        ManifestError: a path does not exist, a pattern or folder holds no photo at all, or a CSV is wrong.
    """
    if out.is_dir():
        raise ManifestError(f"{out}: a folder; name the Parquet file to write")
    csvs = [Path(path) for path in paths if Path(path).suffix.lower() == ".csv"]
    if csvs and len(paths) > 1:
        raise ManifestError(f"{csvs[0]}: a CSV file is indexed alone; index the other paths by themselves")
    table = _from_csv(csvs[0], out) if csvs else _from_photos(paths, out, masks=masks)
    write_parquet(table, out)
    return table


def _from_photos(paths: Sequence[str | Path], out: Path, *, masks: bool) -> pa.Table:
    photos = list(dict.fromkeys(_absolute(photo) for path in paths for photo in _photos(str(path))))
    truths: dict[Path, Path] = {}
    if masks:
        truths = {photo: mask for photo in photos if (mask := photo.with_name(f"{photo.stem}_mask.png")).is_file()}
        taken = set(truths.values())
        photos = [photo for photo in photos if photo not in taken]
    if not photos:
        listed = ", ".join(str(path) for path in paths)
        raise ManifestError(f"no photos in {listed}; looked for {', '.join(sorted(SUFFIXES))}")
    columns = {"image": pa.array([_relative(photo, out) for photo in photos], pa.string())}
    if masks:
        found = [truths.get(photo) for photo in photos]
        columns["mask"] = pa.array([_relative(mask, out) if mask else None for mask in found], pa.string())
    return pa.table(columns)


def _photos(path: str) -> Iterator[Path]:
    if Path(path).is_file():
        yield Path(path)
    elif Path(path).is_dir():
        yield from sorted(found for found in Path(path).rglob("*") if _is_photo(found))
    elif glob.has_magic(path):
        matches = sorted(Path(name) for name in glob.glob(path, recursive=True))  # noqa: PTH207  (takes any pattern)
        if not matches:
            raise ManifestError(f"{path}: nothing matches this pattern")
        yield from (found for found in matches if _is_photo(found))
    else:
        raise ManifestError(f"{path}: no such file or folder")


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _from_csv(path: Path, out: Path) -> pa.Table:
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    # Names stay text: a guess would read 007 as 7.
    text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("image", "image_id", *TRUTHS), pa.string()))
    try:
        table = pyarrow.csv.read_csv(path, convert_options=text)
    except pa.ArrowException as error:
        raise ManifestError(f"{path}: not a CSV file ({' '.join(str(error).split())})") from error
    if "image" not in table.column_names:
        raise ManifestError(f"{path}: no column image; it has {', '.join(table.column_names)}")
    if not table.num_rows:
        raise ManifestError(f"{path}: the file has no rows")
    table = _converted(table, path, "image", lambda name: _rebased(name, path, out))
    for column in TRUTHS:
        cells = table[column].to_pylist() if column in table.column_names else []
        encoded = any(cell.lstrip().startswith("{") for cell in cells if cell)  # COCO RLE instead of paths
        table = _converted(table, path, column, json.loads if encoded else lambda name: _rebased(name, path, out))
    for name in ("bbox", "landmarks"):
        table = _converted(table, path, name, json.loads)
    return table


def _converted(table: pa.Table, path: Path, column: str, convert: Callable[[str], object]) -> pa.Table:
    """The table with every filled cell of a text column converted; an empty cell becomes null."""
    if column not in table.column_names or not pa.types.is_string(table.schema.field(column).type):
        return table
    values: list[object] = []
    for row, cell in enumerate(table[column].to_pylist()):
        try:
            values.append(convert(cell) if cell else None)
        except json.JSONDecodeError as error:
            raise ManifestError(
                f"{path}: row {row}, column {column}: {cell} is not JSON; lists look like [10, 20, 90, 99]"
            ) from error
    try:
        array = pa.array(values)
    except pa.ArrowException as error:
        raise ManifestError(f"{path}: column {column}: its rows are of different kinds ({error})") from error
    return table.set_column(table.column_names.index(column), column, array)


def _rebased(name: str, csv: Path, out: Path) -> str:
    return name if "://" in name else _relative(_absolute(csv.parent / name), out)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would replace links by what they point to)


def _relative(photo: Path, out: Path) -> str:
    folder = _absolute(out.parent)
    name = photo.relative_to(folder).as_posix() if photo.is_relative_to(folder) else str(photo)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(f"{name!r}: the name is not UTF-8; rename the file") from error
    return name
