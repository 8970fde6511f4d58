"""Which runs the ablation asks for; that they can be done is proved in test_published_formats."""

import re

import numpy as np
import pyarrow as pa
import pytest

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline import job as job_module
from s3pot_batch.pipeline.evaluation import ablation
from s3pot_batch.pipeline.evaluation.ablation import VARIANTS, ablate, varied
from s3pot_batch.pipeline.evaluation.evaluate import OURS
from s3pot_batch.pipeline.evaluation.run import run_evaluation
from s3pot_batch.pipeline.job import open_job, work
from s3pot_batch.pipeline.options import EvaluationOptions, Options
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.objectives import OBJECTIVES
from s3pot_batch.stages.rle import encode_rle


def opened(folder, name, settings=""):
    """A job on a photo that nobody opens, with references in its run folder."""
    write_parquet(pa.table({"image": ["p.png"]}), folder / f"{name}.parquet")
    (folder / f"{name}.toml").write_text(settings)
    options = Options(
        folder / f"{name}.parquet", folder / name, config=folder / f"{name}.toml", device="cpu", workers=0
    )
    (folder / name / "references.zarr").mkdir(parents=True)
    (folder / name / "items" / "references").mkdir(parents=True)
    return open_job(options, "segments")


@pytest.fixture
def done(monkeypatch):
    """Jobs that were worked on: a training leaves a checkpoint, and nothing else is done."""
    jobs = []

    def pretend(job):
        jobs.append(job)
        if job.target == "train":
            (job.run / "checkpoint").mkdir(parents=True, exist_ok=True)
            (job.run / "checkpoint" / "model.safetensors").write_bytes(str(job.run).encode())

    monkeypatch.setattr(ablation, "work", pretend)
    return jobs


def test_each_variant_is_trained_elsewhere_and_segments_the_base(tmp_path, done):
    base, training = opened(tmp_path, "base"), opened(tmp_path, "training")
    said: list[str] = []
    runs = ablate(base, training, said.append)
    own = {
        "with FE", "without the mask prompt", "every fourth point, both ways", "decoded both", "with the refiner",
        "edges by GrabCut", "one pass", "not per image",
    }  # fmt: skip
    assert list(runs) == said == [variant.name for variant in VARIANTS if variant.name not in own]
    by_run = {job.run: job for job in done}
    assert len(by_run) == len(done) == 2 * len(runs) - 1  # without the adapter there is nothing to train
    for name, run in runs.items():
        job = by_run[run]
        assert job.manifest is base.manifest
        assert job.target == "segments"
        taught = training.run / "ablation" / run.parent.name / "training"
        if name == "without the adapter":
            assert taught not in by_run
            assert job.config.profile == base.config.profile
            continue
        assert by_run[taught].manifest is training.manifest
        assert by_run[taught].config.settings == job.config.settings
        assert [stage.name for stage in by_run[taught].stages] == ["references", "tokens", "train"]
        assert job.config.profile.adapter.weights == str(taught / "checkpoint")


def test_a_variant_changes_what_it_says_and_nothing_else(tmp_path):
    base = opened(tmp_path, "base")
    own = base.config.settings.model_dump()
    for variant in VARIANTS:
        settings = varied(base, variant, "segments").config.settings.model_dump()
        for section, changes in variant.changes.items():
            assert {name: settings[section].pop(name) for name in changes} == {
                name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
            }
        expected = {
            section: {k: v for k, v in values.items() if k not in variant.changes.get(section, {})}
            for section, values in own.items() if section != "seed"
        }  # fmt: skip
        assert settings == expected | {"seed": own["seed"]}


def test_every_objective_is_left_out_once():
    left_out = [set(OBJECTIVES) - set(v.changes["training"]["objectives"]) for v in VARIANTS if "training" in v.changes]
    assert left_out == [{name} for name in OBJECTIVES]


