"""Building a manifest from folders, globs, single photos and CSV files."""

import csv
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import derived_ids
from s3pot_batch.manifests.photos import is_named, is_photo, photos_below, suffixes

TRUTHS = ("mask", "region", "face")
"""Columns that hold masks, each a path or COCO RLE: what is hidden, where that is known, and the true face region."""
LISTS = (".bz2", ".feather", ".gz", ".json", ".jsonl", ".ndjson", ".ods", ".parquet", ".tar", ".tgz", ".txt", ".xls",
         ".xlsx", ".xml", ".xz", ".yaml", ".zip")  # fmt: skip
"""What the names of files end with that list or hold photos and are none."""
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
"""What is written like a number; ``007`` is a name."""
ANSWERS = frozenset({"true", "false", "yes", "no"})
Note = Callable[[str], object]


def build_manifest(
    paths: Sequence[str | Path], out: Path, *, masks: bool = False, base: Path | None = None,
    note: Note = lambda _: None,
) -> pa.Table:  # fmt: skip
    """List photos into a manifest and write it to ``out``.

    Args:
        paths: folders (searched to any depth), glob patterns, photos, or one CSV file with a column ``image``.
            The order is that of ``paths``, and by name inside a folder or pattern; a photo is listed once.
        out: the Parquet file; photos below its folder are listed by relative path, others by absolute path.
        masks: take ``NAME_mask.png`` beside a photo ``NAME.*`` as its ground truth (column ``mask``), not as a
            photo. A photo that is only called so (``bob_mask.png`` without a ``bob.*``) stays a photo.
        base: a folder; photos get an ``image_id``, which is their path below it: they stay the same where it is moved.
        note: told, line by line, what was left out and what else is worth knowing.

    Raises:
        ManifestError: a path does not exist, a pattern or folder holds no photo at all, a CSV is wrong, or ``out`` is
            something else than a manifest.
    """
    _check_out(out)
    csvs = [Path(path) for path in paths if Path(path).suffix.lower() in {".csv", ".tsv"}]
    if csvs and len(paths) > 1:
        raise ManifestError(f"{csvs[0]}: a CSV file is indexed alone; index the other paths by themselves")
    table = _from_csv(csvs[0], out, note) if csvs else _from_photos(paths, out, masks=masks, note=note)
    if base is not None and "image_id" not in table.column_names:
        places = [str(_absolute(out.parent / image)) for image in table["image"].to_pylist()]
        table = table.append_column("image_id", pa.array(derived_ids(_absolute(base), places), pa.string()))
    write_parquet(table, out)
    return table


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise ManifestError(f"{out}: a folder; name the Parquet file to write")
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as file:
            if file.read(4) != b"PAR1":
                raise ManifestError(f"{out}: there is a file that is no manifest; name another one to write")


def _from_photos(paths: Sequence[str | Path], out: Path, *, masks: bool, note: Note) -> pa.Table:
    skipped = Counter[str]()
    photos = list(dict.fromkeys(_absolute(photo) for path in paths for photo in _photos(str(path), skipped)))
    beside = {photo: photo.with_name(f"{photo.stem}_mask.png") for photo in photos}
    truths = {photo: mask for photo, mask in beside.items() if os.path.isfile(mask)}  # noqa: PTH113 — Path's own raises where that name is too long
    if masks:
        taken = set(truths.values())
        photos = [photo for photo in photos if photo not in taken]
    elif truths:
        note(f"{len(truths)} photos have a NAME_mask.png beside them, listed as a photo; --masks takes it as the truth")
    if not photos:
        listed = ", ".join(str(path) for path in paths)
        raise ManifestError(f"no photos in {listed}; looked for {', '.join(sorted(suffixes()))}")
    if skipped:
        note("left out: " + ", ".join(f"{count} {what}" for what, count in sorted(skipped.items())))
    columns = {"image": pa.array([_relative(photo, out) for photo in photos], pa.string())}
    if masks:
        found = [truths.get(photo) for photo in photos]
        columns["mask"] = pa.array([_relative(mask, out) if mask else None for mask in found], pa.string())
    return pa.table(columns)


