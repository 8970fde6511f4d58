"""What people corrected in other tools: back to the pixel, in evaluation and in exports."""

import base64
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from s3pot_batch.manifests.outcomes import Outcome, write_outcomes
from s3pot_batch.pipeline.corrections import CORRECTIONS, read_corrections
from s3pot_batch.pipeline.corrections.drawing import Drawing, Unread
from s3pot_batch.pipeline.corrections.drawing import Drawn as Stroke
from s3pot_batch.pipeline.corrections.importing import import_corrections, take
from s3pot_batch.pipeline.evaluation.evaluate import evaluate
from s3pot_batch.pipeline.export import EVERYTHING, cvat, export, label_studio, labelme
from s3pot_batch.pipeline.export._photos import answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import decode_rle, encode_rle
from tests.pipeline.answered import Drawn, block, make_run, photos
from tests.pipeline.conftest import run as command

FORMATS = ("coco", "cvat", "labelme", "label-studio")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, photos())


def exported(run: Path, name: str, options: ExportOptions = EVERYTHING) -> Path:
    """An export of that format, with what a tool that shows it without a change would give back."""
    folder = export(run, name, options=options).folder
    if name == "label-studio":
        tasks = json.loads((folder / "tasks.json").read_text())
        done = [{**task, "annotations": [{"result": task["predictions"][0]["result"]}]} for task in tasks]
        (folder / "tasks.json").write_text(json.dumps(done))
    return folder


def rows(run: Path) -> dict[str, dict]:
    """Of each photo, its masks as they are exported now."""
    return {photo.item.image_id: photo.row for photo in answered_photos(run, ExportOptions())}


@pytest.mark.parametrize("options", [ExportOptions(), ExportOptions(photos=True)], ids=["", "photos"])
@pytest.mark.parametrize("name", FORMATS)
def test_without_a_change_everything_is_the_same_to_the_pixel(run, name, options):
    before = rows(run)
    done = import_corrections(run, name, exported(run, name, options))
    assert (done.taken, done.photos, done.unread) == (4, 4, ())
    assert sorted(read_corrections(run)) == ["Zoë/größe", "clean", "none", "turned"]
    after = rows(run)
    for image_id, row in after.items():
        figures = ("predicted_iou",)
        assert {key: row[key] for key in row if key not in figures} == {
            key: before[image_id][key] for key in row if key not in figures
        }
    clean = read_corrections(run)["clean"]
    assert not decode_rle(clean["occlusion"]).any(), "nothing is hidden, and that is known"
    assert after["none"]["status"] == "no_face"


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_corrected_can_be_exported_and_corrected_again(run, name):
    import_corrections(run, name, exported(run, name))
    first = read_corrections(run)
    assert import_corrections(run, name, exported(run, name)).photos == 4
    assert read_corrections(run) == first


def erased(folder: Path, name: str) -> None:
    """Remove all that is drawn as hidden on the first photo."""
    if name == "coco":
        path = folder / "annotations.json"
        content = json.loads(path.read_text())
        content["annotations"] = [
            one for one in content["annotations"] if one["image_id"] != 1 or one["category_id"] == 1
        ]
        path.write_text(json.dumps(content))
    elif name == "cvat":
        tree = ET.parse(folder / "annotations.xml")
        image = tree.getroot().find("image")
        for mask in [one for one in image if one.get("label") == "occlusion"]:
            image.remove(mask)
        tree.write(folder / "annotations.xml")
    elif name == "labelme":
        path = folder / "Zoë" / "größe.json"
        content = json.loads(path.read_text())
        content["shapes"] = [one for one in content["shapes"] if one["label"] == "face"]
        path.write_text(json.dumps(content))
    else:
        path = folder / "tasks.json"
        content = json.loads(path.read_text())
        annotation = content[0]["annotations"][0]
        annotation["result"] = [one for one in annotation["result"] if one["value"]["brushlabels"] == ["face"]]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", FORMATS)
