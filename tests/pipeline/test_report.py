"""The page and the contact sheet, on a run of three photos with drawn arrays."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table, write_parquet
from s3pot_batch.manifests.outcomes import Outcome, write_outcomes
from s3pot_batch.pipeline.evaluation.evaluate import evaluate
from s3pot_batch.pipeline.report import page as pages
from s3pot_batch.pipeline.report import parts
from s3pot_batch.pipeline.report.page import run_files, write_page
from s3pot_batch.pipeline.report.pictures import Size, small
from s3pot_batch.pipeline.report.rows import Row, by_interest
from s3pot_batch.pipeline.report.sheets import CAPTION, GAP, TILE, TITLES, contact_sheet, pictures, segmented_faces
from s3pot_batch.pipeline.report.story import failure_kinds, histogram
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.taxonomy import CELEBM
from tests.pipeline.drawn_run import SIDE, draw_run, found

BAD = Outcome(2, "<b>bad</b>", "failed", "NotAnImage", "</script><i>no</i> & photo; convert it")


@pytest.fixture
def run(tmp_path):
    """Two faces on the first photo, none on the second, and a third that failed with something to be escaped."""
    outcomes = [found(0, "two", 0.0, 0.25), Outcome(1, "none", "no_face"), BAD]
    return draw_run(tmp_path / "a & b", outcomes, kind=["x", "y", None])


def data(text, name):
    """What a page holds for its script."""
    [found] = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    return json.loads(found)


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_every_step_of_a_face_is_drawn(run):
    photo, parts_, reference, contrast, prompts, occlusion = pictures(run, 1, CELEBM)
    assert (photo == 101).all()
    assert (reference == 200).all()
    assert parts_[0, 0].tolist() == list(CELEBM.colours[CELEBM.classes.index("face")])
    assert contrast[30, 30].sum() > contrast[0, 0].sum()
    assert prompts[10, 10].tolist() != prompts[50, 50].tolist() != [50, 50, 50]
    assert prompts[0, 0].tolist() == [50, 50, 50]
    assert (occlusion[:, 16:] == 101).all()
    assert (occlusion[:, :16] != 101).all()


def test_the_sheet_has_a_line_for_each_face(run, tmp_path):
    assert list(segmented_faces(run)) == [
        (0, "two: 0 % of the face hidden"), (1, "two: 25 % of the face hidden"),
    ]  # fmt: skip
    for limit, lines in ((12, 2), (1, 1)):
        with Image.open(contact_sheet(run, tmp_path / "new" / "sheet.png", limit)) as sheet:
            assert sheet.size == (len(TITLES) * (TILE + GAP) + GAP, CAPTION + lines * (TILE + GAP + CAPTION))


def test_a_run_without_a_segmented_face_has_no_sheet(run, tmp_path):
    (run / "items" / "segments" / "00000.parquet").unlink()
    with pytest.raises(ConfigError, match="no segmented face"):
        contact_sheet(run, tmp_path / "sheet.png")


def test_the_page_says_what_came_of_it_and_escapes_it(run):
    page = write_page(run)
    text = page.read_text(encoding="utf-8")
    assert page == run / "report.html"
    assert "<h1>Run a &amp; b</h1>" in text
    assert "1 of 3 photos have a mask (33.3 %);\n1 shows no face, and 1 failed." in text
    assert "<td>NotAnImage</td><td>convert it</td>" in text
    assert "<code>&lt;b&gt;bad&lt;/b&gt;</code> &lt;/script&gt;&lt;i&gt;no" in text
    assert "<b>bad" not in text
    assert "<i>no" not in text
    assert "segments.parquet</code>" in text
    assert not list(run.glob(".report*"))


def test_the_page_fetches_nothing(run):
    text = write_page(run).read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|\{)[^"']+""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_pages_script_is_told_each_photos_figures(run):
    rows = data(write_page(run).read_text(encoding="utf-8"), "rows")
    assert rows["ids"] == ["two", "none", "<b>bad</b>"]
    assert [rows["statuses"][n] for n in rows["status"]] == ["ok", "no_face", "failed"]
    assert (rows["ratio"], rows["sure"], rows["faces"]) == ([0.0, None, None], [0.5, None, None], [2, 0, 0])
    assert (rows["groups"], rows["group"]) == (["x", "y"], [0, 1, -1])
    assert rows["errors"] == {"2": ["NotAnImage", BAD.error]}
    assert rows["steps"] == [0]


def test_masks_and_photos_of_the_page_are_those_of_the_run(run):
    text = write_page(run).read_text(encoding="utf-8")
    first, second = data(text, "steps-0")
    for face, grey, hidden in ((first, 100, 0), (second, 101, 16)):
        assert abs(np.asarray(picture(face["photo"]), int) - grey).max() <= 2
        alpha = np.asarray(picture(face["mask"]).convert("RGBA"))[..., 3]
        assert (alpha == 255 * np.broadcast_to(np.arange(SIDE) < hidden, (SIDE, SIDE))).all()
        assert face["prompts"] == [[15.6, 15.6, 1], [78.1, 78.1, 2]]
        assert face["truth"] == ""
    (photo, mask), *others = data(text, "thumbs-0")
    assert picture(photo).size == picture(mask).size == (160, 160)
    assert others == [["", ""], ["", ""]]  # there are no such files


def test_truth_is_drawn_into_the_frame_and_measured_figures_are_told(run, tmp_path):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(tmp_path / "true.png")
    run = draw_run(tmp_path / "true", [found(0, "one", 0.25)], mask=["true.png"])
    text = write_page(run, manifest=tmp_path / "in.parquet").read_text(encoding="utf-8")
    assert "s3pot-batch evaluate measures against them" in text
    [face] = data(text, "steps-0")
    assert (np.asarray(picture(face["truth"]).convert("RGBA"))[..., 3] == mask).all()

    answer = run / "segments.parquet"
    whole = read_table(answer)
    write_parquet(whole.append_column("face_region", whole["occlusion"]), answer)
    evaluate(tmp_path / "in.parquet", {"S3POT": run}).write(run)
    text = write_page(run, manifest=tmp_path / "in.parquet").read_text(encoding="utf-8")
    assert data(text, "rows")["iou"] == [1.0]  # inside the region that was found
    assert "1 photos in which something is hidden, the mean IoU is\n<strong>1.000 [1.000, 1.000]</strong>" in text
    write_parquet(whole, answer)  # made anew
    text = write_page(run).read_text(encoding="utf-8")
    assert "older than these masks or their truth" in text
    assert data(text, "rows")["iou"] == [None]


def test_steps_of_the_photos_that_interest_most_fill_the_page(tmp_path, monkeypatch):
    outcomes = [found(n, f"{n}", n / 10) for n in range(10)]
    run = draw_run(tmp_path / "ten", outcomes)
    monkeypatch.setattr(parts, "room", lambda *_: 6000)
    text = write_page(run).read_text(encoding="utf-8")
    some = data(text, "rows")["steps"]
    assert sum(len(json.dumps(data(text, f"steps-{n}"), separators=(",", ":"))) for n in some) < 6000
    assert 9 in some  # the most hidden
    assert 0 < len(some) < 10
    assert "show only these" in text
    lacking = min(set(range(10)) - set(some))
    text = write_page(run, first=[f"{lacking}"]).read_text(encoding="utf-8")
    assert lacking in data(text, "rows")["steps"]
    with pytest.raises(ConfigError, match="no photo nobody"):
        write_page(run, first=["nobody"])
    with pytest.raises(ConfigError, match="no column age to group by"):
        write_page(run, group="age")


def test_of_very_many_photos_the_failures_and_the_telling_ones_are_shown(tmp_path, monkeypatch):
    outcomes = [*(found(n, f"{n}", n / 10) for n in range(8)), Outcome(8, "bad", "failed", "BadBox", "wrong; mend it")]
    run = draw_run(tmp_path / "many", outcomes)
    monkeypatch.setattr(pages, "MOST_PHOTOS", 3)
    monkeypatch.setattr(pages, "SIDES", ((3, 32),))
    text = write_page(run).read_text(encoding="utf-8")
    assert "bad" in data(text, "rows")["ids"]
    assert "7" in data(text, "rows")["ids"]
    assert len(data(text, "rows")["ids"]) == 3
    assert "Of 9 photos, these 3 are on this page" in text
    assert "8 of 9 photos have a mask" in text


def test_thumbnails_stay_within_bounds_whatever_they_show():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    plain = Image.new("RGB", (256, 128), "red")
    assert picture(small(plain, Size(96, 1500))).size == (96, 48)
    for most in (8000, 1500, 300):
        assert len(small(noise, Size(96, most))) <= most
    assert picture(small(noise, Size(96, 8000))).size == (96, 96)
    assert small(noise, Size(96, 10)) == ""


def test_a_damaged_row_costs_its_pictures_and_is_told(run):
    for file in (run / "references.zarr" / "raw").glob("c*"):
        file.unlink()
    text = write_page(run).read_text(encoding="utf-8")
    assert "Of 1 photos the run folder is damaged" in text
    assert data(text, "rows")["steps"] == []
    assert data(text, "rows")["ratio"][0] == 0.0


def test_a_shard_that_was_not_finished_has_failed(run):
    (run / "items" / "segments" / "00000.parquet").unlink()
    text = write_page(run).read_text(encoding="utf-8")
    assert "0 of 3 photos have a mask" in text
    assert "<td>ShardError</td><td>run the command again</td>" in text


def test_a_training_is_shown_by_its_losses(run):
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "config.json").write_text(json.dumps({"losses": [3.0, 1.0, 2.0], "faces": 7}))
    text = write_page(run).read_text(encoding="utf-8")
    assert '<polyline points="0.00,0.00 50.00,100.00 100.00,50.00"/>' in text
    assert "on 7 faces" in text


def test_a_page_without_failures_says_so(run):
    write_outcomes(run, "segments", 0, [found(0, "two", 0.0, 0.25), *(Outcome(n, "", "no_face") for n in (1, 2))], "f")
    text = write_page(run).read_text(encoding="utf-8")
    assert "<p>None.</p>" in text
    assert "NotAnImage" not in text


def test_what_is_looked_at_first_comes_in_turn():
    rows = [
        Row(n, f"{n}", "ok", 0, ratio=ratio, predicted_iou=sure, faces=faces)
        for n, (ratio, sure, faces) in enumerate([
            (0.1, 0.9, (1,)), (0.2, 0.3, (2,)), (0.8, 0.5, (3,)), (0.3, 0.6, (4, 5)), (0.0, 0.1, (6,)),
        ])
    ]  # fmt: skip
    rows.append(Row(5, "5", "failed", 0))
    order = by_interest(rows, {"0": 0.7, "3": 0.2})
    assert order[:4] == [3, 0, 1, 2]  # worst and best IoU, least sure of those that mark something, most hidden
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_histograms_count_every_value_once():
    bars = histogram("ratio", "", "", [0.0, 0.049, 0.05, 0.5, 1.0, 1.0]).bars
    assert [(bar.low, bar.count) for bar in bars if bar.count] == [(0.0, 2), (0.05, 1), (0.5, 1), (0.95, 2)]
    assert bars[-1].height == 100


def test_kinds_of_failures_come_with_what_their_errors_advise():
    rows = [Row(n, f"{n}", "failed", 0, kind, f"{n} is bad; {advice}")
            for n, (kind, advice) in enumerate([("A", "mend it"), ("B", "drop it"), ("B", "drop it")])]  # fmt: skip
    assert [(kind.kind, kind.count, kind.advice) for kind in failure_kinds(rows)] == [
        ("B", 2, "drop it"), ("A", 1, "mend it"),
    ]  # fmt: skip


def test_no_run_no_page(tmp_path):
    with pytest.raises(ManifestError, match="no plan there"):
        write_page(tmp_path)


def test_files_are_named_once_they_are_there(run):
    names = ["segments.parquet", "references.zarr", "decoded.zarr", "masks.zarr", "config.toml"]
    assert [path.name for path in run_files(run)] == names
    (run / "masks").mkdir()
    assert [path.name for path in run_files(run)] == [*names[:4], "masks", "config.toml"]
