"""Reading a manifest: the user's table, checked, and what the pipeline needs of each row."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from s3pot_batch.manifests.confine import outside_of
from s3pot_batch.manifests.embedded import embedded_location, is_text, read_photo_table
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.hints import box_problem, finite, landmarks_problem
from s3pot_batch.manifests.origin import Origin, origin_here
from s3pot_batch.manifests.schema import SEGMENTS

DIGESTED = 10_000
"""Rows that are text at once, for the digest."""
SHOWN = 120
"""Characters that are shown of a value; somebody's landmarks may be 68."""
PLAIN = r"^[^/.][^/]*(/[^/.][^/]*)*$"
"""Names that lead down from a folder, and that a path would leave as they are."""


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: the user's table, and what the pipeline needs of each row."""

    path: Path
    table: pa.Table
    """Its columns, and ``image_id`` where it had none; those that the answer has, too, under another name."""
    images: tuple[str, ...]
    """Absolute path, fsspec URL, or place in this file, of every photo."""
    image_ids: tuple[str, ...]
    bboxes: tuple[tuple[float, ...] | None, ...]
    landmarks: tuple[tuple[float, ...] | None, ...]
    problems: tuple[str | None, ...]
    """``KIND: reason`` of the rows that cannot be worked on, whatever their photos show."""
    notes: tuple[str, ...]
    """What the user should know, such as a column that has another name in the answer."""
    digest: str
    """SHA-256 (hex) of images, ids, boxes, landmarks and problems: another list of photos is another run."""
    origin: Origin | None = None
    """The manifest that its photos are those of: this one, or the one whose answer it is a part of."""


def read_manifest(path: Path, limit: int | None = None, confine: Collection[str] | None = None) -> Manifest:
    """Read and check a manifest; what is wrong with a row alone becomes the row's problem.

    Args:
        path: the Parquet file.
        limit: keeps its first rows only.
        confine: photos have to lie in the manifest's folder, or have URLs of these schemes.

    Raises:
        ManifestError: the file or one of its columns cannot be used.
    """
    if path.is_dir():
        raise ManifestError(f"{path}: a folder; a manifest is one Parquet file; photos are named without --manifest")
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; build one with: s3pot-batch index PHOTOS --out {path}")
    table, inside = read_photo_table(path)
    table = table.slice(0, limit) if limit is not None else table
    _check_columns(path, table)
    table = _plain(path, table)
    origin, problems = Origin(path.parent.resolve() / path.name, inside is not None), Problems(table.num_rows)
    if confine is None and inside is None:  # others' files may say anything
        origin = origin_here(path, table.schema, (name.as_py() for name in table["image"]))
    folder = origin.manifest.parent
    if inside is None:
        images = _locations(table, folder, problems, confine)
    else:
        images = tuple(
            embedded_location(path, row) if within else _location(row, name, folder, problems, confine)
            for row, (name, within) in enumerate(zip(table["image"].to_pylist(), inside.tolist(), strict=False))
        )
    if "image_id" in table.column_names:
        image_ids = _own_ids(path, table)
    else:
        image_ids = derived_ids(folder, images if inside is None else table["image"].to_pylist())
        table = table.append_column("image_id", pa.array(image_ids, pa.string()))
    if inside is None and origin.photos_inside:
        images = _of_origin(origin.manifest, image_ids, images)
    bboxes, landmarks = (_numbers(path, table, column, problems) for column in (BBOX, LANDMARKS))
    table, notes = _beside_the_answer(table)
    return Manifest(
        path, table, images, image_ids, bboxes, landmarks, tuple(problems.found), notes,
        _digest((images, image_ids, bboxes, landmarks, problems.found)), origin,
    )  # fmt: skip


class Problems:
    """The first problem of every row, if it has one."""

    def __init__(self, rows: int) -> None:
        self.found: list[str | None] = [None] * rows

    def add(self, row: int, kind: str, column: str, reason: str) -> None:
        """Note what is wrong with a row; what was noted before stays."""
        self.found[row] = self.found[row] or f"{kind}: row {row}, column {column}: {reason}"


def _check_columns(path: Path, table: pa.Table) -> None:
    if "image" not in table.column_names:
        raise ManifestError(f"{path}: no column image; it has {', '.join(table.column_names) or 'no columns'}")
    if not table.num_rows:
        raise ManifestError(f"{path}: the manifest has no rows")
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise ManifestError(f"{path}: column {repeated[0]} occurs twice; rename one")


def _plain(path: Path, table: pa.Table) -> pa.Table:
    """The table with photos and ids as plain text, however they were stored."""
    for name in ("image", "image_id"):
        if name not in table.column_names:
            continue
        kind = table.schema.field(name).type
        stored = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (is_text(stored) or (name == "image_id" and _is_whole(stored))):
            raise ManifestError(f"{path}: column {name} is {kind}, not text")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(stored).cast(pa.string()))
    return table


