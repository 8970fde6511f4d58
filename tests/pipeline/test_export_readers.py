"""Readers that bring much along, each run where it is installed; `docs/exports.md` says which. Masks come back."""

import json

import numpy as np
import pytest
from PIL import Image

from s3pot_batch.pipeline.corrections.brush import decode_brush
from s3pot_batch.pipeline.export import export
from s3pot_batch.pipeline.options import ExportOptions
from tests.pipeline.answered import make_run, photos

LABELS = ("occlusion", "face")
pytestmark = pytest.mark.filterwarnings("ignore")  # what these packages say while they are imported is theirs to mend


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("answered"), photos())


@pytest.fixture
def drawn():
    return {name: photo for name, photo in photos().items() if not photo.failed}


def masks_of(photo) -> list[tuple[str, int, bytes]]:
    """Every mask of a photo with its label and its face, counted from 1, in an order of its own."""
    return sorted(
        (label, number, mask.tobytes())
        for number, face in enumerate(photo.faces, 1)
        for label, mask in zip(LABELS, face, strict=True)
        if mask.any()
    )


def whole(mask, box, shape) -> np.ndarray:
    """A mask that a tool keeps inside its box, in the photo; ``box`` is left and top."""
    left, top = box
    found = np.zeros(shape, bool)
    found[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return found


def test_labelme_opens_every_file(run, drawn, tmp_path):
    labelme = pytest.importorskip("labelme")
    export(run, "labelme", tmp_path)
    for name, photo in drawn.items():
        file = labelme.LabelFile(str(tmp_path / f"{name}.json"))
        assert Image.fromarray(labelme.utils.img_data_to_arr(file.image_data)).size == photo.shape[::-1]
        found = [
            (one["label"], one["group_id"], whole(one["mask"], map(int, one["points"][0]), photo.shape).tobytes())
            for one in file.shapes
        ]
        assert sorted(found) == masks_of(photo)


def test_label_studios_converter_reads_every_stroke(run, drawn, tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    export(run, "label-studio", tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for task, photo in zip(tasks, drawn.values(), strict=True):
        found = []
        for one in task["predictions"][0]["result"]:
            [layer] = brush.decode_from_annotation("label", [{**one, **one["value"]}]).values()
            found.append((*one["value"]["brushlabels"], int(one["id"].split("-")[1]), (layer == 255).tobytes()))
        assert sorted(found) == masks_of(photo)


def test_strokes_of_label_studios_converter_come_back(drawn):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    noise = np.random.default_rng(0).random((40, 60)) < 0.5
    for mask in (noise, *(mask for photo in drawn.values() for face in photo.faces for mask in face)):
        stroke = brush.encode_rle(np.repeat(255 * mask.astype(np.uint8).ravel(), 4))
        assert (decode_brush(stroke, mask.shape) == mask).all()


def test_datumaro_reads_cvats_file(run, drawn, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    export(run, "cvat", tmp_path, ExportOptions(photos=True))
    dataset = datumaro.Dataset.import_from(str(tmp_path), "cvat")
    labels = [one.name for one in dataset.categories()[datumaro.AnnotationType.label]]
    found = {item.id: item for item in dataset}
    assert set(found) == set(drawn)
    for name, photo in drawn.items():
        assert found[name].media.data.shape[:2] == photo.shape
        masks = [(labels[one.label], one.group, one.image.astype(bool).tobytes()) for one in found[name].annotations]
        assert sorted(masks) == masks_of(photo)


def test_fiftyone_reads_label_maps_and_faces(run, drawn, tmp_path):
    """Its importers alone: a dataset of its own lives in a MongoDB."""
    importers, coco = (pytest.importorskip(f"fiftyone.utils.{name}") for name in ("data.importers", "coco"))
    export(run, "fiftyone", tmp_path)
    names = {str(run.parent / "photos" / f"{name}{photo.suffix}"): photo for name, photo in drawn.items()}
    with importers.ImageSegmentationDirectoryImporter(str(tmp_path), "data.json", load_masks=True) as maps:
        found = {path: label.mask for path, _, label in maps}
    assert set(found) == set(names)
    for path, photo in names.items():
        assert (found[path] == photo.united(1).astype(int) + photo.united(0)).all()
    reader = coco.COCODetectionDatasetImporter(str(tmp_path), "data.json", "faces.json", label_types="segmentations")
    with reader as faces:
        seen = {path: (size, label.detections if label else ()) for path, size, label in faces}
    assert set(seen) == set(names)
    for path, photo in names.items():
        size, detections = seen[path]
        assert (size.height, size.width) == photo.shape
        masks = []
        for one in detections:
            corner = (np.array(one.bounding_box[:2]) * photo.shape[::-1]).round().astype(int)
            masks.append((one.label, one["face"], whole(one.mask, corner, photo.shape).tobytes()))
        assert sorted(masks) == masks_of(photo)
