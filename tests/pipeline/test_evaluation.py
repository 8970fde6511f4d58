import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import Plan, write_plan
from s3pot_batch.manifests.schema import PLAN
from s3pot_batch.pipeline.evaluation.baselines import ParsedPair, baseline_answers, baselines, contrast_and_grabcut
from s3pot_batch.pipeline.evaluation.evaluate import Answer, compare, evaluate
from s3pot_batch.pipeline.evaluation.metrics import boundary_iou, mean_iou, mean_with_interval
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.rle import encode_rle
from s3pot_batch.stages.store import ArraySpec
from tests.stages.conftest import TINY

MASKS = arrays.arrays(bool, (12, 16))


def square(y0, y1, x0, x1, shape=(40, 40)):
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(MASKS, MASKS)
def test_boundary_iou_is_a_fraction_and_one_for_the_same_mask(found, truth):
    value = boundary_iou(found, truth)
    assert math.isnan(value) if not truth.any() else 0 <= value <= 1
    if truth.any():
        assert boundary_iou(truth, truth) == 1


def test_boundary_iou_sees_an_edge_that_iou_overlooks():
    truth, found = square(2, 38, 2, 38), square(4, 36, 4, 36)
    assert (found & truth).sum() / (found | truth).sum() > 0.75
    assert boundary_iou(found, truth) == 0


@given(MASKS, MASKS)
def test_mean_iou_is_one_only_for_the_truth(found, truth):
    face = np.ones_like(truth)
    assert mean_iou(truth, truth, face, face) == 1
    assert (mean_iou(found, truth, face, face) == 1) == np.array_equal(found, truth)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_holds_the_mean(values):
    mean, low, high = mean_with_interval(values)
    assert low - 1e-9 <= mean <= high + 1e-9
    assert mean_with_interval(values) == (mean, low, high)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        mean_with_interval([])


def test_the_whole_truth_counts_where_the_region_misses_it():
    truth, region = square(10, 30, 10, 30), square(0, 40, 0, 20)
    figures = compare(Answer(truth & region, region), truth)
    assert figures["iou"] == 1
    assert figures["whole_iou"] == pytest.approx(0.5)
    assert figures["miou"] == 1


@pytest.fixture
def answered(tmp_path):
    """A run of four photos: found, missed, unoccluded with a mark, without a face."""
    truth, region = square(10, 30, 10, 30), square(5, 35, 5, 35)
    none, mark = np.zeros_like(truth), square(5, 8, 5, 35)
    rows = [
        {"image": f"{n}.png", "kind": kind, "mask": encode_rle(mask), "status": status,
         "occlusion": encode_rle(found), "face_region": encode_rle(area)}
        for n, (kind, mask, status, found, area) in enumerate([
            ("hand", truth, "ok", truth, region), ("hand", truth, "ok", none, region),
            ("none", none, "ok", mark, region), ("cup", truth, "no_face", none, none),
        ])
    ]  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    write_parquet(pa.Table.from_pylist(rows), run / "segments.parquet")
    return tmp_path / "m.parquet", run


def test_a_truth_that_cannot_be_used_leaves_the_others_measured(answered, tmp_path):
    manifest, run = answered
    rows = pq.read_table(run / "segments.parquet").to_pylist()
    rows[0]["mask"], rows[2]["mask"] = {"size": [40, 40], "counts": "~"}, encode_rle(square(1, 2, 1, 2)[:20])
    write_parquet(pa.Table.from_pylist(rows), run / "segments.parquet")
    result = evaluate(manifest, {"S3POT": run})
    assert [reason.split(",")[0] for reason in result.unread] == ["row 0", "row 2"]
    assert "its mask is 40×20, the photo 40×40" in result.unread[1]
    assert [row["error"] is None for row in result.rows.to_pylist()] == [False, True, False, True]
    assert result.summary[0]["n"] == 2
    assert "2 rows have a truth that cannot be used; the first: row 0, COCO RLE" in result.table()
    result.write(run)
    assert "NaN" not in (run / "evaluation.json").read_text()
    for row in rows:
        row["mask"] = {"size": [40, 40], "counts": "~"}
    write_parquet(pa.Table.from_pylist(rows), run / "segments.parquet")
    with pytest.raises(ConfigError, match="no ground truth can be used; row 0"):
        evaluate(manifest, {"S3POT": run})