def _photos(path: str, skipped: Counter[str]) -> Iterator[Path]:
    if Path(path).is_file():
        if Path(path).suffix.lower() in LISTS:
            raise ManifestError(f"{path}: no photo by its name; a list of photos is a CSV file with a column image")
        yield Path(path)
    elif Path(path).is_dir():
        yield from photos_below(Path(path), skipped)
    elif glob.has_magic(path):
        matches = sorted(Path(name) for name in glob.glob(path, recursive=True))  # noqa: PTH207  (takes any pattern)
        if not matches:
            raise ManifestError(f"{path}: nothing matches this pattern")
        yield from (found for found in matches if is_photo(found) and is_named(found, skipped))
    else:
        more = "; list URLs in a CSV file's column image, and index that" if "://" in path else ""
        raise ManifestError(f"{path}: no such file or folder{more}")


def _from_csv(path: Path, out: Path, note: Note) -> pa.Table:
    table = _read_csv(path)
    if "image" not in table.column_names:
        raise ManifestError(f"{path}: no column image; it has {', '.join(table.column_names)}")
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise ManifestError(f"{path}: more than one column {twice[0]}; give each a name of its own")
    if not table.num_rows:
        raise ManifestError(f"{path}: the file has no rows")
    table = _converted(table, path, "image", lambda name: _rebased(name, path, out))
    for column in TRUTHS:
        cells = [cell for cell in (table[column].to_pylist() if column in table.column_names else []) if cell]
        if cells and all(NUMBER.fullmatch(cell) or cell.lower() in ANSWERS for cell in cells):
            note(f"column {column} holds labels: it is carried as it is, and names no masks")
            continue
        encoded = all(cell.lstrip().startswith("{") for cell in cells)  # COCO RLE instead of paths
        with suppress(ManifestError):  # what is no JSON, or of another kind, is left as text: it costs its own row
            table = _converted(table, path, column, json.loads) if encoded else table
        table = _converted(table, path, column, lambda cell: _rebased(cell, path, out))
    for name in ("bbox", "landmarks"):
        table = _converted(table, path, name, json.loads)
    names = [name for name in table.column_names if name not in {"image", "image_id"}]
    for name in names:
        table = table.set_column(table.column_names.index(name), name, _typed(table[name]))
    return table


def _read_csv(path: Path) -> pa.Table:
    """A CSV file with every cell as text, whichever of comma, semicolon and tab stands between its cells.

    Raises:
        ManifestError: it is none, or is not encoded as UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8; save the file in that encoding") from error
    delimiter = max(",;\t", key=head.count)
    names = next(csv.reader([head], delimiter=delimiter), [])
    text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    try:
        return pyarrow.csv.read_csv(path, None, pyarrow.csv.ParseOptions(delimiter=delimiter), text)
    except pa.ArrowException as error:
        raise ManifestError(f"{path}: not a CSV file ({one_line(error)})") from error


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as numbers, if each of its cells is written like one; else as it is."""
    cells = [cell for cell in column.to_pylist() if cell] if pa.types.is_string(column.type) else []
    if not cells or not all(NUMBER.fullmatch(cell) for cell in cells):
        return column
    filled = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    whole = all(cell.lstrip("-").isdigit() for cell in cells)
    try:
        return filled.cast(pa.int64() if whole else pa.float64())
    except pa.ArrowInvalid:  # more digits than a number has: an id
        return column


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
    except (pa.ArrowException, OverflowError) as error:
        raise ManifestError(f"{path}: column {column}: its rows are of different kinds ({error})") from error
    return table.set_column(table.column_names.index(column), column, array)


def _rebased(name: str, table: Path, out: Path) -> str:
    """A path that starts at a table, as one that starts at the manifest; URLs and JSON stay as they are."""
    return name if "://" in name or name.lstrip().startswith("{") else _relative(_absolute(table.parent / name), out)


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
