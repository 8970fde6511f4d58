"""What formats with options share: the photos that are asked for, with a mask per face, and their upright pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.manifests.schema import FACE_ANSWER, SEGMENTS, STATUSES
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.corrections.assembling import with_suffix
from s3pot_batch.pipeline.corrections.drawing import FACE, OCCLUSION
from s3pot_batch.pipeline.export import Written, read_answers, written
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.rle import Mask, decode_rle
from s3pot_batch.stages.settings import FaceSettings

FILTERS = ("status", "min_ratio", "max_ratio", "min_faces", "max_faces")
IMAGES = "images"
"""Folder of the upright photos, where they are asked for."""
COLUMNS = ("status", "height", "width", "occlusion", "face_region", "occlusion_ratio", "predicted_iou", "faces")


@dataclass(frozen=True)
class Shape:
    """One mask of one face; ``face`` counts from 1."""

    label: str
    mask: Mask
    face: int


@dataclass(frozen=True)
class AnsweredPhoto:
    """A photo that has masks, with its row of the answer as people have corrected it."""

    item: PlannedItem
    name: str
    """Of its files, without a suffix."""
    row: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the upright photo."""
        return self.row["height"], self.row["width"]

    @property
    def file(self) -> str:
        """Its name with the photo's own suffix: what a tool calls it that was given the photos themselves."""
        return with_suffix(self.name, self.item.image)

    def masks(self) -> tuple[Mask, Mask]:
        """Occlusion and face region, H×W bool, all faces united."""
        return decode_rle(self.row["occlusion"]), decode_rle(self.row["face_region"])

    def shapes(self) -> Iterator[Shape]:
        """Every face's region, and what is hidden of it; an empty mask is no shape."""
        for number, face in enumerate(self.row["faces"] or (), 1):
            for label, name in ((FACE, "face_region"), (OCCLUSION, "occlusion")):
                mask = decode_rle(face[name])
                if mask.any():
                    yield Shape(label, mask, number)


def answered_photos(run: Path, options: ExportOptions) -> Iterator[AnsweredPhoto]:
    """The photos that are asked for, in order; those that failed have no masks and are left out.

    Raises:
        ConfigError: a status is unknown.
        ManifestError: the answer is of an earlier version, without a mask per face.
    """
    statuses = {one.strip() for one in options.status.split(",")}
    if not statuses <= set(STATUSES):
        raise ConfigError(f"--status {options.status}: choose from {', '.join(STATUSES)}, with commas between")
    faces = pq.read_schema(run / ANSWER).field("faces").type if "faces" in pq.read_schema(run / ANSWER).names else None
    if faces != SEGMENTS.field("faces").type:
        wanted = ", ".join(field.name for field in FACE_ANSWER)
        raise ManifestError(f"{run / ANSWER}: its faces do not have {wanted}; run s3pot-batch segment again")
    for item, name, row in read_answers(run, *COLUMNS):
        if row["status"] in statuses and row["occlusion"] is not None and _wanted(row, options):
            yield AnsweredPhoto(item, name, row)


def _wanted(row: dict[str, Any], options: ExportOptions) -> bool:
    """Whether the ratio and the number of faces are as asked; a photo without a face has no ratio."""
    ratio, faces = row["occlusion_ratio"], len(row["faces"] or ())
    low, high = options.min_ratio, options.max_ratio
    if ratio is None and (low is not None or high is not None):
        return False
    in_range = (low is None or ratio >= low) and (high is None or ratio <= high)
    return in_range and faces >= options.min_faces and (options.max_faces is None or faces <= options.max_faces)


class Pictures:
    """The photos' own pictures, beside what is exported.

    Args:
        run: whose bounds of reading hold.
        out: the export's folder; pictures go to ``images`` in it.
        wanted: whether they are asked for.
    """

    def __init__(self, run: Path, out: Path, *, wanted: bool) -> None:
        self.out, self.wanted = out, wanted
        self.bounds: FaceSettings = resolve(file=run / CONFIG).settings.faces if wanted else FaceSettings()

    def write(self, photo: AnsweredPhoto) -> Written:
        """Write one, upright, as PNG; nothing where they are not asked for."""
        if not self.wanted:
            return Written(photo.item.image_id)

        def save(path: Path) -> None:
            Image.fromarray(read_photo(photo.item.image, self.bounds)).save(path, "PNG")

        return written(photo.item, self.path(photo), save)

    def path(self, photo: AnsweredPhoto) -> Path:
        """Where the photo's picture is, or would be."""
        return self.out / IMAGES / f"{photo.name}.png"

    def name(self, photo: AnsweredPhoto) -> str:
        """What the file of annotations calls the photo."""
        return f"{photo.name}.png" if self.wanted else photo.file

    def place(self, photo: AnsweredPhoto) -> str:
        """Path or URL of the picture that a tool is to open."""
        return str(self.path(photo).absolute()) if self.wanted else photo.item.image
