"""The benchmarks of `make bench`, on so little that they are quick: that they measure what they say."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
import zarr
from typer.testing import CliRunner

import benchmarks.caching
import benchmarks.scaling
import benchmarks.scheduling
from benchmarks.__main__ import BENCHMARKS, LONG, main
from benchmarks.caching import caching
from benchmarks.matching import plain_loop, same_scores, smooth_scores, token_scores
from benchmarks.planning import plan
from benchmarks.reporting import repeated
from benchmarks.scaling import scaled
from benchmarks.scheduling import Scheduled, schedule
from benchmarks.tidy_run import Difference, TidyRun, compare
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.report.pictures import Size, thumbnail
from s3pot_batch.pipeline.report.rows import read_rows
from s3pot_batch.pipeline.runner import run_serial
from s3pot_batch.stages.base import ShardReport
from s3pot_batch.stages.method.matching import greedy_match
from tests.pipeline.drawn_run import draw_run, found


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


def test_efficiency_is_the_share_of_the_workers_time_that_was_work(monkeypatch):
    """Two workers, six shards of 10 s, begun at 100 s: the last report comes at 131 s, so each was idle for 1 s."""
    monkeypatch.setattr(benchmarks.scaling, "SHARDS", 3)
    clock = iter([100.0, 131.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    given = []

    def reports(_work, tasks, _context, _on_report):
        given.extend(tasks)
        return [ShardReport(task.stage, task.shard, seconds=10.0) for task in tasks]

    found = scaled(reports, 2, start=9.0)
    assert [task.shard for task in given] == list(range(6))
    assert found.efficiency == pytest.approx(60 / 62)
    assert found.whole == pytest.approx(60 / 80)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
def test_the_cache_is_filled_once_and_read_every_epoch(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.caching, "FACES", 1)
    monkeypatch.setattr(benchmarks.caching, "MEASURED", 1)
    caching()
    encoded, epoch = capsys.readouterr().out.splitlines()
    assert encoded == "images encoded over 50 epochs: 2 with the cache, 100 without, ratio 50"
    assert epoch.startswith("an epoch of 1 faces: ")


@pytest.fixture
def answered(tmp_path):
    """Writes a run's answer and its arrays: rows of (id, status), and the value that fills the arrays."""

    def write(name, rows, value=1.0):
        table = {"image_id": [one for one, _ in rows], "status": [status for _, status in rows]}
        table |= {"run": [name] * len(rows), "seconds": [hash(name) % 7 + 0.5] * len(rows)}
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "segments.parquet")
        for array in ("references.zarr/raw", "decoded.zarr/prompts", "masks.zarr/occlusion"):
            zarr.create_array(tmp_path / name / array, shape=(4, 8, 8), dtype="float16", fill_value=value)
        return tmp_path / name

    return write


def test_chaos_notices_what_is_lost_doubled_or_other(answered):
    clean = answered("clean", [("a", "ok"), ("b", "ok"), ("c", "failed")])
    assert compare(clean, answered("same", [("a", "ok"), ("b", "ok"), ("c", "failed")])) == Difference(0, 0, (), ())
    other = answered("other", [("a", "failed"), ("a", "failed"), ("c", "failed")], value=2.0)
    assert compare(clean, other) == Difference(
        1, 1, ("a",), ("references.zarr/raw", "decoded.zarr/prompts", "masks.zarr/occlusion")
    )


def test_chaos_counts_how_often_a_shard_was_begun(tmp_path):
    (tmp_path / "chaos").mkdir()
    tidy = TidyRun(tmp_path)
    assert not tidy.begun()
    (tmp_path / "chaos" / "log").write_text("references 0\nreferences 1\nreferences 0\nsegments 3\nreferences 65535\n")
    assert tidy.begun() == {("references", 0): 2, ("segments", 1): 1}


def test_benchmarks_are_chosen_by_name(monkeypatch):
    done = []
    for name in BENCHMARKS:
        monkeypatch.setitem(BENCHMARKS, name, lambda name=name: done.append(name))
    app = typer.Typer()
    app.command()(main)
    assert CliRunner().invoke(app, ["planning", "matching"]).exit_code == 0
    assert done == ["planning", "matching"]
    assert CliRunner().invoke(app, []).exit_code == 0
    assert done[2:] == [name for name in BENCHMARKS if name not in LONG]
    wrong = CliRunner().invoke(app, ["plans"])
    assert wrong.exit_code == 2
    assert "matching, caching, planning" in wrong.output


def test_a_repeated_run_reads_as_the_first_does(tmp_path):
    size = Size(32, 5000)
    first = draw_run(tmp_path / "first", [found(n, f"{n}", n / 8) for n in range(8)])
    many = repeated(first, tmp_path / "many", 24)
    plan = read_plan(many)
    rows = read_rows(many, plan)
    assert [row.image_id for row in rows[7:10]] == ["0000/7", "0001/0", "0001/1"]
    assert [row.ratio for row in rows] == [n / 8 for n in range(8)] * 3
    for row in rows[:8]:
        same = rows[row.index + 16]
        assert thumbnail(many, row, "", size) == thumbnail(many, same, "", size)
        assert same.faces[0] == row.faces[0] + 32
