"""Masks as PNG files, for tools that read no run-length encoding: 8 bit, 255 = occluded, the photo's own size."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.manifests.outcomes import FaceOutcome, items_path, read_outcomes
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.corrections import read_corrections
from s3pot_batch.pipeline.export import Written, read_answers, written
from s3pot_batch.pipeline.export._photos import FILTERS, AnsweredPhoto, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import DamagedData, ItemError
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.references import alignment_of
from s3pot_batch.stages.rle import decode_rle
from s3pot_batch.stages.segments import STORE

FOLDER = "masks"
CHOICES = (*FILTERS, "part", "edge", "invert", "cutout")
AGAIN = "remove masks.zarr and items/segments, and run s3pot-batch segment"


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write a PNG for every photo that is asked for; failed rows have none."""
    if options == ExportOptions():
        yield from _plain(run, out)
        return
    settings = resolve(file=run / CONFIG).settings if options.cutout or options.edge == "soft" else None
    own = read_corrections(run)
    part = options.part or ("visible" if options.cutout else "occlusion")
    for photo in answered_photos(run, options):

        def save(path: Path, photo: AnsweredPhoto = photo) -> None:
            soft = options.edge == "soft" and photo.item.image_id not in own
            values = _soft(run, photo, part) if soft else 255 * _binary(photo, part).astype(np.uint8)
            values = 255 - values if options.invert else values
            if options.cutout and settings:
                values = np.dstack([read_photo(photo.item.image, settings.faces), values])
            Image.fromarray(values).save(path, "PNG")

        yield written(photo.item, out / f"{photo.name}.png", save)


def _plain(run: Path, out: Path) -> Iterator[Written]:
    """What is hidden, of every photo: needs nothing of the answer but its column ``occlusion``."""
    for item, name, row in read_answers(run, "occlusion"):
        if row["occlusion"] is not None:
            picture = Image.fromarray(decode_rle(row["occlusion"]).astype(np.uint8) * 255)
            yield written(item, out / f"{name}.png", partial(picture.save, format="PNG"))


def _binary(photo: AnsweredPhoto, part: str) -> NDArray[np.bool_]:
    occlusion, region = photo.masks()
    return {"occlusion": occlusion, "visible": region & ~occlusion, "face": region}[part]


def _soft(run: Path, photo: AnsweredPhoto, part: str) -> NDArray[np.uint8]:
    """H×W, 255 times the probability that a pixel is of that part, from the stage's own arrays.

    Raises:
        ItemError: they cannot be read any more.
    """
    region = photo.masks()[1]
    if part == "face":
        return 255 * region.astype(np.uint8)
    hidden = np.zeros(photo.shape, np.float32)
    try:
        for face in _outcome_faces(run, photo):
            [occlusion] = store.read_row(run / STORE, face.row, "occlusion")
            side = occlusion.shape[0]
            pasted = alignment_of(face, side).paste(occlusion.astype(np.float32), photo.shape)
            hidden = np.maximum(hidden, np.where(region, pasted, 0))
    except DamagedData as error:
        raise ItemError(f"{error}; {AGAIN}") from error
    values = hidden if part == "occlusion" else region * (1 - hidden)
    return np.asarray((255 * values).round().clip(0, 255), np.uint8)


def _outcome_faces(run: Path, photo: AnsweredPhoto) -> tuple[FaceOutcome, ...]:
    """The photo's faces with their places in the frame, which the answer does not have."""
    if not items_path(run, "segments", photo.item.shard).exists():
        raise ItemError(f"{photo.item.image_id}: its shard is gone; {AGAIN}")
    outcomes = read_outcomes(run, "segments", photo.item.shard)
    return next((one.faces for one in outcomes if one.index == photo.item.index), ())