def test_per_image_brings_its_stages_with_it(tmp_path, done):
    base = opened(tmp_path, "base")
    ablate(base, base, lambda _: None)
    [fitted] = (job for job in done if job.run == base.run / "ablation" / "per-image" / "photos")
    assert [stage.name for stage in fitted.stages] == ["references", "tokens", "fits", "decoded", "segments"]


def test_a_base_that_is_per_image_stays_so_and_has_the_other_way_as_a_variant(tmp_path, done):
    base = opened(tmp_path, "base", "[segments]\nper_image = true\n")
    runs = ablate(base, base, lambda _: None)
    assert "per image" not in runs
    fitted = {job.run: job.config.settings.segments.per_image for job in done if job.target == "segments"}
    assert {name for name, run in runs.items() if not fitted[run]} == {"not per image"}


def test_references_are_borrowed_where_they_do_not_change(tmp_path, done):
    base = opened(tmp_path, "base")
    runs = {run: name for name, run in ablate(base, base, lambda _: None).items()}
    lenders = {runs[job.run]: job.lender for job in done if job.run in runs}
    assert {name for name, lender in lenders.items() if lender is None} == {"two passes", "three references"}
    assert {lender for lender in lenders.values() if lender} == {base.run}


def test_folders_are_names_and_no_two_are_the_same():
    folders = [variant.folder for variant in VARIANTS]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"[A-Za-z-]+", folder) for folder in folders)


def test_a_variant_that_cannot_be_trained_is_an_error(tmp_path, monkeypatch):
    base = opened(tmp_path, "base")
    monkeypatch.setattr(ablation, "work", lambda _: None)
    with pytest.raises(ConfigError, match="no checkpoint there"):
        ablate(base, base, lambda _: None)


def test_an_evaluation_works_with_the_runs_own_photos_and_settings(tmp_path, done, monkeypatch):
    """Two of three photos were segmented, in shards of one, with settings from a file that is gone."""
    mask = np.zeros((8, 8), bool)
    mask[2:5] = True
    answer = {"mask": encode_rle(mask), "status": "ok", "occlusion": encode_rle(mask), "face_region": encode_rle(~mask)}
    rows = [{"image": f"{n}.png", "mask": answer["mask"]} for n in range(3)]
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    write_parquet(pa.table({"image": ["other.png"]}), tmp_path / "training.parquet")
    (tmp_path / "once.toml").write_text("[faces]\nframe = 64\n")
    options = Options(tmp_path / "in.parquet", tmp_path / "run", config=tmp_path / "once.toml", limit=2, shard_size=1,
                      device="cpu", workers=0)  # fmt: skip
    job = open_job(options, "segments")
    answers = pa.Table.from_pylist([row | answer for row in rows[:2]])
    monkeypatch.setattr(job_module, "_run_stage", lambda *_: [])
    monkeypatch.setattr(job_module, "assemble_segments", lambda *_: None)
    work(job)  # plan and settings are written down, and nothing else
    (tmp_path / "once.toml").unlink()
    write_parquet(answers, job.run / "segments.parquet")
    pretend = vars(ablation)["work"]

    def answering(job):
        pretend(job)
        write_parquet(answers, job.run / "segments.parquet")

    monkeypatch.setattr(ablation, "work", answering)
    evaluation = EvaluationOptions(
        options.manifest, job.run, ablate=True, training=tmp_path / "training.parquet", device="cpu", workers=0
    )
    result, plots = run_evaluation(evaluation)
    methods = [entry["method"] for entry in result.summary if entry["photos"] == "all"]
    assert methods[:3] == [OURS, "trained anew", "without FE"]
    assert all(entry["iou"] == 1 for entry in result.summary)
    assert all(path.exists() for path in plots)
    for one in done:
        assert one.config.settings.faces.frame == 64
        trains = one.target == "train"
        assert one.manifest.path.name == ("training.parquet" if trains else "in.parquet")
        assert (one.plan.photos, one.plan.shards) == ((1, 1) if trains else (2, 2))
        assert one.run.is_relative_to(job.run / "ablation" / ("training" if trains else ""))
