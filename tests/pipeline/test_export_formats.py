"""What other tools make of an export: each of their own readers that can be installed reads it back."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.corrections.brush import decode_brush, encode_brush
from s3pot_batch.pipeline.corrections.drawing import BadDrawing
from s3pot_batch.pipeline.export import export
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.store import ArraySpec
from tests.pipeline.answered import Drawn, block, make_run, photos

STROKE = [0, 0, 0, 112, 57, 27, 254, 35, 0, 183, 255, 124, 2, 223, 254, 31, 0, 143, 252]
FORMATS = ("png", "coco", "cvat", "labelme", "label-studio", "fiftyone", "hf")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("answered"), photos())


@pytest.fixture
def drawn():
    return {name: photo for name, photo in photos().items() if not photo.failed}


def picture(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# PNG


def test_every_part_can_be_drawn_and_inverted(run, drawn, tmp_path):
    for part in ("occlusion", "visible", "face"):
        for invert in (False, True):
            export(run, "png", tmp_path, ExportOptions(part=part, invert=invert))
            for name, photo in drawn.items():
                hidden, whole = photo.united(0), photo.united(1)
                mask = {"occlusion": hidden, "visible": whole & ~hidden, "face": whole}[part]
                assert (picture(tmp_path / f"{name}.png") == 255 * (mask ^ invert)).all()


def test_another_manner_has_a_folder_of_its_own(run):
    assert export(run, "png").folder == run / "masks"
    options = ExportOptions(part="visible", invert=True, cutout=True)
    assert export(run, "png", options=options).folder == run / "masks-visible-inverted-cutout"


def test_a_cutout_is_the_upright_photo_with_the_seen_face_as_alpha(run, drawn, tmp_path):
    assert export(run, "png", tmp_path, ExportOptions(cutout=True)).count == 4
    found, photo = picture(tmp_path / "Zoë" / "größe.png"), drawn["Zoë/größe"]
    assert (found[..., :3] == picture(run.parent / "photos" / "Zoë" / "größe.png")).all()
    assert (found[..., 3] == 255 * (photo.united(1) & ~photo.united(0))).all()
    assert picture(tmp_path / "turned.png").shape == (60, 40, 4)


def test_a_soft_edge_is_the_probability_in_the_photos_pixels(tmp_path):
    region = block(0, 16, 0, 16)
    run = make_run(tmp_path, {"a": Drawn(((region, region),))})
    values = np.random.default_rng(0).random((16, 16)).astype(np.float16)
    spec = {"occlusion": ArraySpec("float16", 16, "p")}
    store.create(run / "masks.zarr", read_plan(run), spec)
    sums = store.write_rows(run / "masks.zarr", spec, range(2), {0: {"occlusion": values}})
    face = FaceOutcome(0, (0, 0, 16, 16), 0.5, (1,) * 10, (1, 0, 0, 0, 1, 0), 0.9)  # where the frame is the photo
    write_outcomes(run, "segments", 0, [Outcome(0, "a", "ok", height=40, width=60, faces=(face,))], "f", sums)
    hidden = np.zeros((40, 60))
    hidden[:16, :16] = values
    for options, expected in (
        (ExportOptions(), hidden), (ExportOptions(part="visible"), region * (1 - hidden)),
        (ExportOptions(part="face"), region),
    ):  # fmt: skip
        export(run, "png", tmp_path / "soft", replace(options, edge="soft"))
        np.testing.assert_allclose(picture(tmp_path / "soft" / "a.png"), 255 * expected, atol=0.6)
    (run / "masks.zarr" / "occlusion" / "c.0.0.0").unlink()
    [failure] = export(run, "png", tmp_path, ExportOptions(edge="soft")).failures
    assert "row 0 is not what was written there; remove masks.zarr" in failure.error


# COCO


def test_pycocotools_reads_every_face(run, drawn, tmp_path, capsys):
    assert export(run, "coco", tmp_path).count == 4
    coco = COCO(tmp_path / "annotations.json")
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    images = {one["file_name"]: one for one in coco.loadImgs(coco.getImgIds())}
    assert list(images) == ["Zoë/größe.png", "turned.jpg", "clean.png", "none.png"]
    for image, photo in zip(images.values(), drawn.values(), strict=True):
        assert (image["height"], image["width"]) == photo.shape
        found = [(names[one["category_id"]], one["attributes"]["face"] - 1, coco.annToMask(one), one)
                 for one in coco.loadAnns(coco.getAnnIds(image["id"]))]  # fmt: skip
        assert len(found) == sum(mask.any() for face in photo.faces for mask in face)
        for label, face, mask, one in found:
            assert (mask == photo.faces[face][("occlusion", "face").index(label)]).all()
            assert one["area"] == mask.sum()
            y, x = mask.nonzero()
            assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


def test_supervision_reads_coco(run, drawn, tmp_path):
    supervision = pytest.importorskip("supervision")
    export(run, "coco", tmp_path, ExportOptions(photos=True))
    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path / "images"), str(tmp_path / "annotations.json"), force_masks=True
    )
    found = dataset.annotations[str(tmp_path / "images" / "Zoë/größe.png")]
    expected = [mask for occlusion, region in drawn["Zoë/größe"].faces for mask in (region, occlusion)]
    assert (np.asarray(found.mask) == np.array(expected)).all()
    assert [dataset.classes[n] for n in found.class_id] == ["face", "occlusion"] * 2


# CVAT


def test_cvats_own_decoder_reads_every_mask(run, drawn, tmp_path):
    masks = pytest.importorskip("cvat_sdk.masks")
    export(run, "cvat", tmp_path)
    images = {image.get("name"): image for image in ET.parse(tmp_path / "annotations.xml").getroot().iter("image")}
    assert list(images) == ["Zoë/größe.png", "turned.jpg", "clean.png", "none.png"]
    for image, photo in zip(images.values(), drawn.values(), strict=True):
        height, width = photo.shape
        found = image.findall("mask")
        assert len(found) == sum(mask.any() for face in photo.faces for mask in face)
        for one in found:
            left, top, across, down = (int(one.get(name)) for name in ("left", "top", "width", "height"))
            runs = [int(n) for n in one.get("rle").split(",")]
            encoded = [*runs, left, top, left + across - 1, top + down - 1]
            mask = photo.faces[int(one.get("group_id")) - 1][("occlusion", "face").index(one.get("label"))]
            assert (masks.decode_mask(encoded, image_width=width, image_height=height) == mask).all()
            assert masks.encode_mask(mask) == encoded


# labelme


def test_labelme_files_hold_what_labelme_reads(run, drawn, tmp_path):
    """As ``labelme.utils.shapes_to_label`` does; the package itself wants Qt."""
    assert export(run, "labelme", tmp_path).count == 4
    for name, photo in drawn.items():
        path = tmp_path / f"{name}.json"
        content = json.loads(path.read_text())
        assert (path.parent / content["imagePath"]).is_file()
        assert (content["imageHeight"], content["imageWidth"]) == photo.shape
        for shape in content["shapes"]:
            (x1, y1), (x2, y2) = np.asarray(shape["points"]).astype(int)
            mask = np.zeros(photo.shape, bool)
            mask[y1 : y2 + 1, x1 : x2 + 1] = picture(io.BytesIO(base64.b64decode(shape["mask"])))
            face = photo.faces[shape["group_id"] - 1]
            assert (mask == face[("occlusion", "face").index(shape["label"])]).all()


# Label Studio


def test_brush_strokes_are_those_of_label_studios_converter():
    """Written by ``label_studio_sdk.converter.brush.encode_rle`` 2.0.19, which would bring a second OpenCV."""
    mask = block(1, 3, 2, 5, (4, 7))
    mask[3, 6] = True
    theirs = STROKE
    assert (decode_brush(theirs, (4, 7)) == mask).all()
    assert encode_brush(mask) == theirs
    for wrong in (theirs[:-4], theirs[:5], []):
        with pytest.raises(BadDrawing):
            decode_brush(wrong, (4, 7))
    with pytest.raises(BadDrawing, match="not 7×5 pixels"):
        decode_brush(theirs, (5, 7))


@pytest.mark.parametrize("value", [True, False])
def test_strokes_longer_than_a_run_may_be(value):
    mask = np.full((300, 301), value)
    assert (decode_brush(encode_brush(mask), mask.shape) == mask).all()


def test_label_studio_has_a_task_per_photo(run, tmp_path):
    export(run, "label-studio", tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image_id"] for task in tasks] == ["Zoë/größe", "turned", "clean", "none"]
    assert tasks[0]["data"]["image"].endswith("photos/Zoë/größe.png")
    controls = ET.parse(tmp_path / "interface.xml").getroot()
    labels = {one.get("value") for one in controls.iter("Label")}
    for result in (one for task in tasks for one in task["predictions"][0]["result"]):
        assert result["from_name"] == controls.find("BrushLabels").get("name")
        assert set(result["value"]["brushlabels"]) <= labels


# FiftyOne


def test_fiftyones_label_maps_lie_beside_their_photos(run, drawn, tmp_path):
    export(run, "fiftyone", tmp_path)
    places = json.loads((tmp_path / "data.json").read_text())
    assert list(places) == [f"{name}.png" for name in drawn]
    for name, photo in drawn.items():
        assert Path(places[f"{name}.png"]).is_file()
        expected = photo.united(1).astype(int) + photo.united(0)
        assert (picture(tmp_path / "labels" / f"{name}.png") == expected).all()


def test_fiftyones_faces_are_those_of_coco_under_the_names_of_its_photos(run, tmp_path):
    whole = {name: export(run, name, tmp_path / name).folder for name in ("coco", "fiftyone")}
    coco = json.loads((whole["coco"] / "annotations.json").read_text())
    faces = json.loads((whole["fiftyone"] / "faces.json").read_text())
    assert [one["file_name"] for one in faces["images"]] == list(
        json.loads((whole["fiftyone"] / "data.json").read_text())
    )
    for one in (*coco["images"], *faces["images"]):
        del one["file_name"]
    assert faces == coco


# Hugging Face


def test_datasets_reads_photos_and_masks(run, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    export(run, "hf", tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["image_id"][:] == list(drawn)
    for row, photo in zip(found, drawn.values(), strict=True):
        assert np.asarray(row["image"]).shape == (*photo.shape, 3)
        assert (np.asarray(row["occlusion"]) == 255 * photo.united(0)).all()
        assert (np.asarray(row["face_region"]) == 255 * photo.united(1)).all()
        assert [face["bbox"] for face in row["faces"]] == [face["bbox"] for face in row["faces"] if face["score"]]
    assert (np.asarray(found[0]["image"]) == picture(run.parent / "photos" / "Zoë" / "größe.png")).all()


# All of them


FILTERED = {
    "status": (ExportOptions(status="no_face"), ["none"]),
    "little": (ExportOptions(max_ratio=0.1), ["clean"]),
    "much": (ExportOptions(min_ratio=0.1), ["Zoë/größe", "turned"]),
    "several": (ExportOptions(min_faces=2), ["Zoë/größe"]),
    "one face": (ExportOptions(min_faces=1, max_faces=1), ["turned", "clean"]),
    "nothing": (ExportOptions(min_ratio=0.99), []),
}


@pytest.mark.parametrize("case", FILTERED)
def test_filters_hold_for_every_format(case, run, tmp_path):
    options, names = FILTERED[case]
    for name in FORMATS:
        assert export(run, name, tmp_path / name, options).count == len(names)
    assert [one["image_id"] for one in json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]] == (
        names
    )
    assert pq.read_table(tmp_path / "hf")["image_id"].to_pylist() == names


@pytest.mark.parametrize("name", ["coco", "cvat", "labelme", "label-studio", "fiftyone"])
def test_photos_are_written_upright(name, run, tmp_path):
    export(run, name, tmp_path, ExportOptions(photos=True))
    assert picture(tmp_path / "images" / "turned.png").shape == (60, 40, 3)


def test_a_photo_that_is_gone_costs_itself_alone(tmp_path):
    run = make_run(tmp_path, photos())
    (tmp_path / "photos" / "clean.png").unlink()
    for name in ("labelme", "hf", "coco"):
        done = export(run, name, options=ExportOptions(photos=name != "hf"))
        assert (done.count, [one.image_id for one in done.failures]) == (3, ["clean"])


def test_what_a_format_does_not_take_is_refused(run):
    with pytest.raises(ConfigError, match="format coco does not take --edge; it takes --status, --min-ratio, "):
        export(run, "coco", options=ExportOptions(edge="soft"))
    with pytest.raises(ConfigError, match="--status bad: choose from ok, no_face, failed"):
        export(run, "coco", options=ExportOptions(status="bad"))


def test_an_answer_without_a_mask_per_face_is_refused(tmp_path):
    run = make_run(tmp_path, {"a": Drawn()})
    table = pq.read_table(run / "segments.parquet")
    pq.write_table(table.drop_columns(["faces"]), run / "segments.parquet")
    with pytest.raises(ManifestError, match="run s3pot-batch segment again"):
        export(run, "coco")
