import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.cli import app
from s3pot_batch.pipeline.evaluation.compose import Composition, compose, parse_splits
from s3pot_batch.pipeline.evaluation.placement import Portrait, place, random_shape, skin_toned, tight
from s3pot_batch.stages.errors import ConfigError

MARKS = np.array([[48.0, 60], [80, 60], [64, 80], [52, 98], [76, 98]])
KINDS = ("hands", "medical_masks", "glasses", "scarves", "objects", "textures")
DATA = Path(os.environ.get("S3POT_DATA", Path(__file__).parents[3] / "shared" / "data"))


def portrait(tone=(200, 150, 120)):
    image = np.full((160, 128, 3), 60, np.uint8)
    cv2.ellipse(image, (64, 78), (36, 50), 0, 0, 360, tone, -1)
    return image


@pytest.fixture
def material(tmp_path):
    """Twelve drawn faces with landmarks, and four cut-outs of each kind."""
    rng, rows = np.random.default_rng(0), []
    for n in range(12):
        Image.fromarray(portrait(tuple(int(c) for c in rng.integers(120, 220, 3)))).save(tmp_path / f"face{n}.png")
        rows.append({"image": f"face{n}.png", "landmarks": MARKS.ravel().tolist()})
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "faces.parquet")
    for kind in KINDS:
        (tmp_path / "cutouts" / kind).mkdir(parents=True)
        for n in range(4):
            thing = np.zeros((40, 60, 4), np.uint8)
            thing[5:35, 5:55, :3] = rng.integers(0, 256, 3)
            thing[5:35, 5:55, 3] = 255
            Image.fromarray(thing).save(tmp_path / "cutouts" / kind / f"{n}.png")
    return Composition(tmp_path / "faces.parquet", tmp_path / "cutouts", tmp_path / "out", count=24)


def test_the_benchmark_is_what_it_says(material):
    rows = pq.read_table(compose(material)).to_pylist()
    assert len(rows) == 24
    assert {row["kind"] for row in rows} == {*KINDS, "none", "shapes"} - {"textures"}
    for row in rows:
        image = np.asarray(Image.open(material.out / row["image"]))
        mask = np.asarray(Image.open(material.out / row["mask"]))
        assert image.shape == (160, 128, 3)
        assert mask.shape == (160, 128)
        assert set(np.unique(mask)) <= {0, 255}
        assert (row["kind"] == "none") == (row["cutout"] is None)
        if row["kind"] == "none":
            assert not mask.any()
    assert sum(row["kind"] == "none" for row in rows) == pytest.approx(0.2 * 24, abs=1)
    assert "landmarks" not in rows[0]


def test_no_face_and_no_cutout_is_in_two_splits(material):
    rows = pq.read_table(compose(material)).to_pylist()
    for column in ("face_source", "cutout"):
        used = {split: {row[column] for row in rows if row["split"] == split and row[column]}
                for split in ("train", "test")}  # fmt: skip
        assert used["train"]
        assert used["test"]
        assert not used["train"] & used["test"]
    parts = [pq.read_table(material.out / f"{split}.parquet").num_rows for split in ("train", "test")]
    assert parts == [12, 12]


