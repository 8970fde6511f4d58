"""Outcomes: what came of each photo in each stage, a Parquet file per finished shard."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s3pot_batch.manifests.errors import DamagedOutcomes, ManifestError, one_line
from s3pot_batch.manifests.files import read_table, write_parquet
from s3pot_batch.manifests.schema import ITEM_SCHEMA, STATUSES

Checksums = dict[int, dict[str, str]]
"""A hash of every array's values by Zarr row."""
Rle = Mapping[str, Any]
"""A mask as COCO run-length encoding: ``size`` (height, width) and ``counts``."""


@dataclass(frozen=True)
class FaceOutcome:
    """One face of a photo; figures that a stage does not know yet are ``None``."""

    row: int
    """Its Zarr row."""
    bbox: tuple[float, ...]
    """x0 y0 x1 y1 in photo pixels."""
    score: float
    landmarks: tuple[float, ...]
    """x and y of five points in photo pixels."""
    matrix: tuple[float, ...]
    """2×3, photo → frame pixels, row by row."""
    parse_confidence: float
    occlusion_ratio: float | None = None
    predicted_iou: float | None = None
    occlusion: Rle | None = None
    """Its own mask, in the photo's pixels."""
    face_region: Rle | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one photo."""

    index: int
    """Its row in the manifest."""
    image_id: str
    status: str
    """One of ``STATUSES``."""
    error_type: str | None = None
    error: str | None = None
    height: int | None = None
    width: int | None = None
    faces: tuple[FaceOutcome, ...] = ()
    occlusion: Rle | None = None
    face_region: Rle | None = None
    occlusion_ratio: float | None = None
    predicted_iou: float | None = None
    faces_left_out: int | None = None
    """Faces found beyond ``faces.max_faces``; nothing was done with them."""
    file_size: int | None = None
    """Bytes of the photo's file, where it was read."""
    file_time: int | None = None
    """When a local file was changed last, in nanoseconds."""
    content: str | None = None
    """SHA-256 (hex) of what was read."""
    seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a photo that was read."""
        if self.height is None or self.width is None:
            raise ValueError(f"{self.image_id} was not read: it has no shape")
        return self.height, self.width

    def status_alone(self, seconds: float) -> "Outcome":
        """How the photo fared, for a stage that adds nothing else to say."""
        return replace(Outcome(self.index, self.image_id, self.status, self.error_type, self.error), seconds=seconds)


def items_path(run: Path, stage: str, shard: int) -> Path:
    """Where the outcomes of one shard of one stage stand."""
    return run / "items" / stage / f"{shard:05d}.parquet"


def write_outcomes(
    run: Path, stage: str, shard: int, outcomes: Sequence[Outcome], fingerprint: str, checksums: Checksums | None = None
) -> None:
    """Write a finished shard's outcomes; this file is the shard's completion marker and is written last.

    Args:
        run: the run folder.
        stage: whose outcomes they are.
        shard: its number.
        outcomes: one per photo, in order.
        fingerprint: of what decided them.
        checksums: of what the stage wrote to its arrays.

    Raises:
        ValueError: a status is none of ``STATUSES``.
    """
    for outcome in outcomes:
        if outcome.status not in STATUSES:
            raise ValueError(f"{stage}, shard {shard}, photo {outcome.image_id}: unknown status {outcome.status!r}")
    table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=ITEM_SCHEMA)
    facts = {"fingerprint": fingerprint, "stage": stage, "checksums": json.dumps(checksums or {})}
    write_parquet(table, items_path(run, stage, shard), facts)


def read_checksums(run: Path, stage: str, shard: int) -> Checksums:
    """What a finished shard's rows were when they were written; empty where nobody knows."""
    path = items_path(run, stage, shard)
    if not path.exists():
        return {}
    try:
        found = json.loads((pq.read_schema(path).metadata or {}).get(b"checksums", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedOutcomes(stage, shard, f"{path}: {one_line(error)}") from error
    return {int(row): sums for row, sums in found.items()}


def read_outcomes(run: Path, stage: str, shard: int) -> tuple[Outcome, ...]:
    """The outcomes of a finished shard, in the manifest's order.

    Raises:
        ManifestError: there are none.
        DamagedOutcomes: the file is damaged.
    """
    path = items_path(run, stage, shard)
    if not path.exists():
        raise ManifestError(f"{path}: shard {shard} of {stage} is not finished; run that stage first")
    return tuple(_outcome(row) for row in read_items(run, stage, shard).to_pylist())


def read_items(run: Path, stage: str, shard: int) -> pa.Table:
    """The same as a table.

    Raises:
        DamagedOutcomes: the file is damaged, or is not of that stage.
    """
    path = items_path(run, stage, shard)
    try:
        table = read_table(path)
    except ManifestError as error:
        raise DamagedOutcomes(stage, shard, str(error)) from error
    if table.schema.names != ITEM_SCHEMA.names or (table.schema.metadata or {}).get(b"stage") != stage.encode():
        raise DamagedOutcomes(stage, shard, f"{path}: it is not what {stage} writes")
    return table


def _outcome(row: dict[str, Any]) -> Outcome:
    faces = tuple(FaceOutcome(**_with_tuples(face)) for face in row["faces"] or ())
    return Outcome(**{**row, "faces": faces})


def _with_tuples(face: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in face.items()}


def shard_is_done(run: Path, stage: str, shard: int, fingerprint: str) -> bool:
    """Whether the shard was finished with this fingerprint; one whose file is damaged was not.

    Raises:
        ManifestError: it was finished with another one.
    """
    path = items_path(run, stage, shard)
    if not path.exists():
        return False
    try:
        with pq.ParquetFile(path) as file:
            found = fingerprint_of(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    if found != fingerprint:
        raise other_settings(path, found, fingerprint)
    return True


def fingerprint_of(file: pq.ParquetFile) -> str:
    """What the rows of an items file were made with."""
    return str((file.schema_arrow.metadata or {}).get(b"fingerprint", b"").decode())


def other_settings(path: Path, found: str, fingerprint: str) -> ManifestError:
    """The error that says that an items file was made with other settings."""
    return ManifestError(f"{path} was made with other settings ({found[:12]} ≠ {fingerprint[:12]}); use another --run")


def count_statuses(table: pa.Table) -> dict[str, int]:
    """How many rows of an outcomes or answer table have which status."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(table["status"].combine_chunks()).to_pylist()}
