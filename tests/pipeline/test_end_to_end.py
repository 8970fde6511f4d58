"""The whole pipeline through the command line: the embedded models on real portraits, and the published formats."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image
from typer.testing import CliRunner

from examples.demo_photos import draw, load_portrait
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.cli import app
from s3pot_batch.stages.models.downloads import licences, pull
from s3pot_batch.stages.rle import decode_rle
from tests.pipeline.interrupted import command
from tests.pipeline.mirror import pulled_profile, write_mirror
from tests.published import IP_ADAPTER

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails from here on: it takes seconds, and there is nothing to compute
from s3pot_batch.pipeline.cli import main
main()
"""
SERIAL = ("--run", "serial", "--workers", 0, "--shard-size", 3, "--batch-size", 1)
"""The other way to do it; the test that interrupts it comes first, and it goes on from there."""


def here(*words, cwd):
    """A command in this process, which has loaded its libraries already."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three portraits, one of them with two faces, and four that cannot be segmented; half as large as they are."""
    some, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, thing in (("astronaut", "none"), ("hopper", "mask")):
        photo, hidden = (picture[::2, ::2] for picture in draw(name, thing, rng))
        Image.fromarray(photo).save(some / f"{name}_{thing}_0.jpg", quality=95)
        Image.fromarray(hidden.astype(np.uint8) * 255).save(some / f"{name}_{thing}_0_mask.png")
    hopper = load_portrait("hopper")[::2, ::2]
    Image.fromarray(np.hstack([hopper, hopper[:, ::-1]])).save(some / "two.jpg")
    (some / "text.jpg").write_text("no photo")
    (some / "cut.jpg").write_bytes((some / "two.jpg").read_bytes()[:9000])
    Image.fromarray(skimage.data.rocket()[::2, ::2]).save(some / "empty.jpg")
    lines = ["image,mask"] + [f"{p.name}," for p in sorted(some.glob("*.jpg"))] + ["gone.jpg,"]
    lines = [f"{x}{x[:-5]}_mask.png" if "_0" in x else x for x in lines]
    (some / "in.csv").write_text("\n".join(lines) + "\n")
    assert here("index", "in.csv", "--out", "in.parquet", cwd=some).exit_code == 0
    return some


@pytest.fixture(scope="module")
def run(photos):
    """The answer of two workers, with shards of two photos."""
    done = here("segment", "--manifest", "in.parquet", "--run", "run", "--workers", 2, "--shard-size", 2, cwd=photos)
    assert done.exit_code == 1, done.stderr
    assert "Traceback" not in done.stderr
    return photos / "run"


def test_every_row_has_a_status_and_a_reason(run):
    import pandas as pd

    answer = pd.read_parquet(run / "segments.parquet").set_index("image")
    assert answer["status"].to_dict() == {
        "astronaut_none_0.jpg": "ok", "cut.jpg": "failed", "empty.jpg": "no_face", "hopper_mask_0.jpg": "ok",
        "text.jpg": "failed", "two.jpg": "ok", "gone.jpg": "failed",
    }  # fmt: skip
    failed = answer[answer["status"] == "failed"]
    assert failed["error_type"].to_dict() == {
        "cut.jpg": "TruncatedImage", "text.jpg": "NotAnImage", "gone.jpg": "MissingFile",
    }  # fmt: skip
    assert failed["error"].str.len().gt(10).all()


def test_masks_are_in_the_photos_own_pixels(run, photos):
    for row in pq.read_table(run / "segments.parquet").to_pylist():
        if row["status"] == "ok":
            with Image.open(photos / row["image"]) as photo:
                size = photo.size[::-1]
            occlusion, region = decode_rle(row["occlusion"]), decode_rle(row["face_region"])
            assert occlusion.shape == region.shape == size == (row["height"], row["width"])
            assert not (occlusion & ~region).any()
            assert region.any()
            assert row["occlusion_ratio"] == pytest.approx(occlusion.sum() / region.sum())


