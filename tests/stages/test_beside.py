"""What is done beside a card: ahead of time and within bounds, and in turn on a CPU."""

import shutil
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from s3pot_batch.manifests.outcomes import read_outcomes
from s3pot_batch.stages.beside import AHEAD, ahead, shared
from s3pot_batch.stages.store import read_rows
from tests.stages.conftest import do


def test_a_cpu_does_one_after_the_other():
    drawn, made = [], []
    batches = (drawn.append(n) or n for n in range(5))
    for answer in ahead(lambda n: made.append(n) or 10 * n, batches, "cpu"):
        assert drawn == made == list(range(len(made)))
        assert answer == 10 * made[-1]
    with shared("cpu") as each:
        assert each is map


def test_beside_a_card_a_bounded_number_is_made_before_it_is_asked_for():
    drawn, names = [], set()

    def work(n):
        names.add(threading.current_thread().name)
        return 10 * n

    for number, answer in enumerate(ahead(work, (drawn.append(n) or n for n in range(7)), "card")):
        assert answer == 10 * number
        assert len(drawn) == min(number + 1 + AHEAD, 7)
    assert number == 6
    assert threading.current_thread().name not in names


def test_what_fails_ahead_is_raised_in_its_turn_and_what_is_not_wanted_any_more_is_not_begun():
    begun = []

    def work(n):
        begun.append(n)
        if n == 1:
            raise KeyError(n)
        return n

    coming = ahead(work, range(9), "card")
    assert next(coming) == 0
    with pytest.raises(KeyError):
        next(coming)
    with closing(ahead(work, range(9), "card")) as unwanted:
        next(unwanted)
    assert 8 not in begun


def test_stage_two_beside_a_card_answers_as_on_a_cpu(run, tmp_path):
    """``cpu:0`` is to the stages a device like any other: groups are read ahead, and threads share the drawing."""
    folder, context = run
    other = replace(context, run=shutil.copytree(folder, tmp_path / "other"), device="cpu:0", batch_size=2)
    for one in (context, other):
        do("tokens", one)
        do("segments", one)
    for store, name in (("tokens", "raw"), ("decoded", "occlusion"), ("masks", "occlusion")):
        runs = (context.run, other.run)
        expected, found = (read_rows(at / f"{store}.zarr", name, slice(0, 3)).astype(float) for at in runs)
        np.testing.assert_allclose(found, expected, atol=2e-3)  # batches round otherwise
    masks = [[one.occlusion for one in read_outcomes(at.run, "segments", 0)] for at in (context, other)]
    assert masks[0] == masks[1]
    assert sum(mask is not None for mask in masks[0]) == 3