def test_a_correction_is_truth_and_preferred(run, name):
    before = rows(run)
    folder = exported(run, name)
    erased(folder, name)
    import_corrections(run, name, folder)
    row = rows(run)["Zoë/größe"]
    assert not decode_rle(row["occlusion"]).any()
    assert (row["occlusion_ratio"], [face["occlusion_ratio"] for face in row["faces"]]) == (0, [0, 0])
    assert row["face_region"] == before["Zoë/größe"]["face_region"]
    assert [face["score"] for face in row["faces"]] == [0.5, 0.5], "figures stay with their faces"
    export(run, "png")
    with Image.open(run / "masks" / "Zoë" / "größe.png") as mask:
        assert not np.asarray(mask).any()
    result = evaluate(run.parent / "in.parquet", {"S3POT": run})
    figures = {Path(one["image"]).stem: one for one in result.rows.to_pylist()}
    assert sorted(figures) == ["clean", "größe", "none", "turned"]
    assert figures["turned"]["iou"] == 1
    assert figures["größe"]["iou"] is None
    assert figures["größe"]["false_positive_area"] == pytest.approx(before["Zoë/größe"]["occlusion_ratio"])
    assert result.skipped == 1


def test_a_correction_goes_before_the_manifests_own_truth(run):
    table = pq.read_table(run / "segments.parquet")
    own = [json.dumps(encode_rle(block(0, 5, 0, 5)))] + [None] * 4
    table = table.set_column(table.column_names.index("mask"), "mask", [own])
    pq.write_table(table, run / "segments.parquet")
    manifest = run.parent / "in.parquet"
    [row] = evaluate(manifest, {"S3POT": run}).rows.to_pylist()
    assert row["iou"] == 0
    import_corrections(run, "coco", exported(run, "coco", ExportOptions(min_faces=2)))
    [row] = evaluate(manifest, {"S3POT": run}).rows.to_pylist()
    assert row["iou"] == 1


def test_without_truth_and_corrections_evaluation_says_what_lacks(run):
    with pytest.raises(ConfigError, match="the column mask is empty; evaluation needs a ground truth"):
        evaluate(run.parent / "in.parquet", {"S3POT": run})


def test_a_correction_of_another_photo_by_that_name_is_not_used(run, capsys):
    def read_as(content: str) -> None:
        outcomes = [Outcome(n, name, "no_face", content=content) for n, name in enumerate(photos())]
        write_outcomes(run, "segments", 0, outcomes, "f")

    read_as("old")
    import_corrections(run, "coco", exported(run, "coco"))
    assert len(read_corrections(run)) == 4
    read_as("new")
    assert read_corrections(run) == {}
    assert "not used for photos that are others by now (Zoë/größe, turned, clean and 1 more)" in capsys.readouterr().err
    import_corrections(run, "coco", exported(run, "coco", ExportOptions(min_faces=2)))
    assert list(read_corrections(run)) == ["Zoë/größe"]
    assert len(read_corrections(run, outdated=True)) == 4, "nobody's work is thrown away"


# Which face is meant


def taken(run: Path, drawing: Drawing) -> dict:
    """The row of a photo on which that was drawn."""
    done = take(run, [drawing], "coco", "file")
    assert done.unread == ()
    [image_id] = read_corrections(run)
    return rows(run)[image_id]


def test_shapes_without_groups_find_their_faces(run):
    left, right = photos()["Zoë/größe"].faces
    drawn = (Stroke("face", right[1]), Stroke("occlusion", left[0]), Stroke("face", left[1]),
             Stroke("occlusion", right[0]))  # fmt: skip
    row = taken(run, Drawing("größe.png", (40, 60), drawn))
    assert row["faces"] == rows_before(run)["Zoë/größe"]["faces"]


def rows_before(run: Path) -> dict[str, dict]:
    table = pq.read_table(run / "segments.parquet").to_pylist()
    return {row["image_id"]: row for row in table}


def test_a_face_that_was_missed_and_one_that_is_none(run):
    left, new = photos()["Zoë/größe"].faces[0], block(0, 2, 50, 60)
    drawn = (Stroke("face", left[1], 1), Stroke("face", new, 2), Stroke("occlusion", new & block(0, 1, 0, 60), 2))
    row = taken(run, Drawing("Zoë/größe.png", (40, 60), drawn))
    assert [(face["score"], face["bbox"], face["occlusion_ratio"]) for face in row["faces"]] == [
        (0.5, [3.0, 5.0, 33.0, 35.0], 0.0), (None, [50.0, 0.0, 60.0, 2.0], 0.5),
    ]  # fmt: skip


def test_hidden_pixels_alone_leave_the_faces_where_they_were(run):
    hand = block(0, 40, 40, 60)
    row = taken(run, Drawing("Zoë/größe.png", (40, 60), (Stroke("occlusion", hand),)))
    regions = [face["face_region"] for face in rows_before(run)["Zoë/größe"]["faces"]]
    assert [face["face_region"] for face in row["faces"]] == regions
    assert [bool(face["occlusion_ratio"]) for face in row["faces"]] == [False, True]
    assert (decode_rle(row["occlusion"]) == hand).all(), "as it was drawn, beyond the face, too"


