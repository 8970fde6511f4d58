"""The benchmarks of `make bench`, on so little that they are quick: that they measure what they say."""

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import benchmarks.caching
import benchmarks.scheduling
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.caching import caching
from benchmarks.matching import plain_loop, same_scores, smooth_scores, token_scores
from benchmarks.planning import plan
from benchmarks.scheduling import Scheduled, schedule
from s3pot_batch.pipeline.runner import run_serial
from s3pot_batch.stages.base import ShardReport
from s3pot_batch.stages.method.matching import greedy_match


@pytest.mark.parametrize("kind", [token_scores, smooth_scores, same_scores])
def test_both_ways_of_matching_are_given_the_same_scores_and_agree(kind):
    scores = kind(100)
    assert scores.shape == (100, 4096)
    assert scores.dtype == torch.float32
    np.testing.assert_array_equal(plain_loop(scores.numpy()), greedy_match(scores[None])[0])


def test_a_shard_of_many_photos_costs_what_a_shard_of_few_does(tmp_path):
    few, many = plan(tmp_path, 1_000), plan(tmp_path, 20_000)
    assert (few.shards, many.shards) == (63, 1250)
    assert many.per_shard < 4 * few.per_shard  # 20 times as much, if each shard went through all photos
    assert abs(many.task - few.task) < 200
    assert many.whole == pytest.approx(many.manifest + 1250 * many.per_shard)


def test_overhead_is_what_a_shard_takes_beyond_its_own_time(monkeypatch):
    """Two workers, six shards: the first two reports wait for imports, then two come every 0.3 s."""
    monkeypatch.setattr(benchmarks.scheduling, "SECONDS", 0.25)
    clock = iter([10.0, 10.0, 10.3, 10.3, 10.6, 10.6])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    def reports(_work, tasks, context, on_report):
        assert context.fingerprint
        for task in tasks:
            on_report(ShardReport(task.stage, task.shard))
        return []

    found = schedule(reports, 2, shards=6)
    assert found.overhead == pytest.approx(0.05)
    assert found.efficiency == pytest.approx(0.25 / 0.3)


def test_this_process_adds_next_to_nothing(monkeypatch):
    monkeypatch.setattr(benchmarks.scheduling, "SECONDS", 0.02)
    found = schedule(run_serial, 1, shards=5)
    assert 0 <= found.overhead < 0.2
    assert Scheduled(0.0).efficiency == 1


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
def test_the_cache_is_filled_once_and_read_every_epoch(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.caching, "FACES", 2)
    monkeypatch.setattr(benchmarks.caching, "MEASURED", 1)
    caching()
    encoded, epoch = capsys.readouterr().out.splitlines()
    assert encoded == "images encoded over 50 epochs: 4 with the cache, 200 without, ratio 50"
    assert epoch.startswith("an epoch of 2 faces: ")


def test_benchmarks_are_chosen_by_name(monkeypatch):
    done = []
    for name in BENCHMARKS:
        monkeypatch.setitem(BENCHMARKS, name, lambda name=name: done.append(name))
    app = typer.Typer()
    app.command()(main)
    assert CliRunner().invoke(app, ["planning", "matching"]).exit_code == 0
    assert done == ["planning", "matching"]
    assert CliRunner().invoke(app, []).exit_code == 0
    assert done[2:] == list(BENCHMARKS)
    wrong = CliRunner().invoke(app, ["plans"])
    assert wrong.exit_code == 2
    assert "matching, caching, planning" in wrong.output
