"""labelme: a JSON file for every photo, each mask as a PNG inside of it; a group is a face."""

import base64
import io
import json
import os
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s3pot_batch.pipeline.corrections import box_of
from s3pot_batch.pipeline.corrections.drawing import (
    BadDrawing,
    Drawing,
    Drawn,
    Unread,
    ellipse,
    files_below,
    label_of,
    polygon,
    rectangle,
)
from s3pot_batch.pipeline.export import Written, written
from s3pot_batch.pipeline.export._photos import FILTERS, AnsweredPhoto, Pictures, Shape, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.rle import Mask

FOLDER = "labelme"
CHOICES = (*FILTERS, "photos")
VERSION = "5.8.0"
"""Of labelme, whose files these are like."""


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write a file for every photo; labelme opens the folder."""
    pictures = Pictures(run, out, wanted=options.photos)
    for photo in answered_photos(run, options):
        path = out / f"{photo.name}.json"
        text = json.dumps(_content(photo, path, pictures.place(photo)), ensure_ascii=False, indent=1).encode()
        drawn = pictures.write(photo)
        yield drawn if drawn.error else written(photo.item, path, methodcaller("write_bytes", text))


def _content(photo: AnsweredPhoto, path: Path, picture: str) -> dict[str, Any]:
    height, width = photo.shape
    place = picture if "://" in picture else os.path.relpath(picture, path.parent)
    return {
        "version": VERSION, "flags": {}, "shapes": [_encoded(shape) for shape in photo.shapes()], "imagePath": place,
        "imageData": None, "imageHeight": height, "imageWidth": width, "image_id": photo.item.image_id,
    }  # fmt: skip


def _encoded(shape: Shape) -> dict[str, Any]:
    x0, y0, x1, y1 = (int(n) for n in box_of(shape.mask))
    stream = io.BytesIO()
    Image.fromarray(shape.mask[y0:y1, x0:x1].astype(np.uint8)).save(stream, "PNG")
    return {
        "label": shape.label, "points": [[x0, y0], [x1 - 1, y1 - 1]], "group_id": shape.face, "description": "",
        "shape_type": "mask", "flags": {}, "mask": base64.b64encode(stream.getvalue()).decode(),
    }  # fmt: skip


def read(path: Path) -> Iterator[Drawing | Unread]:
    """The photos of labelme's files; masks, polygons, rectangles and circles count."""
    for name, content in files_below(path, ".json"):
        try:
            whole = json.loads(content)
            called = str(whole.get("image_id") or whole["imagePath"])
            shape = int(whole["imageHeight"]), int(whole["imageWidth"])
            drawn = tuple(
                Drawn(label_of(one["label"]), _mask(one, shape), one.get("group_id")) for one in whole["shapes"]
            )
            yield Drawing(called, shape, drawn)
        except BadDrawing as error:
            yield Unread(name, str(error))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
            yield Unread(name, f"no file of labelme ({error!r})")


def _mask(shape: Any, size: tuple[int, int]) -> Mask:  # noqa: ANN401
    kind, points = shape.get("shape_type") or "polygon", np.asarray(shape["points"], np.float64)
    if kind == "mask":
        return _decoded(shape["mask"], points, size)
    if kind in {"polygon", "oriented_rectangle"}:
        return polygon(points.tolist(), size)
    if kind == "rectangle":
        return rectangle([*points.min(0).tolist(), *points.max(0).tolist()], size)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return ellipse((float(points[0, 0]), float(points[0, 1])), (radius, radius), size, 0)
    raise BadDrawing(f"a shape of the kind {kind} has no inside; draw masks or polygons")


def _decoded(text: str, points: "np.ndarray[Any, np.dtype[np.float64]]", size: tuple[int, int]) -> Mask:
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as picture:
        inside = np.asarray(picture).astype(bool)
    left, top = (int(n) for n in points[0])
    bottom, right = top + inside.shape[0], left + inside.shape[1]
    if inside.ndim != 2 or not (0 <= top <= bottom <= size[0] and 0 <= left <= right <= size[1]):
        raise BadDrawing(f"a mask of {inside.shape[1]}×{inside.shape[0]} pixels at {left}, {top} leaves the photo")
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = inside
    return mask
