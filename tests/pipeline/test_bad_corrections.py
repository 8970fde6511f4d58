"""What is wrong with a file of corrections costs one photo, or the command says it in one line."""

import base64
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from s3pot_batch.pipeline.corrections import CORRECTIONS, read_corrections
from s3pot_batch.pipeline.corrections.drawing import Drawing, Unread
from s3pot_batch.pipeline.corrections.importing import import_corrections, take
from s3pot_batch.pipeline.export import export
from s3pot_batch.stages.errors import ConfigError
from tests.pipeline.answered import exported, make_run, photos, rows
from tests.pipeline.conftest import run as command


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, photos())


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


ODD = {
    "a size that no photo has": (("imageWidth",), 10**9, "no photo has 1000000000×40 pixels"),
    "no size": (("imageHeight",), None, "no file of labelme"),
    "an endless place": (("shapes", 0, "points"), [[float("inf"), 0], [1, 1]], "no file of labelme"),
    "a mask that is none": (("shapes", 0, "mask"), "AAAA", "no file of labelme"),
    "shapes of another kind": (("shapes",), 7, "no file of labelme"),
    "a line": (("shapes", 0, "shape_type"), "line", "a shape of the kind line has no inside"),
    "no name": (("image_id",), "", "no photo of this run is called so"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_values_cost_their_photo(run, case):
    folder = exported(run, "labelme")
    content = json.loads((folder / "clean.json").read_text())
    *path, last = ODD[case][0]
    part = content
    for key in path:
        part = part[key]
    part[last] = ODD[case][1]
    if case == "no name":
        content["imagePath"] = ""
    (folder / "clean.json").write_text(json.dumps(content))
    done = import_corrections(run, "labelme", folder)
    assert done.taken == 3
    [unread] = done.unread
    assert unread.error.startswith(ODD[case][2])


def test_a_group_that_is_no_name_is_none(run):
    folder = exported(run, "labelme")
    content = json.loads((folder / "turned.json").read_text())
    for shape in content["shapes"]:
        shape["group_id"] = [shape["group_id"]]
    (folder / "turned.json").write_text(json.dumps(content))
    before = rows(run)["turned"]["faces"]
    assert import_corrections(run, "labelme", folder / "turned.json").taken == 1
    assert rows(run)["turned"]["faces"] == before


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
