"""Commands that work, in this process, with the embedded models: what they write, how they end, how they go on."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.torch import load_file

from s3pot_batch.manifests import files
from s3pot_batch.manifests import finished as finishing
from s3pot_batch.manifests import plan as planning
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.pipeline.job import Tasks, open_job, work
from s3pot_batch.pipeline.options import Options
from s3pot_batch.pipeline.runner import run_serial
from s3pot_batch.stages.base import run_task, stage_named
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import decode_rle
from tests.pipeline.conftest import answer_of, run, times, working
from tests.portraits import blank

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


@pytest.fixture
def blanks(tmp_path) -> Path:
    """Four photos without a face: quick work."""
    for n in range(4):
        Image.fromarray(blank()).save(tmp_path / f"{n}.png")
    write_parquet(pa.table({"image": [f"{n}.png" for n in range(4)]}), tmp_path / "in.parquet")
    return tmp_path


def test_the_json_of_a_command_is_all_that_it_prints(photos, segmented, tmp_path):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    (folder / "items" / "segments" / "00001.parquet").unlink()
    done = working("segment", photos, folder, "--png", "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert {name: said[name] for name in ("stage", "photos", "ok", "no_face", "failed", "unit")} == {
        "stage": "segments", "photos": 3, "ok": 1, "no_face": 1, "failed": 1, "unit": "photos",
    }  # fmt: skip
    (failure,) = said["failures"]
    assert (failure["image_id"], failure["error_type"]) == ("gone", "MissingFile")
    assert said["files"] == [str(folder / name) for name in ("segments.parquet", "masks.zarr", "masks")]
    assert all(Path(name).exists() for name in said["files"])
    assert "segments: 1 photos in 1 shards" in done.stderr


def test_a_summary_for_people_counts_and_gives_reasons(photos, segmented):
    lines = working("segment", photos, segmented).stdout.splitlines()
    assert lines[0].startswith("segments: 1 ok, 1 without a face, 1 failed of 3 photos; ")
    assert lines[1] == "  1 × MissingFile"
    assert lines[2].startswith("    gone: ")
    assert lines[3:5] == [f"  {segmented / name}" for name in ("segments.parquet", "masks.zarr")]
    assert lines[5:] == [f"Look at them: s3pot-batch report --run {segmented}"]


def test_what_a_command_has_finished_is_kept_in_one_file_a_stage(blanks, tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, "WORTH_KEEPING", 4)
    assert working("segment", blanks, tmp_path / "run").exit_code == 0
    kept = {path.name for path in (tmp_path / "run" / "items").glob("*.parquet")}
    assert kept == {"references.parquet", "decoded.parquet", "segments.parquet"}


def test_a_folder_of_photos_needs_no_manifest(blanks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    for n in range(2):
        (tmp_path / f"{n}.png").rename(tmp_path / "my photos" / f"{n}.png")
    tried = run("segment", "my photos/", "--workers", 0, "--dry-run")
    assert (tried.exit_code, tried.output.splitlines()[0]) == (0, "run: runs/my photos")
    assert not (tmp_path / "runs").exists()
    done = run("segment", "my photos/", "--workers", 0, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "Look at them: s3pot-batch report --run 'runs/my photos'"
    (tmp_path / "2.png").rename(tmp_path / "my photos" / "2.png")
    assert run("segment", "my photos/*.png", "--workers", 0, "--device", "cpu").exit_code == 0
    rows = answer_of(tmp_path / "runs" / "my photos")
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [row["image_id"] for row in rows] == ["0", "1", "2"]  # wherever the folder is
    assert {row["status"] for row in rows} == {"no_face"}
    for named, folder in (("my photos/2.png", "2"), ("my photos/../my photos", "my photos"), (".", tmp_path.name)):
        assert run("segment", named, "--workers", 0, "--dry-run").output.startswith(f"run: runs/{folder}\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Error: name photos or their folder, or a manifest with --manifest\n"),
        (["photos", "--manifest", "in.parquet"], "with --manifest, not both\n"),
        (["nowhere/"], "Error: nowhere/: no such file or folder\n"),
    ],
)
def test_photos_or_a_manifest_but_one_of_them(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("references", "train", "segment"):
        done = run(command, *given)
        assert done.exit_code == 2
        assert done.output.endswith(said)


def test_a_run_without_failures_ends_with_0(blanks):
    assert working("references", blanks, blanks / "run").exit_code == 0
    assert working("segment", blanks, blanks / "run").exit_code == 0
    assert [row["status"] for row in answer_of(blanks / "run")] == ["no_face"] * 4


def test_what_was_done_is_not_done_again(photos, segmented):
    before, rows = times(segmented), answer_of(segmented)
    assert working("segment", photos, segmented).exit_code == 1
    assert times(segmented) == before
    assert answer_of(segmented) == rows


def test_only_what_lacks_is_done(photos, segmented, tmp_path):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    before, rows = times(folder), answer_of(folder)
    lacking = "items/segments/00000.parquet"
    for name in (lacking, "segments.parquet"):
        (folder / name).unlink()
    preview = json.loads(working("segment", photos, folder, "--dry-run", "--json").stdout)
    assert preview["shards to do"] == {"references": 0, "decoded": 0, "segments": 1}
    assert working("segment", photos, folder).exit_code == 1
    after = times(folder)
    assert {name for name in after if after[name] != before[name]} == {lacking}
    assert answer_of(folder) == rows


def test_stages_may_be_done_in_turn_and_by_the_runs_own_config(photos, segmented, tmp_path):
    folder, options = tmp_path / "run", ("--config", segmented / "config.toml")
    assert working("references", photos, folder, *options).exit_code == 1
    before = times(folder)
    status = json.loads(run("status", "--run", folder, "--json").stdout)
    assert {stage["stage"]: stage["shards_done"] for stage in status["stages"]} == {
        "references": 3, "decoded": 0, "segments": 0,
    }  # fmt: skip
    assert not status["answer"]
    assert working("segment", photos, folder, *options).exit_code == 1
    assert {name: time for name, time in times(folder).items() if name in before} == before
    assert answer_of(folder) == answer_of(segmented)
    assert (folder / "config.toml").read_text() == (segmented / "config.toml").read_text()


LEARNING = "[segments]\nprompt_step = 4\n[training]\nepochs = 2\nlearning_rate = 0.001\n"
"""Few steps that are long enough to be seen."""


def test_per_image_fitting_does_the_stages_that_it_needs(photos, segmented, tmp_path):
    by_file, in_turn = (tmp_path / name / "run" for name in ("file", "turn"))
    (tmp_path / "with.toml").write_text("[segments]\nper_image = true\n" + LEARNING.removeprefix("[segments]\n"))
    (tmp_path / "without.toml").write_text(LEARNING)
    done = working("segment", photos, by_file, "--config", tmp_path / "with.toml", "--json")
    assert done.exit_code == 1  # one photo is not there
    assert [failure["error_type"] for failure in json.loads(done.stdout)["failures"]] == ["MissingFile"]
    assert [row["status"] for row in answer_of(by_file)] == ["ok", "no_face", "failed"]
    assert load_file(by_file / "fits" / "00000.safetensors").keys()
    assert not load_file(by_file / "fits" / "00001.safetensors").keys()
    status = json.loads(run("status", "--run", by_file, "--json").stdout)
    assert [stage["stage"] for stage in status["stages"]] == ["references", "tokens", "fits", "decoded", "segments"]
    assert {stage["shards_done"] for stage in status["stages"]} == {3}
    assert answer_of(by_file)[0]["predicted_iou"] != answer_of(segmented)[0]["predicted_iou"], "the fit changed nothing"
    options = ("--config", tmp_path / "without.toml", "--per-image")
    preview = json.loads(working("segment", photos, by_file, *options, "--dry-run", "--json").stdout)
    assert preview["shards to do"] == dict.fromkeys(("references", "tokens", "fits", "decoded", "segments"), 0)
    assert working("train", photos, in_turn, *options, "--references", by_file).exit_code == 1
    assert not (in_turn / "checkpoint").exists()
    assert not (in_turn / "segments.parquet").exists()
    assert working("segment", photos, in_turn, *options).exit_code == 1
    assert answer_of(in_turn) == answer_of(by_file)


def test_a_trained_adapter_is_the_runs_own(photos, segmented, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere" / "run"
    (tmp_path / "mine.toml").write_text(LEARNING)
    options = ("--config", tmp_path / "mine.toml")
    done = working("train", photos, folder, *options, "--references", segmented, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["stage"], said["unit"], said["photos"], said["ok"]) == ("train", "faces", 1, 1)
    assert said["files"] == [str(folder / "checkpoint")]
    assert "train: 2 epochs in 1 shards" in done.stderr
    assert len(json.loads((folder / "checkpoint" / "config.json").read_text())["losses"]) == 2
    before = (folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert working("train", photos, folder, *options).exit_code == 0
    assert (folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    assert "trained here" in run("status", "--run", folder).stdout
    assert working("segment", photos, folder, *options).exit_code == 1
    rows = answer_of(folder)
    assert rows[0]["fingerprint"] != answer_of(segmented)[0]["fingerprint"]
    assert rows[0]["predicted_iou"] != answer_of(segmented)[0]["predicted_iou"]
    given = ("--checkpoint", folder / "checkpoint")
    assert working("segment", photos, elsewhere, *options, *given).exit_code == 1
    assert answer_of(elsewhere) == rows


def test_nothing_to_train_on_is_said_in_a_line(blanks):
    done = working("train", blanks, blanks / "run")
    assert done.exit_code == 1
    assert "no face in this run to train on" in done.stdout
    assert "Traceback" not in done.output
    assert not (blanks / "run" / "checkpoint" / "model.safetensors").exists()


def test_masks_are_written_as_pictures(photos, segmented, tmp_path):
    done = run("export", "--run", segmented, "--out", tmp_path / "pictures", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "pictures"), "files": 2, "failures": []}
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["blank.png", "face.png"]
    for row in answer_of(segmented)[:2]:
        with Image.open(tmp_path / "pictures" / row["image"]) as picture:
            assert picture.mode == "L"
            assert np.array_equal(np.asarray(picture), decode_rle(row["occlusion"]).astype(np.uint8) * 255)
    assert run("export", "--run", segmented, "--format", "png").stdout == f"{segmented / 'masks'}: 2 files\n"
    by_export = {path.name: path.read_bytes() for path in (segmented / "masks").iterdir()}
    shutil.rmtree(segmented / "masks")
    assert working("segment", photos, segmented, "--png").exit_code == 1
    by_option = {path.name: path.read_bytes() for path in (segmented / "masks").iterdir()}
    assert by_export == by_option == {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}


def test_the_run_that_a_manifest_means_is_found(photos, segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(segmented, "runs/in")
    for command in ("status", "export"):
        assert run(command, "--manifest", photos / "in.parquet").exit_code == 0
    assert Path("runs/in/masks/face.png").exists()


def test_the_plan_is_read_per_command_not_per_shard(blanks, monkeypatch):
    read, whole = [], files.read_table
    monkeypatch.setattr(planning, "read_table", lambda path, *rest: (read.append(path), whole(path, *rest))[1])
    counts = {}
    for shard_size in (4, 1):
        options = Options(
            blanks / "in.parquet", blanks / f"run{shard_size}", device="cpu", workers=0, shard_size=shard_size,
            per_image=True,
        )  # fmt: skip
        for turn in ("first", "again"):
            read.clear()
            job = open_job(options, "segments")
            summary = work(job)
            counts[shard_size, turn] = len(read)
            assert job.plan.shards == 4 / shard_size
            assert summary.no_face == 4
    assert counts[1, "first"] == counts[4, "first"]
    assert counts[1, "again"] == counts[4, "again"] <= 2


@pytest.mark.parametrize(
    "where",
    [{"workers": 2}, {"scheduler": "tcp://there:1"}, {"scheduler_file": "scheduler.json"}],
    ids=["workers", "scheduler", "file"],
)
def test_workers_start_once_for_all_stages_and_not_for_nothing(blanks, monkeypatch, where):
    started, stages, ended = [], [], []

    @contextmanager
    def runner(places, address, *, imports):
        started.append((len(places), address))
        assert "s3pot_batch.stages.fits" in imports

        def run(run_shard, given, context, on_report):
            stages.append((given[0].stage, len(given)))
            return run_serial(run_shard, given, context, on_report)

        yield run
        ended.append(address)

    monkeypatch.setattr("s3pot_batch.pipeline.scheduling.dask_runner", runner)
    (blanks / "scheduler.json").write_text('{"address": "tcp://there:1"}')
    if "scheduler_file" in where:
        where = {"scheduler_file": blanks / where["scheduler_file"]}
    options = Options(
        blanks / "in.parquet", blanks / "run", device="cpu", shard_size=1, per_image=True, **where
    )  # fmt: skip
    assert work(open_job(options, "segments")).no_face == 4
    address = None if "workers" in where else "tcp://there:1"
    assert started == [(where.get("workers", 0), address)]
    assert ended == [address]
    assert stages == [(name, 4) for name in ("references", "tokens", "fits", "decoded", "segments")]
    started.clear()
    assert work(open_job(options, "segments")).no_face == 4  # nothing is left to do
    assert started == []


@pytest.mark.parametrize(
    ("text", "scheduler", "reason"),
    [
        ('{"address": "tcp://there:1"}', "tcp://there:2", "two ways to name one scheduler"),
        (None, None, "cannot be read as a scheduler's file (FileNotFoundError"),
        ("{}", None, "cannot be read as a scheduler's file (KeyError"),
        ("[]", None, "cannot be read as a scheduler's file (TypeError"),
        ("tcp", None, "start one: dask scheduler --scheduler-file"),
    ],
    ids=["both", "no file", "no address", "a list", "no JSON"],
)
def test_a_scheduler_file_that_says_nothing_is_refused(blanks, text, scheduler, reason):
    if text:
        (blanks / "scheduler.json").write_text(text)
    options = Options(blanks / "in.parquet", blanks / "run", scheduler=scheduler,
                      scheduler_file=blanks / "scheduler.json")  # fmt: skip
    with pytest.raises(ConfigError, match=re.escape(reason)):
        work(open_job(options, "references"))


def test_a_shard_needs_no_plan_once_it_has_its_photos(blanks):
    job = open_job(Options(blanks / "in.parquet", blanks / "run", device="cpu", workers=0, shard_size=2), "segments")
    work(job)
    shutil.rmtree(blanks / "run" / "items")
    (blanks / "run" / "plan.parquet").unlink()
    for stage in job.stages:
        context = job.config.context(stage.name, job.run, device="cpu", batch_size=8)
        for task in Tasks(stage, job.run, job.plan, range(2)):
            report = run_task(task, context)
            assert (report.items, report.no_face, report.error) == (2, 2, None)


def test_a_stage_of_the_whole_run_has_one_task_without_photos(tmp_path):
    write_parquet(pa.table({"image": ["a.jpg", "b.jpg"]}), tmp_path / "in.parquet")
    plan = planning.make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=1, max_faces=1)
    (task,) = Tasks(stage_named("train"), tmp_path, plan, [0])
    assert task.items == ()
    with pytest.raises(IndexError):
        Tasks(stage_named("references"), tmp_path, plan, [1])[1]
    assert Tasks(stage_named("references"), tmp_path, plan, [1])[0].items == plan.shard(1)