def test_an_occlusion_outside_the_found_region_is_missed_not_absent():
    truth, region = square(5, 15, 5, 15), square(20, 35, 20, 35)
    figures = compare(Answer(region, region), truth)
    assert figures["iou"] == figures["recall"] == figures["f1"] == figures["whole_iou"] == 0


def test_figures_by_group(answered):
    manifest, run = answered
    result = evaluate(manifest, {"S3POT": run})
    entries = {entry["photos"]: entry for entry in result.summary}
    assert list(entries) == ["all", "cup", "hand", "none"]
    assert (entries["all"]["n"], entries["all"]["faceless"], entries["all"]["found"]) == (4, 1, 3)
    assert (entries["cup"]["found"], entries["hand"]["found"]) == (0, 2)
    assert entries["hand"]["iou"] == pytest.approx(0.5)
    assert entries["all"]["iou"] == pytest.approx(1 / 3)  # a photo without a found face is an empty answer
    assert entries["none"]["iou"] is None
    assert entries["none"]["clean_marked"] == pytest.approx(0.1)
    assert sum(entry["n"] for name, entry in entries.items() if name != "all") == 4
    assert "0.500 [" in result.table()
    head, all_photos, *_ = result.table().splitlines()
    assert head.split()[:4] == ["method", "photos", "found", "IoU"]
    assert all_photos.split()[:3] == ["S3POT", "all", "3/4"]


class TestRegion:
    """A column ``region`` says where the truth is known: nothing outside it is scored, and the face has to be there."""

    TRUTH = square(10, 30, 10, 30)
    REGION = square(5, 35, 5, 25)

    def test_only_what_lies_inside_is_scored(self):
        inside, everywhere = self.TRUTH & self.REGION, square(5, 35, 5, 35)
        marked = inside | square(0, 40, 25, 40)  # a large mistake, where nobody knows
        figures = compare(Answer(marked, everywhere), self.TRUTH, region=self.REGION)
        for name in ("iou", "miou", "boundary_iou", "precision", "recall", "f1"):
            assert figures[name] == 1, name
        assert compare(Answer(marked, everywhere), self.TRUTH)["iou"] < 1
        half = compare(Answer(inside & square(10, 20, 0, 40), everywhere), self.TRUTH, region=self.REGION)
        assert half["iou"] == half["recall"] == pytest.approx(0.5)

    def test_it_holds_whatever_region_was_found(self):
        """A found region that leaves out what is hidden does not make it go away."""
        figures = compare(Answer(self.TRUTH & square(0, 40, 0, 15), square(0, 40, 0, 15)), self.TRUTH,
                          region=self.REGION)  # fmt: skip
        assert figures["recall"] == pytest.approx(5 / 15)

    @pytest.mark.parametrize(
        ("found", "counts"),
        [(REGION, 1), (square(5, 35, 5, 35), 1), (square(0, 20, 0, 12), 0), (square(36, 40, 30, 40), 0),
         (np.zeros_like(REGION), 0)],
        ids=["the same", "wider", "little of it", "elsewhere", "none"],
    )  # fmt: skip
    def test_a_face_is_found_where_the_region_is(self, found, counts):
        figures = compare(Answer(np.zeros_like(found), found), self.TRUTH, region=self.REGION)
        assert figures["found"] == counts
        assert compare(Answer(np.zeros_like(found), found), self.TRUTH)["found"] == found.any()

    def test_of_a_clean_photo_the_share_of_the_region_that_is_marked(self):
        mark = square(5, 8, 0, 40)
        figures = compare(Answer(mark, square(0, 40, 0, 40)), np.zeros_like(mark), region=self.REGION)
        assert figures["false_positive_area"] == pytest.approx(0.1)

    @pytest.mark.parametrize("encoded", [True, False], ids=["RLE", "paths"])
    def test_the_column_is_read_row_by_row(self, answered, encoded):
        manifest, run = answered
        rows = pq.read_table(run / "segments.parquet").to_pylist()
        elsewhere = square(36, 40, 36, 40)
        for n, region in enumerate((square(5, 35, 5, 35), elsewhere, None, square(5, 35, 5, 35))):
            Image.fromarray(np.uint8(255) * (np.zeros((2, 2), bool) if region is None else region)).save(
                manifest.parent / f"region{n}.png"
            )
            given = encode_rle(region) if encoded and region is not None else f"region{n}.png"
            rows[n]["region"] = None if region is None else given
        write_parquet(pa.Table.from_pylist(rows), run / "segments.parquet")
        result = evaluate(manifest, {"S3POT": run})
        [every, *_] = result.summary
        assert (every["n"], every["faceless"], every["found"]) == (4, 1, 2)
        figures = {row["image"]: row["iou"] for row in result.rows.to_pylist()}
        assert figures["0.png"] == 1
        assert figures["3.png"] == 0