def test_a_photo_that_failed_can_be_drawn_by_hand(run):
    row = taken(run, Drawing("gone.png", (7, 9), (Stroke("face", block(1, 3, 2, 8, (7, 9))),)))
    assert (row["status"], row["height"], row["width"]) == ("ok", 7, 9)


NAMES = {
    "its own": ("Zoë/größe.png", "Zoë/größe"),
    "its id": ("Zoë/größe", "Zoë/größe"),
    "decomposed letters": ("Zoe\u0308/gro\u0308ße.png", "Zoë/größe"),
    "a folder more": ("upload/7/Zoë/größe.png", "Zoë/größe"),
    "a folder less": ("größe.png", "Zoë/größe"),
    "another suffix": ("turned.png", "turned"),
    "from Windows": ("C:\\photos\\clean.png", "clean"),
}


@pytest.mark.parametrize("case", NAMES)
def test_photos_are_known_by_what_tools_call_them(run, case):
    called, image_id = NAMES[case]
    shape = (60, 40) if image_id == "turned" else (40, 60)
    assert take(run, [Drawing(called, shape, ())], "coco", "file").unread == ()
    assert list(read_corrections(run)) == [image_id]


def test_a_name_that_two_photos_share_is_no_guess(tmp_path):
    run = make_run(tmp_path, {"a/x": Drawn(), "b/x": Drawn()})
    [unread] = take(run, [Drawing("x.png", (40, 60), ())], "coco", "file").unread
    assert unread == Unread("x.png", "2 photos of this run are called so; keep their folders in the tool")
    assert not (run / CORRECTIONS).exists()


# Polygons and other shapes


def test_polygons_boxes_and_ellipses_have_an_inside():
    square = [[10, 5], [30, 5], [30, 25], [10, 25]]
    expected = block(5, 25, 10, 30)
    size = (40, 60)
    percent = {"x": 100 * 10 / 60, "y": 100 * 5 / 40, "width": 100 * 20 / 60, "height": 100 * 20 / 40}
    found = [
        cvat._mask("polygon", {"points": ";".join(f"{x},{y}" for x, y in square)}, size),
        cvat._mask("box", {"xtl": "10", "ytl": "5", "xbr": "30", "ybr": "25"}, size),
        cvat._mask("box", {"xtl": "10", "ytl": "5", "xbr": "30", "ybr": "25", "rotation": "90"}, size),
        labelme._mask({"shape_type": "polygon", "points": square}, size),
        labelme._mask({"shape_type": "rectangle", "points": [square[0], square[2]]}, size),
        label_studio._mask({"type": "rectanglelabels", "value": percent}, size),
        label_studio._mask(
            {"type": "polygonlabels", "value": {"points": [[x / 0.6, y / 0.4] for x, y in square]}}, size
        ),
        label_studio._mask(  # a quarter turn about its own upper left corner
            {"type": "rectanglelabels", "value": {**percent, "x": 100 * 30 / 60, "rotation": 90}}, size
        ),
    ]
    assert [np.argwhere(mask != expected).tolist() for mask in found] == [[]] * len(found)
    circles = [
        cvat._mask("ellipse", {"cx": "20", "cy": "15", "rx": "10", "ry": "10"}, size),
        labelme._mask({"shape_type": "circle", "points": [[20, 15], [30, 15]]}, size),
        label_studio._mask(
            {"type": "ellipselabels",
             "value": {"x": 100 * 20 / 60, "y": 100 * 15 / 40, "radiusX": 100 * 10 / 60, "radiusY": 100 * 10 / 40}},
            size,
        ),
    ]  # fmt: skip
    assert [mask.sum() for mask in circles] == [pytest.approx(np.pi * 100, rel=0.02)] * 3
    tall = cvat._mask("ellipse", {"cx": "20", "cy": "15", "rx": "10", "ry": "2", "rotation": "90"}, size)
    assert np.ptp(tall.nonzero()[0]) > 3 * np.ptp(tall.nonzero()[1])


# Bad input


