"""Two runs side by side: what changed, for the better or worse, and the page that shows it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from s3pot_batch.manifests.files import read_table, write_parquet
from s3pot_batch.manifests.outcomes import Outcome
from s3pot_batch.pipeline.evaluation.evaluate import evaluate
from s3pot_batch.pipeline.report.compare import changed, compare, read_side, write_comparison
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import encode_rle
from tests.pipeline.conftest import run as command
from tests.pipeline.drawn_run import SIDE, draw_run, found, hidden

BEFORE, AFTER = (0.5, 0.25, 0.5, 0.5), (0.5, 0.5, 0.25, 0.75)
"""Hidden shares of four photos; the truth of the first three is a half, the last has none."""


def measured(folder, name, ratios):
    """A run of four photos and one without a face, with its figures."""
    Image.fromarray(hidden(0.5).astype(np.uint8) * 255).save(folder / "true.png")
    outcomes = [found(n, f"{n}", ratio) for n, ratio in enumerate(ratios)]
    run = draw_run(folder / name, [*outcomes, Outcome(4, "4", "no_face")], mask=["true.png"] * 3 + [None] * 2)
    whole = read_table(run / "segments.parquet")
    region = [encode_rle(np.ones((SIDE, SIDE), bool))] * 4 + [None]
    write_parquet(whole.append_column("face_region", [region]), run / "segments.parquet")
    evaluate(folder / "in.parquet", {"S3POT": run}).write(run)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return measured(folder, "before", BEFORE), measured(folder, "after", AFTER)


def test_by_truth_photos_get_better_or_worse_else_they_change(runs):
    pairs = compare(*map(read_side, runs))
    assert [(pair.image_id, pair.verdict) for pair in pairs] == [
        ("0", "same"), ("1", "better"), ("2", "worse"), ("3", "changed"), ("4", "same"),
    ]  # fmt: skip
    assert [pair.gain for pair in pairs] == [0.0, 0.5, -0.5, None, None]
    assert [pair.change for pair in pairs] == pytest.approx([0, 0.5, 0.5, 1 / 3, 0])


def test_specks_on_a_bare_face_are_no_change(tmp_path):
    sides = [read_side(draw_run(tmp_path / name, [found(0, "a", ratio)])) for name, ratio in (("b", 0.5), ("c", 0.25))]
    assert compare(*sides)[0].verdict == "changed"
    for side in sides:  # as if the face were a hundred times as large
        side.rows["a"] = replace(side.rows["a"], ratio=0.004)
    [pair] = compare(*sides)
    assert (pair.verdict, pair.change) == ("same", 0.0)


def test_masks_change_by_what_one_of_them_marks_alone():
    half, quarter, nothing = (encode_rle(hidden(ratio)) for ratio in (0.5, 0.25, 0))
    assert changed(half, half) == changed(None, None) == changed(None, nothing) == changed(nothing, None) == 0
    assert changed(half, quarter) == changed(quarter, half) == pytest.approx(0.5)
    assert changed(half, None) == changed(nothing, half) == 1
    assert changed(half, encode_rle(np.zeros((8, 8), bool))) == 1


def test_the_page_tells_the_mean_gain_and_its_interval(runs):
    page = write_comparison(*runs)
    text = page.read_text(encoding="utf-8")
    assert page == runs[1] / "comparison.html"
    assert "of 3 photos in which something is hidden, the mean IoU went from 0.833 to <strong>0.833</strong>" in text
    assert re.search(r"\+0.000 \[-0.\d+, \+0.\d+\] per photo.\s+No difference is shown", text)
    assert "1 better</a>" in text
    assert "5 photos are in both runs." in text
    [rows] = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', text)
    told = json.loads(rows)
    assert sorted(told["ids"][:2]) == ["1", "2"]  # what changed most comes first
    assert told["status"][-1] == ["no_face", "no_face"]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_runs_without_truth_or_with_other_photos_are_compared_by_what_they_share(tmp_path):
    one = draw_run(tmp_path / "one", [found(0, "a", 0.5), found(1, "b", 0.5)])
    other = draw_run(tmp_path / "other", [found(0, "b", 0.25), Outcome(1, "c", "no_face")])
    text = write_comparison(one, other).read_text(encoding="utf-8")
    assert "1 photos are in both runs (1 in one alone, 1 in other alone)" in text
    assert "No photo has figures against a true mask" in text
    third = draw_run(tmp_path / "third", [found(0, "z", 0.5)])
    with pytest.raises(ConfigError, match="have no photo in common"):
        write_comparison(one, third)
    (third / "segments.parquet").unlink()
    with pytest.raises(ConfigError, match="no answer there"):
        write_comparison(third, one)


def test_the_command_compares(runs, tmp_path):
    done = command("report", "--compare", *runs, "--json")
    assert json.loads(done.stdout) == {"comparison": str(runs[1] / "comparison.html")}
    done = command("report", "--compare", runs[0], tmp_path)
    assert done.exit_code == 2
    assert "no plan there" in done.stderr