def _beside_the_answer(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The table with other names for columns that the answer has, too; and what was renamed, for the user."""
    names, notes = list(table.column_names), list[str]()
    for number, name in enumerate(names):
        if name in SEGMENTS.names:
            new = next(one for one in _inputs(name) if one not in names)
            names[number] = new
            notes.append(f"column {name} of the manifest is {new} in the answer, which has a {name} of its own")
    # the schema's metadata, such as pandas' index, speaks of the old names
    return (table.rename_columns(names) if notes else table), tuple(notes)


def _inputs(name: str) -> Iterator[str]:
    yield f"input_{name}"
    yield from (f"input_{name}_{number}" for number in itertools.count(2))


def _is_whole(kind: pa.DataType) -> bool:
    """Whether a column of that type holds whole numbers, as data bases have them, too."""
    return bool(pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0))


def _locations(table: pa.Table, folder: Path, problems: Problems, confine: Collection[str] | None) -> tuple[str, ...]:
    """Where every row's photo is; "" for a row that names none."""
    names = table["image"].combine_chunks()
    # "/" ends in its separator, other folders do not
    found: list[str] = pc.binary_join_element_wise(str(folder / "_").removesuffix("_"), names, "").to_pylist()
    # Of a million names nearly all are plain; the others are looked at one by one.
    odd = range(len(names)) if confine is not None else np.flatnonzero(~_plain_names(names)).tolist()
    for row in odd:
        found[row] = _location(row, names[row].as_py(), folder, problems, confine)
    return tuple(found)


def _location(row: int, name: str | None, folder: Path, problems: Problems, confine: Collection[str] | None) -> str:
    """Where one row's photo is."""
    if not name:
        problems.add(row, "MissingFile", "image", "empty; every row needs a photo")
        return ""
    found = name if "://" in name or Path(name).is_absolute() else str(folder / name)
    if confine is not None and (reason := outside_of(found, folder, confine)):
        problems.add(row, "OutOfBounds", "image", f"{reason}, and --confine forbids that")
    return found


def _of_origin(origin: Path, image_ids: Sequence[str], images: tuple[str, ...]) -> tuple[str, ...]:
    """Where the photos are, of an answer whose photos lie in the manifest that it was made of."""
    whole = read_manifest(origin)
    places = dict(zip(whole.image_ids, whole.images, strict=True))
    return tuple(places.get(name, image) for name, image in zip(image_ids, images, strict=True))


def _plain_names(names: pa.Array) -> NDArray[np.bool_]:
    if os.sep != "/":
        return np.zeros(len(names), bool)
    plain = pc.match_substring_regex(names, PLAIN).fill_null(pa.scalar(value=False))
    return np.asarray(plain.to_numpy(zero_copy_only=False), bool)


def _own_ids(path: Path, table: pa.Table) -> tuple[str, ...]:
    ids = table["image_id"].to_pylist()
    if len(set(ids)) == len(ids) and all(ids):
        return tuple(ids)
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            raise ManifestError(f"{path}: row {row}, column image_id: empty; drop the column or fill it")
        if name in seen:
            raise ManifestError(f"{path}: row {row}, column image_id: {name} is also row {seen[name]}; make it unique")
        seen[name] = row
    return tuple(seen)


def _digest(columns: Sequence[Sequence[object]]) -> str:
    """SHA-256 (hex) of the columns, piece by piece: of a million rows, the whole text would take memory."""
    digest = hashlib.sha256()
    for column in columns:
        for first in range(0, len(column), DIGESTED):
            digest.update(repr(list(column[first : first + DIGESTED])).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def derived_ids(folder: Path, images: Sequence[str]) -> tuple[str, ...]:
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


@dataclass(frozen=True)
class Numbers:
    """A column with ``count`` numbers a row, and what may be wrong with them."""

    name: str
    count: int
    pairs: bool
    """Whether they may also come as pairs."""
    kind: str
    """Of its problems."""
    problem: Callable[[Sequence[float]], str | None]


BBOX = Numbers("bbox", 4, pairs=False, kind="BadBox", problem=box_problem)
LANDMARKS = Numbers("landmarks", 10, pairs=True, kind="BadLandmarks", problem=landmarks_problem)


def _numbers(path: Path, table: pa.Table, column: Numbers, problems: Problems) -> tuple[tuple[float, ...] | None, ...]:
    """Each row's numbers, pairs flattened; None where there are none, or wrong ones."""
    if column.name not in table.column_names:
        return (None,) * int(table.num_rows)
    kind, depth = table.schema.field(column.name).type, 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if not pa.types.is_null(kind) and not (_is_number(kind) and 1 <= depth <= 1 + column.pairs):
        found = table.schema.field(column.name).type
        raise ManifestError(f"{path}: column {column.name} is {found}, not a list of {column.count} numbers")
    rows: list[tuple[float, ...] | None] = []
    for row, value in enumerate(table[column.name].to_pylist()):
        flat = _flat(value) if depth > 1 else value
        wrong = None
        if flat is not None:
            fits = len(flat) == column.count and finite(flat)
            wrong = column.problem(flat) if fits else f"{str(value)[:SHOWN]} is not {column.count} finite numbers"
        if wrong:
            problems.add(row, column.kind, column.name, wrong)
        rows.append(None if flat is None or wrong else tuple(float(number) for number in flat))
    return tuple(rows)


def _flat(pairs: Sequence[Sequence[float] | None] | None) -> list[float] | None:
    """The numbers of pairs in turn; none where one of them is no pair."""
    if pairs is None:
        return None
    return [number for pair in pairs for number in pair or ()] if all(len(pair or ()) == 2 for pair in pairs) else []


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
