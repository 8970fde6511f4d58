import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.plan import Plan, read_plan, write_plan
from s3pot_batch.manifests.schema import PLAN, RLE
from s3pot_batch.pipeline.export import FORMATS, Exported, export, find_format, png, read_answers
from s3pot_batch.pipeline.naming import file_names
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import encode_rle

OCCLUDED = np.zeros((5, 7), bool)
OCCLUDED[1:3, 2:6] = True


def answered(run, masks):
    """A run whose photos have these ids and masks, in shards of two."""
    photos = [{"index": n, "image_id": name, "image": f"/{name}.jpg", "shard": n // 2, "row": n}
              for n, name in enumerate(masks)]  # fmt: skip
    write_plan(Plan(pa.Table.from_pylist(photos, PLAN), 2, 1, ""), run)
    rows = [None if mask is None else encode_rle(mask) for mask in masks.values()]
    answer = pa.table({"image_id": list(masks), "occlusion": pa.array(rows, RLE)})
    write_parquet(answer, run / "segments.parquet")
    return run


@pytest.fixture
def run(tmp_path):
    return answered(tmp_path / "run", {"folder/a": OCCLUDED, "b": None, "c": ~OCCLUDED})


def test_masks_have_the_photos_size_and_255_where_occluded(run):
    assert export(run, "png") == Exported(run / "masks", 2)
    assert np.array_equal(np.asarray(Image.open(run / "masks" / "folder" / "a.png")), OCCLUDED * np.uint8(255))
    assert np.array_equal(np.asarray(Image.open(run / "masks" / "c.png")), ~OCCLUDED * np.uint8(255))
    files = sorted(str(path.relative_to(run / "masks")) for path in (run / "masks").rglob("*") if path.is_file())
    assert files == ["c.png", "folder/a.png"]  # and nothing that was written on the way


def test_an_export_goes_where_it_is_sent(run, tmp_path):
    assert export(run, "png", tmp_path / "new" / "place") == Exported(tmp_path / "new" / "place", 2)
    assert not (run / "masks").exists()


def test_a_mask_that_cannot_be_drawn_leaves_no_half_file(run, monkeypatch):
    def breaks(_self, path, **_format):
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(Image.Image, "save", breaks)
    done = export(run, "png")
    assert (done.count, [(one.image_id, one.error) for one in done.failures]) == (
        0, [("folder/a", "no space"), ("c", "no space")],
    )  # fmt: skip
    assert "folder/a: no space" in done.text()
    assert not [path for path in (run / "masks").rglob("*") if path.is_file()]


@pytest.mark.parametrize("image_id", ["/etc/a", "../a", "a/../../b", "s3://bucket/a"])
def test_no_mask_leaves_its_folder(image_id, tmp_path):
    export(answered(tmp_path / "run", {image_id: OCCLUDED}), "png")
    [mask] = (path for path in tmp_path.rglob("*.png"))
    assert mask.is_relative_to(tmp_path / "run" / "masks")


NAMES = {
    "relative paths are names": (["a/b", "c"], ["a/b", "c"]),
    "the common folder is left out": (["/data/x/a", "/data/x/b/c", "/data/x/d"], ["a", "b/c", "d"]),
    "one photo is its name": (["/data/x/a"], ["a"]),
    "nothing in common": (["/x/a", "/y/a"], ["x/a", "y/a"]),
    "urls": (["s3://bucket/deep/a", "s3://bucket/deep/b"], ["a", "b"]),
    "dots lead nowhere": (["../a", "a/../../b", "./c", "..."], ["_/a", "a/_/_/b", "c", "..."]),
    "control characters": (["a\nb", "a\0c", ""], ["a_b", "a_c", "_"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_short_and_stay_inside(name):
    ids, names = NAMES[name]
    assert file_names(ids) == names


@given(st.lists(st.text(max_size=400) | st.text("/.aA\u00e9\u0301", max_size=6), unique=True, max_size=12))
def test_names_are_unique_and_fit_any_file_system(ids):
    names = file_names(ids)
    keys = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assert len(keys) == len(ids)
    for name in names:
        parts = name.split("/")
        assert all(part and part != ".." and len(part.encode()) + 15 <= 255 for part in parts)
    assert names == file_names(ids)


def test_a_long_name_is_written(tmp_path):
    run = answered(tmp_path, {"\U0001f600" * 200: OCCLUDED, "\U0001f600" * 201: OCCLUDED})
    assert export(run, "png").count == 2
    assert len(list((tmp_path / "masks").iterdir())) == 2


def test_no_photo_is_written_over(run):
    photo = run / "masks" / "c.png"
    photo.parent.mkdir()
    photo.write_bytes(b"the photo")
    plan = read_plan(run)
    images = plan.table["image"].to_pylist()
    images[2] = str(photo)
    table = plan.table.set_column(plan.table.column_names.index("image"), "image", pa.array(images))
    write_plan(Plan(table, 2, 1, ""), run)
    done = export(run, "png")
    assert (done.count, len(done.failures)) == (1, 1)
    assert "is the photo itself" in done.failures[0].error
    assert photo.read_bytes() == b"the photo"


def test_more_rows_than_are_read_at_once_keep_their_photos(tmp_path):
    masks = {f"p{n}": np.arange(200) < n for n in range(1, 150)}
    run = answered(tmp_path, {name: mask[None] for name, mask in masks.items()})
    found = [(item.image_id, item.image, row) for item, _, row in read_answers(run, "occlusion")]
    assert [name for name, *_ in found] == list(masks)
    assert all(row["occlusion"] == encode_rle(masks[name][None]) and image == f"/{name}.jpg"
               for name, image, row in found)  # fmt: skip


def test_an_answer_of_other_photos_is_refused(run, tmp_path):
    answered(tmp_path / "other", {"z": None})
    (tmp_path / "other" / "segments.parquet").replace(run / "segments.parquet")
    with pytest.raises(ManifestError, match="z is no photo of this run"):
        export(run, "png")


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(
        ConfigError, match="there is no format jpeg; known are coco, cvat, fiftyone, hf, label_studio, "
    ):
        export(run, "jpeg")
    with pytest.raises(ConfigError, match="no answer there"):
        export(tmp_path, "png")
    (run / "plan.parquet").unlink()
    with pytest.raises(ManifestError, match="no plan there"):
        export(run, "png")


def test_another_package_adds_a_format(run, tmp_path, monkeypatch):
    info = tmp_path / "site" / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[s3pot_batch.exports]\nids = toy_ids\npng = toy_ids\nlost = toy_ids.nowhere\n"
    )
    (tmp_path / "site" / "toy_ids.py").write_text(
        "from s3pot_batch.pipeline.export import Written, read_answers\nFOLDER = 'ids'\ndef write(run, out):\n"
        "    (out / 'ids.txt').write_text(' '.join(item.image_id for item, _, _ in read_answers(run, 'occlusion')))\n"
        "    yield Written('all')\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert FORMATS.names()[: len(FORMATS.ours())] == FORMATS.ours()
    assert FORMATS.names().count("png") == 1
    assert {"ids", "lost"} <= set(FORMATS.names())
    assert export(run, "ids") == Exported(run / "ids", 1)
    assert (run / "ids" / "ids.txt").read_text() == "folder/a b c"
    assert find_format("png") is png  # ours cannot be replaced
    with pytest.raises(ConfigError, match=r"toy_ids\.nowhere cannot be imported"):
        find_format("lost")
