"""What is seen of the work on a shard from outside, while it lasts."""

from dataclasses import replace

import pytest

from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.stages import headway, segments
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.headway import Headway, read_headway
from tests.stages.conftest import do, prepare


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "00000.lock"
    path.touch()
    return path


def read(path) -> float | None:
    with path.open("rb") as file:
        found = read_headway(file)
    return found and found[1]


def test_it_is_written_at_once_and_then_now_and_then(lock, monkeypatch):
    assert read(lock) is None
    told = Headway(lock)
    assert read(lock) == 0
    told.add(1)
    assert read(lock) == 0  # so soon after
    monkeypatch.setattr(headway, "PAUSE_SECONDS", 0)
    told.add(10.25)
    assert read(lock) == 11.25
    Headway(lock)  # whoever takes over from a dead process
    assert read(lock) == 0


def test_it_costs_nobody_the_work_or_the_lock(lock, monkeypatch):
    monkeypatch.setattr(headway, "PAUSE_SECONDS", 0)
    told = Headway(lock)
    lock.unlink()  # somebody tidied up
    told.add(1)
    Headway(lock).add(1)
    assert not lock.exists()
    lock.write_text("4711\nhost\n")  # where a storage has no locks, this text is the lock
    Headway(lock).add(1)
    assert lock.read_text() == "4711\nhost\n"


@pytest.mark.parametrize("stage", ["tokens", "decoded", "segments", "fits"])
def test_a_stage_ends_with_all_photos_done(cached_run, stage):
    run, context = cached_run
    if stage == "segments":
        do("decoded", context)
    prepare(stage, context)
    stage_named(stage).module.work(read_plan(run).shard(0), context)
    assert context.headway.done == pytest.approx(3)


def test_whoever_looks_sees_a_shard_grow(run, monkeypatch):
    context, lock = run[1], items_path(run[0], "segments", 0).with_suffix(".lock")
    monkeypatch.setattr(headway, "PAUSE_SECONDS", 0)
    answer, seen = segments.answer, []

    def looks(*given):
        seen.append(read(lock))
        return answer(*given)

    monkeypatch.setattr(segments, "answer", looks)
    for _ in range(2):
        do("segments", replace(context, headway=context.headway))
        items_path(run[0], "segments", 0).unlink()
    assert seen == [0, 1, 2] * 2
    assert not lock.exists()
