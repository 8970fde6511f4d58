"""COCO's ``annotations.json``: two categories, a face and what is hidden of it, each mask as lossless RLE."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.corrections import box_of
from s3pot_batch.pipeline.corrections.drawing import (
    BROKEN,
    LABELS,
    BadDrawing,
    Drawing,
    Drawn,
    Unread,
    files_below,
    group_of,
    label_of,
    polygon,
    size_of,
)
from s3pot_batch.pipeline.export import Written
from s3pot_batch.pipeline.export._photos import FILTERS, AnsweredPhoto, Pictures, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import BadRle, Mask, decode_rle, encode_rle

FOLDER = "coco"
CHOICES = (*FILTERS, "photos")
FILE = "annotations.json"


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write one file of all photos; a photo without annotations is in ``images`` all the same."""
    pictures, gathered = Pictures(run, out, wanted=options.photos), Gathered()
    for photo in answered_photos(run, options):
        gathered.add(photo, pictures.name(photo))
        yield pictures.write(photo)
    gathered.save(out / FILE, run.name)


@dataclass
class Gathered:
    """What such a file holds of the photos so far; FiftyOne reads faces from one, too."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, photo: AnsweredPhoto, called: str) -> None:
        """Take in a photo and the masks of its faces, under that name of a file."""
        height, width = photo.shape
        number = len(self.images) + 1
        self.images.append(
            {"id": number, "file_name": called, "width": width, "height": height, "image_id": photo.item.image_id}
        )
        for shape in photo.shapes():
            x0, y0, x1, y1 = box_of(shape.mask)
            self.annotations.append(
                {"id": len(self.annotations) + 1, "image_id": number, "category_id": 1 + LABELS.index(shape.label),
                 "segmentation": encode_rle(shape.mask), "area": int(shape.mask.sum()),
                 "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "attributes": {"face": shape.face}}
            )  # fmt: skip

    def save(self, path: Path, description: str) -> None:
        """Write the file."""
        categories = [{"id": 1 + n, "name": label, "supercategory": ""} for n, label in enumerate(LABELS)]
        content = {"info": {"description": description}, "licenses": [], "images": self.images,
                   "annotations": self.annotations, "categories": categories}  # fmt: skip
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read(path: Path) -> Iterator[Drawing | Unread]:
    """The photos of COCO files; masks may be RLE of both kinds, or polygons.

    Raises:
        ConfigError: a file is not of this format.
    """
    for name, content in files_below(path, ".json"):
        try:
            whole = json.loads(content)
            categories = {one["id"]: one["name"] for one in whole["categories"]}
            images = [(one["id"], str(one["file_name"]), one) for one in whole["images"]]
            below: dict[Any, list[Any]] = {number: [] for number, _, _ in images}
            for one in whole["annotations"]:
                below.setdefault(one["image_id"], []).append(one)
        except BROKEN as error:
            raise ConfigError(f"{name}: no COCO annotations ({error!r}); export them as COCO instances") from error
        for number, called, image in images:
            yield _drawing(called, image, below[number], categories)


def _drawing(called: str, image: Any, annotations: list[Any], categories: dict[Any, Any]) -> Drawing | Unread:  # noqa: ANN401
    try:
        shape = size_of(image["height"], image["width"])
        drawn = tuple(
            Drawn(label_of(categories.get(one["category_id"])), _mask(one["segmentation"], shape), _group(one))
            for one in annotations
        )
        return Drawing(called, shape, drawn)
    except BadDrawing as error:
        return Unread(called, str(error))
    except BROKEN as error:
        return Unread(called, f"an annotation cannot be read ({error!r})")


def _group(annotation: Any) -> str | int | None:  # noqa: ANN401
    face = (annotation.get("attributes") or {}).get("face")
    return group_of(face)


def _mask(segmentation: Any, shape: tuple[int, int]) -> Mask:  # noqa: ANN401
    if isinstance(segmentation, dict):
        try:
            mask = decode_rle(segmentation)
        except BadRle as error:
            raise BadDrawing(f"a mask is damaged: {error}") from error
        if mask.shape != shape:
            raise BadDrawing(f"a mask has {mask.shape[1]}×{mask.shape[0]} pixels, and the image {shape[1]}×{shape[0]}")
        return mask
    parts = [polygon(np.asarray(part, np.float64).reshape(-1, 2).tolist(), shape) for part in segmentation]
    return np.any(parts, axis=0) if parts else np.zeros(shape, bool)
