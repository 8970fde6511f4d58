import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manifests.files import write_parquet
from stages.errors import ConfigError
from stages.evaluation.baselines import BASELINES, Frame, contrast_and_grabcut, parser_alone
from stages.evaluation.evaluate import Answer, compare, evaluate
from stages.evaluation.metrics import boundary_iou, mean_iou, mean_with_interval
from stages.evaluation.plots import draw_plots
from stages.images import encode_rle
from stages.models.catalog import load
from stages.models.palette import CLASSES

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


def test_an_occlusion_outside_the_found_region_is_missed_not_absent():
    truth, region = square(5, 15, 5, 15), square(20, 35, 20, 35)
    figures = compare(Answer(region, region), truth)
    assert figures["iou"] == figures["recall"] == figures["f1"] == figures["whole_iou"] == 0


def test_figures_by_group(answered):
    manifest, run = answered
    result = evaluate(manifest, {"S3POT": run})
    entries = {entry["photos"]: entry for entry in result.summary}
    assert list(entries) == ["all", "cup", "hand", "none"]
    assert (entries["all"]["n"], entries["all"]["faceless"]) == (4, 1)
    assert entries["hand"]["iou"] == pytest.approx(0.5)
    assert entries["all"]["iou"] == pytest.approx(1 / 3)  # a photo without a found face is an empty answer
    assert entries["none"]["iou"] is None
    assert entries["none"]["clean_marked"] == pytest.approx(0.1)
    assert sum(entry["n"] for name, entry in entries.items() if name != "all") == 4
    assert "0.500 [" in result.table()


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
    for path in draw_plots(result.summary, result.rows.to_pylist(), run):
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_an_unknown_group_is_named(answered):
    manifest, run = answered
    with pytest.raises(ConfigError, match="no column age to group by"):
        evaluate(manifest, {"S3POT": run}, group="age")
    with pytest.raises(ConfigError, match="no answer there"):
        evaluate(manifest, {"S3POT": run / "nowhere"})


@pytest.fixture
def frame():
    """A smooth face with a blue square in front of it, and the reference without."""
    y, x = np.mgrid[:64, :64]
    face = np.stack([190 + y / 4, 150 + x / 8, 120 + y / 8], -1).astype(np.uint8)
    raw = face.copy()
    raw[24:44, 20:40] = (30, 60, 200)
    parsing = np.full((64, 64), CLASSES.index("face"), np.uint8)
    return Frame(raw, face, parsing, square(6, 58, 10, 54, (64, 64)))


def test_contrast_and_grabcut_finds_what_differs_and_nothing_else(frame, run):
    hidden = square(24, 44, 20, 40, (64, 64))
    found = contrast_and_grabcut(frame, run[1])
    assert (found & hidden).sum() / (found | hidden).sum() > 0.8
    same = Frame(frame.reference, frame.reference, frame.parsing, frame.region)
    assert not contrast_and_grabcut(same, run[1]).any()


def test_the_parser_alone_marks_what_it_calls_no_face(frame, run):
    frame.parsing[24:44, 20:40] = CLASSES.index("hair")
    assert np.array_equal(parser_alone(frame, run[1]), square(24, 44, 20, 40, (64, 64)))


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_baseline_stays_inside_the_face_and_repeats(name, frame, run):
    context = run[1]
    load(context.profile.segmenter, "cpu")
    first, again = BASELINES[name](frame, context), BASELINES[name](frame, context)
    assert first.dtype == bool
    assert np.array_equal(first, again)
    assert not (first & ~frame.region).any()
    empty = Frame(frame.raw, frame.reference, frame.parsing, np.zeros_like(frame.region))
    with torch.no_grad():
        assert not BASELINES[name](empty, context).any()
