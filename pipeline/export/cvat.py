"""CVAT's format *CVAT for images 1.1*: ``annotations.xml``, each mask as lossless RLE; a group is a face."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.corrections import box_of
from s3pot_batch.pipeline.corrections.drawing import (
    LABELS,
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
from s3pot_batch.pipeline.export import Written
from s3pot_batch.pipeline.export._photos import FILTERS, Pictures, Shape, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import Mask

FOLDER = "cvat"
CHOICES = (*FILTERS, "photos")
FILE = "annotations.xml"
VERSION = "1.1"


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write one file of all photos; a photo without shapes is in it all the same."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = VERSION
    labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for label in LABELS:
        entry = ET.SubElement(labels, "label")
        for tag, text in (("name", label), ("type", "mask"), ("attributes", "")):
            ET.SubElement(entry, tag).text = text
    pictures = Pictures(run, out, wanted=options.photos)
    for number, photo in enumerate(answered_photos(run, options)):
        height, width = photo.shape
        about = {"id": str(number), "name": _written(pictures.name(photo)), "width": str(width), "height": str(height)}
        image = ET.SubElement(root, "image", about)
        for shape in photo.shapes():
            ET.SubElement(image, "mask", _encoded(shape))
        yield pictures.write(photo)
    with replacing(out / FILE) as temporary:
        ET.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _written(name: str) -> str:
    """A name without what XML cannot hold, such as half an emoji."""
    return name.encode("utf-8", "replace").decode()


def _encoded(shape: Shape) -> dict[str, str]:
    """The attributes of a ``mask``: run lengths inside its box, row by row, the first one outside the mask."""
    x0, y0, x1, y1 = (int(n) for n in box_of(shape.mask))
    inside = shape.mask[y0:y1, x0:x1].ravel()
    ends = np.flatnonzero(np.diff(inside, prepend=False, append=not inside[-1]))
    runs = np.diff(ends, prepend=0)
    return {
        "label": shape.label, "source": "auto", "occluded": "0", "rle": ", ".join(map(str, runs.tolist())),
        "left": str(x0), "top": str(y0), "width": str(x1 - x0), "height": str(y1 - y0),
        "z_order": str(LABELS.index(shape.label)), "group_id": str(shape.face),
    }  # fmt: skip


def read(path: Path) -> Iterator[Drawing | Unread]:
    """The photos of CVAT's XML files; masks, polygons, boxes and ellipses count, points and lines do not.

    Raises:
        ConfigError: a file is not of this format.
    """
    for name, content in files_below(path, ".xml"):
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # CVAT writes neither, and entities may grow without end
            raise ConfigError(f"{name}: not CVAT for images {VERSION}; it has a DOCTYPE")
        try:
            root = ET.fromstring(content)  # noqa: S314 — without entities there is nothing in XML to be afraid of
        except ET.ParseError as error:
            raise ConfigError(f"{name}: not CVAT for images {VERSION} ({error}); export it again") from error
        if root.tag != "annotations" or root.find("track") is not None:
            raise ConfigError(f"{name}: not CVAT for images {VERSION}, but {root.tag}; choose that format in CVAT")
        for image in root.iter("image"):
            yield _drawing(image)


def _drawing(image: ET.Element) -> Drawing | Unread:
    name = image.get("name", "")
    try:
        shape = int(image.attrib["height"]), int(image.attrib["width"])
        drawn = tuple(
            Drawn(label_of(one.get("label")), _mask(one.tag, one.attrib, shape), _group(one))
            for one in image if one.tag != "tag"
        )  # fmt: skip
        return Drawing(name, shape, drawn)
    except BadDrawing as error:
        return Unread(name, str(error))
    except (KeyError, ValueError) as error:
        return Unread(name, f"a shape cannot be read ({error!r})")


def _group(shape: ET.Element) -> int | None:
    return int(shape.get("group_id") or 0) or None


def _mask(tag: str, given: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    if tag == "mask":
        return _decoded(given, shape)
    degrees = float(given.get("rotation", 0))
    if tag == "polygon":
        return polygon([[float(n) for n in pair.split(",")] for pair in given["points"].split(";")], shape)
    if tag == "box":
        return rectangle([float(given[name]) for name in ("xtl", "ytl", "xbr", "ybr")], shape, degrees)
    if tag == "ellipse":
        x, y, across, down = (float(given[name]) for name in ("cx", "cy", "rx", "ry"))
        return ellipse((x, y), (across, down), shape, degrees)
    raise BadDrawing(f"a shape of the kind {tag} has no inside; draw masks or polygons")


def _decoded(given: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    runs = [int(n) for n in given["rle"].split(",")]
    left, top, width, height = (int(given[name]) for name in ("left", "top", "width", "height"))
    fits = 0 <= left <= left + width <= shape[1] and 0 <= top <= top + height <= shape[0]
    if min(runs) < 0 or sum(runs) != width * height or not fits:
        raise BadDrawing(
            f"a mask of {width}×{height} pixels at {left}, {top} does not fit its run lengths or the photo"
        )
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
        height, width
    )
    return mask
