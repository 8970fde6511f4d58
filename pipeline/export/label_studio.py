"""Label Studio: ``tasks.json`` with each mask as a brush stroke, and the labelling interface that it needs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.corrections.brush import decode_brush, encode_brush
from s3pot_batch.pipeline.corrections.drawing import (
    FACE,
    NO_SIZE,
    BadDrawing,
    Drawing,
    Drawn,
    Unread,
    ellipse,
    files_below,
    label_of,
    polygon,
    turned,
)
from s3pot_batch.pipeline.export import Written
from s3pot_batch.pipeline.export._photos import FILTERS, AnsweredPhoto, Pictures, Shape, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import Mask

FOLDER = "label-studio"
CHOICES = (*FILTERS, "photos")
FILE = "tasks.json"
INTERFACE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="label" toName="image">
    <Label value="face" background="#009E73"/>
    <Label value="occlusion" background="#D55E00"/>
  </BrushLabels>
</View>
"""
"""What goes into a project's labelling interface."""
KINDS = {"brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels"}


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write one file of all photos: the answer is a prediction, from which people start."""
    pictures = Pictures(run, out, wanted=options.photos)
    (out / "interface.xml").write_text(INTERFACE, encoding="utf-8")
    with replacing(out / FILE) as temporary, temporary.open("w", encoding="utf-8") as stream:
        between = "["
        for photo in answered_photos(run, options):  # task by task: a stroke is a list of numbers, and takes memory
            results = [_encoded(photo, shape) for shape in photo.shapes()]
            prediction = {"model_version": run.name, "result": results}
            data = {"image": _place(pictures.place(photo)), "image_id": photo.item.image_id}
            task = {"data": data, "predictions": [prediction]}
            stream.write(f"{between}{json.dumps(task, ensure_ascii=False)}")
            between = ",\n"
            yield pictures.write(photo)
        stream.write("]" if between != "[" else "[]")


def _place(picture: str) -> str:
    """The address of a photo: a file of this machine is served by Label Studio itself, from the root downwards."""
    return picture if "://" in picture else f"/data/local-files/?d={str(Path(picture).absolute()).lstrip('/')}"


def _encoded(photo: AnsweredPhoto, shape: Shape) -> dict[str, Any]:
    height, width = photo.shape
    parent = {} if shape.label == FACE else {"parentID": _region(FACE, shape.face)}
    return {
        "id": _region(shape.label, shape.face), "type": "brushlabels", "from_name": "label", "to_name": "image",
        "original_width": width, "original_height": height, "image_rotation": 0, **parent,
        "value": {"format": "rle", "rle": encode_brush(shape.mask), "brushlabels": [shape.label]},
    }  # fmt: skip


def _region(label: str, face: int) -> str:
    return f"{label}-{face}"


def read(path: Path) -> Iterator[Drawing | Unread]:
    """The photos of Label Studio's JSON exports that somebody has looked at; its predictions alone are no correction.

    Raises:
        ConfigError: a file is not of this format.
    """
    for name, content in files_below(path, ".json"):
        try:
            tasks = json.loads(content)
            called = [(str(task["data"].get("image_id") or task["data"]["image"]), task) for task in tasks]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{name}: no tasks of Label Studio ({error!r}); export them as JSON") from error
        for one, task in called:
            drawing = _drawing(one, task)
            if drawing is not None:
                yield drawing


def _drawing(called: str, task: Any) -> Drawing | Unread | None:  # noqa: ANN401
    """The last annotation of a task; ``None`` where nobody has submitted one."""
    try:
        done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
        if not done:
            return None
        results = [one for one in done[-1]["result"] if one.get("type") in KINDS]
        shown = [one for annotation in (*done, *(task.get("predictions") or ())) for one in annotation["result"]]
        sizes = {(int(one["original_height"]), int(one["original_width"])) for one in shown if "original_width" in one}
        if len(sizes) > 1 or any(one.get("image_rotation") for one in results):
            return Unread(called, "the photo was turned in Label Studio; turn it back, and draw again")
        shape = next(iter(sizes), NO_SIZE)
        drawn = tuple(Drawn(label_of(one["value"][one["type"]][0]), _mask(one, shape), _group(one)) for one in results)
        return Drawing(called, shape, drawn)
    except BadDrawing as error:
        return Unread(called, str(error))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Unread(called, f"an annotation cannot be read ({error!r})")


def _group(result: Any) -> str | None:  # noqa: ANN401
    """A face's region has its own id, and what is hidden of it names that as its parent."""
    group: str | None = result.get("parentID") or result.get("id")
    return group


def _mask(result: Any, shape: tuple[int, int]) -> Mask:  # noqa: ANN401
    """Brush strokes, or a shape in percents of the photo's size, turned about its upper left corner."""
    value, kind = result["value"], result["type"]
    if kind == "brushlabels":
        return decode_brush(value["rle"], shape)
    scale = np.array([shape[1], shape[0]]) / 100
    if kind == "polygonlabels":
        return polygon((np.asarray(value["points"], np.float64) * scale).tolist(), shape)
    degrees, x, y = float(value.get("rotation", 0)), value["x"] * scale[0], value["y"] * scale[1]
    if kind == "ellipselabels":
        return ellipse((x, y), (value["radiusX"] * scale[0], value["radiusY"] * scale[1]), shape, degrees)
    right, bottom = x + value["width"] * scale[0], y + value["height"] * scale[1]
    corners = np.array([[x, y], [right, y], [right, bottom], [x, bottom]])
    return polygon(turned(corners, (x, y), degrees).tolist(), shape)