BAD_FILES = {
    "coco": (b"[1, 2]", "no COCO annotations"),
    "cvat": (b"<annotations><image", "not CVAT for images 1.1"),
    "label-studio": (b'{"a": 1}', "no tasks of Label Studio"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_of_something_else_is_one_line(run, tmp_path, name):
    content, message = BAD_FILES[name]
    path = tmp_path / f"bad.{'xml' if name == 'cvat' else 'json'}"
    path.write_bytes(content)
    done = command("import", "--run", run, "--format", name, path)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (run / CORRECTIONS).exists()


def test_xml_with_entities_is_refused(run, tmp_path):
    (tmp_path / "bad.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    with pytest.raises(ConfigError, match="it has a DOCTYPE"):
        import_corrections(run, "cvat", tmp_path / "bad.xml")


def test_what_is_wrong_with_one_photo_costs_that_photo(run):
    folder = exported(run, "labelme")
    (folder / "turned.json").write_text("{")
    clean = json.loads((folder / "clean.json").read_text())
    clean["shapes"][0]["label"] = "beard"
    (folder / "clean.json").write_text(json.dumps(clean))
    none = json.loads((folder / "none.json").read_text())
    (folder / "none.json").write_text(json.dumps({**none, "imageWidth": 40, "imageHeight": 60}))
    done = command("import", "--run", run, "--format", "labelme", folder, "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert (facts["taken"], facts["photos"]) == (1, 1)
    reasons = {Path(one["name"]).stem: one["error"] for one in facts["unread"]}
    assert sorted(reasons) == ["clean", "none", "turned"]
    assert reasons["clean"] == "label 'beard' is neither face nor occlusion; rename it in the tool"
    assert reasons["none"].startswith("drawn on 40×60 pixels, and the upright photo has 60×40; export --photos")
    assert list(read_corrections(run)) == ["Zoë/größe"]


def broken(mask: str) -> dict[str, str]:
    return {
        "rle": {"rle": "1,2,3", "left": "0", "top": "0", "width": "3", "height": "3"},
        "place": {"rle": "0,9", "left": "58", "top": "0", "width": "3", "height": "3"},
        "negative": {"rle": "-1,10", "left": "0", "top": "0", "width": "3", "height": "3"},
    }[mask]


@pytest.mark.parametrize("mask", ["rle", "place", "negative"])
def test_a_damaged_mask_costs_its_photo(run, mask):
    folder = exported(run, "cvat")
    tree = ET.parse(folder / "annotations.xml")
    tree.getroot().find("image").find("mask").attrib.update(broken(mask))
    tree.write(folder / "annotations.xml")
    done = import_corrections(run, "cvat", folder / "annotations.xml")
    assert (done.taken, [one.name for one in done.unread]) == (3, ["Zoë/größe.png"])
    assert "does not fit" in done.unread[0].error


def test_a_zip_is_read_as_cvat_writes_it(run, tmp_path):
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.write(exported(run, "cvat") / "annotations.xml", "annotations.xml")
    assert import_corrections(run, "cvat", tmp_path / "job.zip").taken == 4
    (tmp_path / "job.zip").write_bytes(b"PK\3\4 half")
    with pytest.raises(ConfigError, match="a damaged ZIP"):
        import_corrections(run, "cvat", tmp_path / "job.zip")


def test_what_nobody_looked_at_is_no_correction(run):
    folder = export(run, "label-studio").folder
    assert import_corrections(run, "label-studio", folder).taken == 0
    assert not (run / CORRECTIONS).exists()


def test_a_format_that_cannot_come_back_says_which_can(run):
    with pytest.raises(ConfigError, match="format hf cannot be imported; coco, cvat, label_studio, labelme can"):
        import_corrections(run, "hf", run)


def test_a_mask_of_labelme_that_leaves_the_photo(run):
    folder = exported(run, "labelme")
    content = json.loads((folder / "clean.json").read_text())
    stream = io.BytesIO()
    Image.fromarray(np.ones((30, 90), np.uint8)).save(stream, "PNG")
    content["shapes"][0]["mask"] = base64.b64encode(stream.getvalue()).decode()
    (folder / "clean.json").write_text(json.dumps(content))
    [unread] = import_corrections(run, "labelme", folder / "clean.json").unread
    assert "leaves the photo" in unread.error


def test_a_second_drawing_of_a_photo_is_no_guess(run):
    first = Drawing("clean.png", (40, 60), ())
    done = take(run, [first, replace(first, name="clean")], "coco", "file")
    assert (done.taken, done.unread) == (1, (Unread("clean", "a second drawing of this photo; leave one"),))
