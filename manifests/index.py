"""Building a manifest from folders, globs, single photos and CSV files."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from manifests.errors import ManifestError
from manifests.files import write_parquet

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def build_manifest(paths: Sequence[str], out: Path, *, masks: bool = False) -> pa.Table:
    """List photos into a manifest and write it to ``out``.

    Args:
        paths: folders (searched to any depth), glob patterns, photos, or one CSV file with a column ``image``.
        out: the Parquet file; photos below its folder are listed by relative path.
        masks: take ``NAME_mask.png`` beside a photo as its ground truth (column ``mask``), not as a photo.

    Raises:
        ManifestError: a path does not exist, or nothing was found.
    """
    if len(paths) == 1 and paths[0].lower().endswith(".csv"):
        table = _from_csv(Path(paths[0]), out)
    else:
        photos = list(dict.fromkeys(photo for path in paths for photo in _photos(path)))
        if masks:
            photos = [photo for photo in photos if not photo.stem.endswith("_mask")]
        if not photos:
            raise ManifestError(f"no photos in {', '.join(paths)}; looked for {', '.join(sorted(SUFFIXES))}")
        columns = {"image": [_relative(photo, out) for photo in photos]}
        if masks:
            truth = [photo.with_name(f"{photo.stem}_mask.png") for photo in photos]
            columns["mask"] = [_relative(mask, out) if mask.exists() else None for mask in truth]  # type: ignore[misc]
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    write_parquet(table, out)
    return table


def _from_csv(path: Path, out: Path) -> pa.Table:
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    try:
        table = pyarrow.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{path}: not a CSV file ({error})") from error
    if "image" not in table.column_names:
        raise ManifestError(f"{path}: no column image; it has {', '.join(table.column_names)}")
    for name in {"image", "mask"} & set(table.column_names):
        moved = [value and _rebased(str(value), path, out) for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(moved, pa.string()))
    return table


def _rebased(name: str, csv: Path, out: Path) -> str:
    return name if "://" in name else _relative(csv.parent / name, out)


def _photos(path: str) -> Iterator[Path]:
    if glob.has_magic(path) and not Path(path).exists():
        found = sorted(Path(name) for name in glob.glob(path, recursive=True))
        yield from (photo for photo in found if photo.suffix.lower() in SUFFIXES)
    elif Path(path).is_dir():
        yield from sorted(photo for photo in Path(path).rglob("*") if photo.suffix.lower() in SUFFIXES)
    elif Path(path).is_file():
        yield Path(path)
    else:
        raise ManifestError(f"{path}: no such file or folder")


def _relative(photo: Path, out: Path) -> str:
    photo, folder = Path(os.path.abspath(photo)), Path(os.path.abspath(out.parent))  # noqa: PTH100  (keeps links)
    return photo.relative_to(folder).as_posix() if photo.is_relative_to(folder) else str(photo)
