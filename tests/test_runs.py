"""A run's answer as a table: its rows, and masks that are decoded when they are asked for."""

import numpy as np
import pytest

from s3pot_batch import ConfigError, RunMask, read_run
from s3pot_batch.manifests.outcomes import Outcome
from s3pot_batch.stages.rle import BadRle, encode_rle
from tests.pipeline.drawn_run import SIDE, draw_run, found, hidden


def test_a_runs_answer_is_a_table_by_image_id(tmp_path):
    run = draw_run(tmp_path / "run", [found(0, "a", 0.25), Outcome(1, "b", "no_face")], kind=["x", None])
    table = read_run(run)
    assert table.index.tolist() == ["a", "b"]
    assert table.status.tolist() == ["ok", "no_face"]
    assert table.kind["a"] == "x"
    mask = table.occlusion["a"]
    assert mask.shape == (SIDE, SIDE)
    assert (mask.decode() == hidden(0.25)).all()
    assert table.occlusion["b"] is None


def test_numpy_takes_a_mask_as_an_array():
    mask = RunMask(encode_rle(hidden(0.5)))
    assert np.asarray(mask).dtype == bool
    assert np.asarray(mask, np.uint8).sum() == SIDE * SIDE // 2
    assert "counts" not in repr(mask)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(mask, copy=False)
    with pytest.raises(BadRle):
        RunMask({"size": [4, 4], "counts": [3]}).decode()


def test_a_run_without_an_answer_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="no answer there; run: s3pot-batch segment"):
        read_run(tmp_path)