def test_other_methods_stand_in_the_same_table(answered):
    manifest, run = answered
    truth, region = square(10, 30, 10, 30), square(5, 35, 5, 35)
    others = {"oracle": {n: Answer(truth, region) for n in (0, 1)}}
    result = evaluate(manifest, {"S3POT": run, "again": run}, others=others)
    hands = {entry["method"]: entry["iou"] for entry in result.summary if entry["photos"] == "hand"}
    assert hands == {"S3POT": 0.5, "again": 0.5, "oracle": 1.0}
    assert result.rows.num_rows == 12


def test_files_and_plots(answered):
    manifest, run = answered
    result = evaluate(manifest, {"S3POT": run}, group="status")
    result.write(run)
    assert json.loads((run / "evaluation.json").read_text()) == result.summary
    from s3pot_batch.pipeline.evaluation.plots import draw_plots

    for path in draw_plots(result.summary, result.rows.to_pylist(), run):
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_an_unknown_group_is_named(answered):
    manifest, run = answered
    with pytest.raises(ConfigError, match="no column age to group by"):
        evaluate(manifest, {"S3POT": run}, group="age")
    with pytest.raises(ConfigError, match="no answer there"):
        evaluate(manifest, {"S3POT": run / "nowhere"})


@pytest.fixture
def pair():
    """A smooth face with a blue square in front of it, and the reference without."""
    y, x = np.mgrid[:64, :64]
    face = np.stack([190 + y / 4, 150 + x / 8, 120 + y / 8], -1).astype(np.uint8)
    raw = face.copy()
    raw[24:44, 20:40] = (30, 60, 200)
    parsing = np.full((64, 64), CELEBM.classes.index("face"), np.uint8)
    return ParsedPair(raw, face, square(6, 58, 10, 54, (64, 64)), parsing)


HIDDEN = square(24, 44, 20, 40, (64, 64))
NAMES = ("parser alone", "SAM, face box", "SAM, best points", "contrast + GrabCut")


