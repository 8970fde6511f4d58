"""What finished shards hold is read out of one file, and believed only while theirs are the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3pot_batch.manifests import finished as module
from s3pot_batch.manifests.finished import finished
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.outcomes import Outcome, items_path, write_outcomes
from s3pot_batch.manifests.plan import Plan, make_plan, write_plan
from tests.manifests.tables import manifest_file

STAGE = "segments"
SHARDS = 70
"""Enough for the one file to be worth it."""


@pytest.fixture
def plan(tmp_path) -> Plan:
    manifest = read_manifest(manifest_file(tmp_path, image=[f"{n}.jpg" for n in range(2 * SHARDS)]))
    return make_plan(manifest, shard_size=2, max_faces=1)


def finish(run: Path, plan: Plan, shard: int, status: str = "ok", fingerprint: str = "f") -> None:
    first, second = (Outcome(item.index, item.image_id, status) for item in plan.shard(shard))
    write_outcomes(run, STAGE, shard, [first, second], fingerprint)


@pytest.fixture
def run(tmp_path, plan) -> Path:
    """All shards but the last are finished."""
    for shard in range(SHARDS - 1):
        finish(tmp_path, plan, shard)
    return tmp_path


def opened(monkeypatch) -> list[int]:
    """The shards whose own files are opened from here on."""
    asked, read = [], module._read

    def noted(run, stage, shard, stamp):
        asked.append(shard)
        return read(run, stage, shard, stamp)

    monkeypatch.setattr(module, "_read", noted)
    return asked


def test_nothing_is_finished_in_an_empty_folder(tmp_path, plan):
    (tmp_path / "in.parquet").unlink()
    found = finished(tmp_path, STAGE)
    assert found.fingerprints == {}
    assert found.statuses == {"ok": 0, "no_face": 0, "failed": 0}
    assert found.failures(plan) == []
    assert list(tmp_path.iterdir()) == []


def test_pandas_is_not_loaded_to_look_at_what_was_kept(run, plan):
    write_plan(plan, run)
    finished(run, STAGE)  # from here on it is kept
    code = (
        "import sys; from pathlib import Path; from s3pot_batch.pipeline.status import run_status; "
        "print(run_status(Path(sys.argv[1])).stages[-1].ok, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], check=True, capture_output=True, text=True)
    assert done.stdout == f"{2 * SHARDS - 2} False\n"


def test_files_are_opened_once_and_again_where_they_changed(run, plan, monkeypatch):
    asked = opened(monkeypatch)
    assert finished(run, STAGE).statuses == {"ok": 2 * SHARDS - 2, "no_face": 0, "failed": 0}
    assert sorted(asked) == list(range(SHARDS - 1))
    asked.clear()
    finish(run, plan, SHARDS - 1, "no_face")
    finish(run, plan, 3, "failed", "g")
    os.utime(items_path(run, STAGE, 5), ns=(1, 1))
    items_path(run, STAGE, 7).unlink()
    found = finished(run, STAGE)
    assert sorted(asked) == [3, 5, SHARDS - 1]
    assert found.statuses == {"ok": 2 * SHARDS - 6, "no_face": 2, "failed": 2}
    assert found.fingerprints == {shard: "g" if shard == 3 else "f" for shard in range(SHARDS) if shard != 7}
    assert [row["image_id"] for row in found.failures(plan)] == ["6", "7"]
    assert found.table["index"].to_pylist() == [n for n in range(2 * SHARDS) if n not in (14, 15)]


def test_a_damaged_shard_is_not_finished_and_a_damaged_summary_is_made_anew(run):
    items_path(run, STAGE, 4).write_bytes(b"PAR1")
    assert set(finished(run, STAGE).fingerprints) == set(range(SHARDS - 1)) - {4}
    (run / "items" / f"{STAGE}.parquet").write_bytes(b"PAR1")
    assert set(finished(run, STAGE).fingerprints) == set(range(SHARDS - 1)) - {4}


def test_photos_that_the_manifest_lists_no_more_do_not_count(run, plan, tmp_path):
    less = read_manifest(manifest_file(tmp_path, image=[f"{n}.jpg" for n in range(3, 2 * SHARDS)]))
    numbers = plan.numbers(less.image_ids)
    wanted = [n in set(numbers.tolist()) for n in range(2 * SHARDS)]
    table = plan.table.drop_columns("wanted").append_column("wanted", [wanted])
    found = finished(run, STAGE).of(Plan(table, 2, 1, less.digest))
    assert found.statuses["ok"] == 2 * SHARDS - 2 - 3
    assert 0 not in found.fingerprints
    assert 1 in found.fingerprints