def test_a_photo_of_two_has_two_faces(run):
    answer = {row["image"]: row for row in pq.read_table(run / "segments.parquet").to_pylist()}
    assert len(answer["two.jpg"]["faces"]) == 2


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(photos):
    words = ("segment", "--manifest", "in.parquet", *SERIAL)
    program = get_context("forkserver").Process(target=command, args=(photos, *map(str, words)))
    program.start()  # by the process that has started the workers: it has loaded the libraries already
    items, deadline = photos / "serial" / "items", time.monotonic() + 300
    while not list(items.rglob("*.parquet")):
        assert program.is_alive(), (photos / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(program.pid, signal.SIGINT)
    program.join(60)
    errors = (photos / "stderr").read_text()
    assert program.exitcode == 130
    assert errors.strip().splitlines()[-1] == "Interrupted; run the same command again to go on."
    assert "Traceback" not in errors
    before = {path: path.stat().st_mtime_ns for path in items.rglob("*.parquet")}
    assert 0 < len(before) < 6, "it was too fast to be interrupted"
    assert not (photos / "serial" / "segments.parquet").exists()
    assert here(*words, cwd=photos).exit_code == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_workers_shards_batches_and_interruptions_change_nothing(run, photos):
    if not (photos / "serial" / "segments.parquet").exists():
        assert here("segment", "--manifest", "in.parquet", *SERIAL, cwd=photos).exit_code == 1
    first, second = (pq.read_table(photos / name / "segments.parquet") for name in ("run", "serial"))
    for column in ("status", "occlusion", "face_region", "faces"):
        assert first[column].to_pylist() == second[column].to_pylist(), column


def test_the_stores_open_elsewhere_without_a_warning(run):
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        references, masks = (xarray.open_zarr(run / name) for name in ("references.zarr", "masks.zarr"))
    assert references["raw"].dims == ("row", "y", "x", "channel")
    assert masks["occlusion"].dims == ("row", "y", "x")
    assert float(masks["occlusion"].max()) <= 1
    raw, reference = (references[name][0].values for name in ("raw", "reference"))
    hole = references["region"][0].values > 0
    assert np.abs(raw.astype(int) - reference)[hole].mean() > 1, "nothing was inpainted"


def test_a_finished_run_is_not_done_again(run, photos):
    before = {path: path.stat().st_mtime_ns for path in (run / "items").rglob("*.parquet")}
    words = ("segment", "--manifest", "in.parquet", "--run", "run")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], cwd=photos, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # some rows have failed
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_evaluation_prints_its_figures(run, photos):
    done = here("evaluate", "--manifest", "in.parquet", "--run", "run", cwd=photos)
    assert done.exit_code == 0, done.stderr
    assert "iou" in done.stdout
    assert len(pq.read_table(run / "evaluation.parquet")) == 2


def test_two_workers_run_the_whole_pipeline_on_what_was_pulled_from_a_folder(tmp_path):
    """It stands here, and not with the other tests of ``models pull``, as the workers' libraries are loaded already."""
    published = write_mirror(tmp_path / "mirror")
    mine = pulled_profile(tmp_path / "cache", "['inpaint', 'ade']", f", ip_adapter = '{IP_ADAPTER}'")
    named = ("--profile", tmp_path / "mine.toml")
    assert any("OpenRAIL" in line for line in licences(mine))
    fetched = here("models", "pull", *named, "--offline", "--from", published, cwd=tmp_path)
    assert (fetched.exit_code, "TorchScript, which is code" in fetched.output) == (0, True), fetched.output
    assert here("models", "verify", *named, cwd=tmp_path).exit_code == 0
    assert licences(mine) == []
    assert pull(mine, offline=True).failed == []
    points = [44.0, 60.0, 84.0, 60.0, 64.0, 84.0, 50.0, 104.0, 78.0, 104.0]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 160, 128, 3), dtype=np.uint8)
    for name, photo in zip("ab", pixels, strict=True):
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    rows = [{"image": f"{name}.png", "landmarks": points} for name in "ab"]
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    config = tmp_path / "config.toml"
    config.write_text(
        "[faces]\nframe = 64\n[references]\nsteps = 2\nidentity = 0.5\n[training]\nepochs = 2\n"
        "[segments]\nper_image = true\n"  # so that a single command does all stages but the training
    )
    words = ("segment", "--manifest", tmp_path / "in.parquet", *named, "--config", config, "--device", "cpu")
    for run, workers in (("two", 2), ("none", 0)):
        done = here(*words, "--run", run, "--shard-size", 1, "--workers", workers, cwd=tmp_path)
        assert done.exit_code == 0, done.output
    two, none = (pq.read_table(tmp_path / run / "segments.parquet").to_pylist() for run in ("two", "none"))
    assert [row["status"] for row in two] == ["ok", "ok"]
    assert [row["occlusion"]["size"] for row in two] == [[160, 128], [160, 128]]
    for column in ("occlusion", "face_region", "faces"):
        assert [row[column] for row in two] == [row[column] for row in none], column
    assert two[0]["faces"][0]["predicted_iou"] != two[1]["faces"][0]["predicted_iou"]