@pytest.fixture
def methods():
    """The baselines with a tiny segmenter of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return baselines(SamSegmenter(build_vit_sam(**TINY)), CELEBM, CELEBM.face)


def test_contrast_and_grabcut_finds_what_differs_and_nothing_else(pair):
    found = contrast_and_grabcut(pair)
    assert (found & HIDDEN).sum() / (found | HIDDEN).sum() > 0.8
    assert not contrast_and_grabcut(replace(pair, raw=pair.reference)).any()


@pytest.mark.parametrize("name", ["hair", "eyeg"])
def test_the_parser_alone_marks_what_it_calls_no_face(name, pair, methods):
    pair.parsing[HIDDEN] = CELEBM.classes.index(name)
    assert np.array_equal(methods["parser alone"](pair), HIDDEN)


def test_the_segmenter_is_given_the_box_of_m_and_the_most_different_token(pair):
    segmenter = BoxAndToken()
    methods = baselines(segmenter, CELEBM, CELEBM.face)  # type: ignore[arg-type]
    assert not methods["SAM, face box"](pair).any()  # the box is drawn, holds all of M, and nothing is left
    assert segmenter.drawn == [10, 6, 54, 58]
    hidden = methods["SAM, best points"](pair)
    assert hidden.sum() == 64
    assert HIDDEN[hidden].all()


class BoxAndToken:
    """A segmenter of 8×8 tokens that draws the box it is given, or the token of a wanted point."""

    device = torch.device("cpu")
    shape = TokenShape(3, 8)

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float(), 8)

    def embed_boxes(self, boxes):
        return boxes.reshape(1, 2, 2)

    def embed_points(self, points, labels):
        assert labels.tolist() == [[1.0, 0.0]]
        token = (points[0, 0] * 8).floor()
        return torch.stack([token, token + 1])[None] / 8

    def decode(self, _tokens, corners):
        self.drawn = (corners * 64).round().int().flatten().tolist()
        x0, y0, x1, y1 = self.drawn
        logits = torch.full((1, 64, 64), -1.0)
        logits[:, y0:y1, x0:x1] = 1
        return logits, torch.zeros(1)


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_stays_inside_the_face_and_repeats(name, pair, methods):
    assert tuple(methods) == NAMES
    first, again = methods[name](pair), methods[name](pair)
    assert first.dtype == bool
    assert np.array_equal(first, again)
    assert not (first & ~pair.region).any()
    assert not methods[name](replace(pair, region=np.zeros_like(pair.region))).any()


def test_baselines_are_pasted_into_the_photos_pixels(pair, methods, tmp_path):
    """A run of two photos, twice the frame's size: one with two faces, one without."""
    photos = [{"index": n, "image_id": f"p{n}", "image": f"/p{n}.png", "shard": 0, "row": 2 * n} for n in range(2)]
    plan = Plan(pa.Table.from_pylist(photos, PLAN), 2, 2, "digest")
    write_plan(plan, tmp_path)
    arrays = {name: ArraySpec("uint8", 64, name, channels) for name, channels in
              (("raw", 3), ("reference", 3), ("parsing", 0), ("region", 0))}  # fmt: skip
    store.create(tmp_path / "references.zarr", plan, arrays)
    values = {name: getattr(pair, name) for name in arrays}
    store.write_rows(tmp_path / "references.zarr", arrays, range(4), {0: values, 1: values})
    faces = tuple(
        FaceOutcome(row, (0.0, 0.0, 9.0, 9.0), 1.0, (0.0,) * 10, (0.5, 0.0, -64.0 * row, 0.0, 0.5, 0.0), 1.0)
        for row in range(2)
    )
    outcomes = [Outcome(0, "p0", "ok", height=130, width=260, faces=faces), Outcome(1, "p1", "no_face")]
    write_outcomes(tmp_path, "references", 0, outcomes, "f")
    answers = baseline_answers(tmp_path, methods)
    assert tuple(answers) == NAMES
    for name, found in answers.items():
        assert list(found) == [0], name
        answer = found[0]
        assert answer.region.shape == answer.occlusion.shape == (130, 260)
        assert not (answer.occlusion & ~answer.region).any()
        assert np.array_equal(answer.region[:128, :128], answer.region[:128, 128:256])  # both faces look the same
        assert answer.region[64, 64]
    hidden = answers["contrast + GrabCut"][0].occlusion
    assert hidden[68, 60]
    assert hidden[68, 188]
    assert not hidden[20, 60]