def test_the_same_seed_gives_the_same_bytes(material, tmp_path):
    first, again = compose(material).parent, compose(replace(material, out=tmp_path / "again")).parent
    names = sorted(path.relative_to(first) for path in first.rglob("*.*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*.*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    other = compose(replace(material, out=tmp_path / "other", seed=1)).parent
    assert pq.read_table(other / "manifest.parquet") != pq.read_table(first / "manifest.parquet")


@pytest.mark.parametrize("kind", ["medical_masks", "glasses", "sunglasses", "scarves", "mugs"])
def test_what_is_hidden_is_what_changed_inside_the_face(kind):
    face = Portrait(portrait(), MARKS)
    thing = np.zeros((40, 60, 4), np.uint8)
    thing[..., 2:] = 255
    placed = place(np.random.default_rng(3), face, kind, thing)
    assert placed.hidden.any()
    assert not (placed.hidden & ~face.region).any()
    changed = np.abs(placed.image.astype(int) - face.image).max(2) > 60
    assert changed[placed.hidden].mean() > 0.95
    solid = cv2.erode(placed.hidden.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert solid.any()


def test_glasses_sit_on_the_eyes_and_masks_and_scarves_on_the_mouth():
    face, thing = Portrait(portrait(), MARKS), np.full((20, 60, 4), 255, np.uint8)
    glasses = place(np.random.default_rng(0), face, "glasses", thing).hidden
    assert glasses[60, 48]
    assert glasses[60, 80]
    assert not glasses[100, 64]
    mask = place(np.random.default_rng(0), face, "medical_masks", np.full((40, 60, 4), 255, np.uint8)).hidden
    assert mask[98, 64]
    assert not mask[60, 64]
    for height in (20, 200):  # a long scarf hangs lower; it does not reach higher
        scarf = place(np.random.default_rng(0), face, "scarves", np.full((height, 60, 4), 255, np.uint8)).hidden
        assert scarf[98, 64]
        assert not scarf[60, 64]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cut_off", range(4))
def test_what_enters_comes_from_the_border_with_its_cut_off_side(cut_off, seed):
    thing = np.zeros((60, 60, 4), np.uint8)
    cv2.ellipse(thing, (30, 59), (14, 55), 0, 0, 360, (255, 0, 255, 255), -1)  # an arm, cut off below, …
    thing[:25][thing[:25, :, 3] > 0] = (0, 255, 0, 255)  # … with a green hand
    face = tight(np.random.default_rng(seed), Portrait(portrait(), MARKS))
    placed = place(np.random.default_rng(seed), face, "objects", np.rot90(thing, -cut_off), entering=True)
    blue = (placed.image[..., 2] > 150) & (placed.image[..., 1] < 120)
    border = np.concatenate([blue[0], blue[-1], blue[:, 0], blue[:, -1]])
    assert border.any()
    assert placed.hidden.any()
    hand = np.argwhere((placed.image[..., 1] > 150) & (placed.image[..., 2] < 100))
    middle = np.array(face.image.shape[:2]) / 2
    assert np.linalg.norm(hand.mean(0) - middle) < np.linalg.norm(np.argwhere(blue).mean(0) - middle) + 10


def test_a_tight_photo_ends_at_about_the_outline_and_its_points_move_along():
    face = Portrait(portrait(), MARKS, Portrait(portrait(), MARKS).outline)
    for seed in range(10):
        cut = tight(np.random.default_rng(seed), face)
        low, high = cut.outline.min(0), cut.outline.max(0)
        size = np.array(cut.image.shape[1::-1])
        assert (np.abs(low) <= 0.11 * (high - low) + 1).all()
        assert (np.abs(size - high) <= 0.11 * (high - low) + 1).all()
        x, y = np.round(cut.landmarks[2]).astype(int)
        assert (cut.image[y, x] == face.image[80, 64]).all()
        assert np.allclose(cut.outline - cut.landmarks[0], face.outline - face.landmarks[0])


def test_tight_and_entering_photos_are_a_share_and_the_others_stay(material, tmp_path):
    plain = compose(material).parent
    half = compose(replace(material, out=tmp_path / "half", tight=0.5, entering=0.5)).parent
    sizes = {path.name: cv2.imread(str(path)).shape for path in (half / "images").iterdir()}
    cut = [name for name, size in sizes.items() if size != (160, 128, 3)]
    assert 6 <= len(cut) <= 18
    same = [n for n in sizes if (plain / "images" / n).read_bytes() == (half / "images" / n).read_bytes()]
    assert 3 <= len(same) <= 24 - len(cut)


def test_a_hand_takes_on_the_faces_tone():
    face = Portrait(portrait((110, 70, 50)), MARKS)
    hand = np.full((160, 128, 3), (240, 200, 190), np.float32)
    toned = skin_toned(hand, np.ones((160, 128), bool), face).mean((0, 1))
    assert np.abs(toned - (110, 70, 50)).max() < 40
    assert np.abs(toned - (110, 70, 50)).sum() < 0.3 * np.abs(np.array([240, 200, 190]) - (110, 70, 50)).sum()


def test_a_random_shape_is_filled_with_its_texture():
    texture = np.full((50, 70, 4), (10, 200, 30, 255), np.uint8)
    shape = random_shape(np.random.default_rng(0), texture)
    assert shape.shape == (50, 50, 4)
    assert 0.1 < (shape[..., 3] > 127).mean() < 0.9
    assert (shape[shape[..., 3] > 127, :3] == (10, 200, 30)).all()


@pytest.mark.parametrize("text", ["train", "a=1,a=2", "a=0", "a=x", "a b=1"])
def test_wrong_splits_are_named(text):
    with pytest.raises(ConfigError, match="--splits"):
        parse_splits(text)


def test_the_command(material, tmp_path):
    arguments = ["compose", "--faces", str(material.faces), "--cutouts", str(material.cutouts), "--out",
                 str(tmp_path / "made"), "--count", "6", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "made" / "manifest.parquet").num_rows == 6
    arguments[4] = str(tmp_path / "nothing")
    assert CliRunner().invoke(app, arguments).exit_code == 2
    write_parquet(pa.table({"image": ["face0.png"]}), tmp_path / "bare.parquet")
    arguments[2:5] = [str(tmp_path / "bare.parquet"), "--cutouts", str(material.cutouts)]
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.skipif(not (DATA / "faces.parquet").exists(), reason="S3POT_DATA names no photos")
def test_on_real_faces_and_cutouts(tmp_path):
    made = compose(Composition(DATA / "faces.parquet", DATA / "cutouts", tmp_path, count=14))
    rows = pq.read_table(made).to_pylist()
    hidden = [np.asarray(Image.open(tmp_path / row["mask"])).any() for row in rows if row["kind"] != "none"]
    assert np.mean(hidden) > 0.9
