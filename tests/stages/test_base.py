"""The list of stages, what follows from it, and the one driver of all shards."""

import pickle
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from filelock import FileLock

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.outcomes import items_path, read_outcomes
from s3pot_batch.manifests.plan import make_plan, read_plan
from s3pot_batch.pipeline.config import Config
from s3pot_batch.stages.base import LEARNING, STAGES, ShardTask, run_task, stage_named, stages_towards
from s3pot_batch.stages.errors import RetryableError, ShardError
from s3pot_batch.stages.models.profiles import PARTS, PartSpec, Profile
from s3pot_batch.stages.settings import PROMPTING, SECTIONS, Settings, changed
from tests.stages.conftest import do, prepare, task_of, with_segmenter, with_settings

NAMES = [stage.name for stage in STAGES]
FIELDS = [("seed",), *((name, key) for name in SECTIONS for key in type(getattr(Settings(), name)).model_fields)]
"""Every setting, as (section, name) or (name,)."""


def names(stages):
    return [stage.name for stage in stages]


def test_every_stage_comes_after_what_it_needs():
    assert NAMES == ["references", "tokens", "train", "fits", "decoded", "segments"]
    for stage in STAGES:
        every = (*stage.needs, *(needed for _, needed in stage.needs_if))
        assert all(NAMES.index(needed) < NAMES.index(stage.name) for needed in every)


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_what_a_stage_says_of_itself_is_there(stage):
    assert set(stage.parts) <= set(PARTS)
    for name in (*stage.settings, *(setting for setting, _ in stage.needs_if)):
        value = Settings()
        for part in name.split("."):
            value = getattr(value, part)
    assert callable(stage.module.work)
    assert stage.store is None or callable(stage.module.arrays)
    assert stage.scope == "shard" or callable(stage.module.is_done)
    assert stage_named(stage.name) is stage


def test_an_unknown_stage_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="no stage segment; there are references, tokens, train, fits, decoded, seg"):
        stage_named("segment")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("references", ["references"]),
        ("tokens", ["references", "tokens"]),
        ("train", ["references", "tokens", "train"]),
        ("fits", ["references", "tokens", "fits"]),
        ("segments", ["references", "decoded", "segments"]),
    ],
)
def test_the_way_to_a_stage_has_what_it_needs_in_order(target, expected):
    assert names(stages_towards(target, Settings())) == expected


def test_per_image_in_a_file_brings_in_tokens_and_fits():
    content = tomllib.loads("[segments]\nper_image = true\n")
    settings = changed(Settings(), content)
    assert names(stages_towards("segments", settings)) == ["references", "tokens", "fits", "decoded", "segments"]
    assert names(stages_towards("train", settings)) == ["references", "tokens", "train"]


def test_per_image_in_a_file_is_segmented_all_the_way(run):
    context = replace(run[1], settings=changed(run[1].settings, tomllib.loads("segments.per_image = true")))
    for stage in stages_towards("segments", context.settings)[1:]:  # references are done
        report = do(stage.name, context)
        assert (report.items, report.ok, report.no_face, report.failed, report.error) == (3, 2, 1, 0, None)
    assert [one.status for one in read_outcomes(context.run, "segments", 0)] == ["ok", "ok", "no_face"]


class TestFingerprints:
    """A stage's fingerprint depends on what the list declares, and on nothing else."""

    @pytest.fixture(params=[False, True], ids=["general", "per image"])
    def config(self, request, tmp_path):
        """Five parts with weights of a few bytes: a fingerprint looks at bytes only."""
        specs: dict[str, Any] = {}
        for part in PARTS:
            (tmp_path / part).write_text(part)
            specs[part] = PartSpec(part, str(tmp_path / part))
        settings = changed(Settings(), {"segments": {"per_image": request.param}})
        return Config("tiny", Profile("tiny", **specs), settings)

    @staticmethod
    def differing(one, other):
        return {stage for stage in NAMES if one.fingerprint(stage) != other.fingerprint(stage)}

    @staticmethod
    def another(settings, section, name=None):
        """The settings with one value changed to another that is allowed."""
        owner = settings if name is None else getattr(settings, section)
        name = name or section
        value, annotation = getattr(owner, name), type(owner).model_fields[name].annotation
        if isinstance(value, bool):
            value = not value
        elif get_args(annotation) and isinstance(value, str):
            value = next(choice for choice in get_args(annotation) if choice != value)
        elif isinstance(value, str):
            value += "!"
        elif isinstance(value, tuple):
            value = value[1:]
        elif isinstance(value, int):
            value += 1
        else:
            value = value / 2 or 0.25
        return changed(settings, {section: {name: value} if section in SECTIONS else value})

    @pytest.mark.parametrize("field", FIELDS, ids=".".join)
    def test_of_settings(self, config, field):
        changed_settings = self.another(config.settings, *field)
        assert changed_settings != config.settings
        name, section = ".".join(field), field[0]
        own = {stage.name for stage in STAGES if {name, section} & set(stage.settings)}
        bounds = {f"faces.{bound}" for bound in ("max_pixels", "max_bytes", "max_seconds", "local_addresses")}
        if name in bounds:  # they decide what is read, no result
            assert self.differing(config, replace(config, settings=changed_settings)) == set()
            return
        if name == "segments.per_image":
            assert self.differing(config, replace(config, settings=changed_settings)) == {"decoded", "segments"}
            return
        expected = {
            stage.name for stage in STAGES
            if own & set(names(stages_towards(stage.name, config.settings)))
        }  # fmt: skip
        assert self.differing(config, replace(config, settings=changed_settings)) == expected

    @pytest.mark.parametrize("part", PARTS)
    def test_of_models(self, config, part):
        own = {stage.name for stage in STAGES if part in stage.parts}
        expected = {
            stage.name for stage in STAGES
            if own & set(names(stages_towards(stage.name, config.settings)))
        }  # fmt: skip
        other = replace(config, profile=replace(config.profile, **{part: replace(config.profile.part(part), kind="k")}))
        assert self.differing(config, other) == expected != set()

    @pytest.mark.parametrize(
        ("section", "name", "general", "per_image"),
        [
            ("seed", None, {*NAMES}, {*NAMES}),
            ("faces", "frame", {*NAMES}, {*NAMES}),
            ("references", "steps", {*NAMES}, {*NAMES}),
            ("segments", "threshold", {"segments"}, {"segments"}),
            ("segments", "edges", {"segments"}, {"segments"}),
            ("segments", "mask_prompt", {"decoded", "segments"}, {"decoded", "segments"}),
            ("segments", "min_similarity", {"tokens", "train", "fits", "decoded", "segments"},
             {"tokens", "train", "fits", "decoded", "segments"}),
            ("segments", "target", {"train", "fits", "decoded", "segments"}, {"train", "fits", "decoded", "segments"}),
            ("training", "tokens", {"tokens", "train", "fits"}, {"tokens", "train", "fits", "decoded", "segments"}),
            ("training", "patience", {"train", "fits"}, {"train", "fits", "decoded", "segments"}),
        ],
    )  # fmt: skip
    def test_as_they_always_were(self, config, section, name, general, per_image):
        expected = per_image if config.settings.segments.per_image else general
        other = replace(config, settings=self.another(config.settings, section, name))
        assert self.differing(config, other) == expected

    def test_what_is_declared_covers_the_prompts_and_the_learning(self):
        assert PROMPTING == ("segments.enhance", "segments.window", "segments.min_similarity", "segments.reach")
        assert set(LEARNING) == {"training", "segments.target", "segments.adapter", "segments.prompt_step"}


class TestDriver:
    def test_a_task_that_is_done_is_skipped(self, run):
        context = run[1]
        first = do("tokens", context)
        assert (first.skipped, first.items, first.ok, first.no_face, first.failed) == (False, 3, 2, 1, 0)
        written = items_path(context.run, "tokens", 0).stat().st_mtime_ns
        again = do("tokens", context)
        assert (again.skipped, again.items, again.ok) == (True, 3, 0)
        assert items_path(context.run, "tokens", 0).stat().st_mtime_ns == written

    def test_one_that_is_done_with_other_settings_is_an_error(self, run):
        do("tokens", run[1])
        with pytest.raises(ManifestError, match="other settings"):
            do("tokens", replace(run[1], fingerprint="another"))

    @pytest.mark.parametrize("stage", ["tokens", "decoded"])
    def test_without_its_arrays_a_shard_is_not_marked_as_done(self, run, stage):
        context = run[1]
        with pytest.raises(FileNotFoundError):  # nobody has created the store
            run_task(task_of(stage, context), context)
        assert not items_path(context.run, stage, 0).exists()
        assert not do(stage, context).skipped

    @pytest.mark.parametrize("stage", ["tokens", "decoded"])
    def test_a_work_that_fails_leaves_no_outcomes(self, run, stage):
        context = run[1]
        items_path(context.run, "references", 0).unlink()
        with pytest.raises(ManifestError, match="references is not finished"):
            do(stage, context)
        assert not items_path(context.run, stage, 0).exists()
        assert not stage_named(stage).is_done(context.run, 0, context.fingerprint)

    def test_outcomes_are_written_last(self, run):
        context = run[1]
        do("segments", context)
        arrays = [path.stat().st_mtime_ns for path in (context.run / "masks.zarr").rglob("c.*")]
        assert arrays
        assert max(arrays) <= items_path(context.run, "segments", 0).stat().st_mtime_ns

    @pytest.mark.parametrize("stage", ["tokens", "fits", "decoded"])
    def test_a_task_brings_its_photos_and_reads_no_plan(self, cached_run, stage):
        context = cached_run[1]
        prepare(stage, context)
        task = task_of(stage, context)
        (context.run / "plan.parquet").unlink()
        items_path(context.run, "tokens", 0).unlink()
        assert run_task(task, context).ok == 2

    def test_a_task_crosses_a_wire_and_weighs_the_same_in_a_long_run(self, run):
        def task_of_many(photos):
            manifest = Manifest(
                context.run, read_plan(context.run).table, tuple(f"/{n}.png" for n in range(photos)),
                tuple(map(str, range(photos))), (None,) * photos, (None,) * photos, (None,) * photos, (), "digest",
            )  # fmt: skip
            plan = make_plan(manifest, shard_size=16, max_faces=4)
            return pickle.dumps(ShardTask("segments", context.run, 3, plan.shard(3)))

        context = run[1]
        assert task_of_many(1_000) == task_of_many(20_000)
        assert pickle.loads(pickle.dumps(context)) == context  # noqa: S301
        assert pickle.loads(pickle.dumps(task_of("tokens", context))) == task_of("tokens", context)  # noqa: S301

    @pytest.mark.usefixtures("toy_parts")
    @pytest.mark.parametrize("stage", ["tokens", "train", "decoded"])
    def test_a_full_card_can_be_tried_again(self, cached_run, stage):
        context = with_segmenter(cached_run[1], "exhausted")
        items_path(context.run, "tokens", 0).unlink()  # of the other segmenter
        with pytest.raises(RetryableError, match="out of memory with 1 faces at once"):
            do(stage, context)
        assert not items_path(context.run, stage, 0).exists()
        assert not (context.run / "checkpoint" / "model.safetensors").exists()

    @pytest.mark.usefixtures("toy_parts")
    @pytest.mark.parametrize("at_once", ["card", "start", "machine"])
    def test_what_has_no_room_for_the_model_can_be_tried_again(self, run, at_once):
        context = with_segmenter(run[1], "exhausted", at_once=at_once)
        with pytest.raises(RetryableError, match="out of memory"):
            do("segments", context)

    def test_an_existing_store_of_another_shape_is_refused(self, run):
        do("segments", run[1])
        with pytest.raises(ShardError, match=r"masks\.zarr/occlusion is \(3, 64, 64\), not \(3, 32, 32\)"):
            do("segments", with_settings(run[1], "faces", frame=32))


def test_a_shard_that_somebody_works_on_is_waited_for(run):
    done, lock = items_path(run[1].run, "segments", 0), items_path(run[1].run, "segments", 0).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as threads:
        with FileLock(lock):
            waiting = threads.submit(do, "segments", run[1])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
            assert not done.exists()
        assert waiting.result(timeout=60).ok == 2
    assert done.exists()
    assert not lock.exists()


def test_on_a_processor_faces_go_one_by_one(run):
    context = run[1]
    assert (context.batch_size, context.faces_at_once) == (8, 1)
    assert replace(context, device="cuda:0").faces_at_once == 8


def test_later_stages_read_what_earlier_ones_wrote(run):
    """The whole way of a run, stage by stage, ends in figures of every face."""
    context = with_settings(run[1], "segments", per_image=True)
    for before, after in pairwise(["references", "tokens", "fits", "decoded", "segments"]):
        assert items_path(context.run, before, 0).exists()
        do(after, context)
    [face] = read_outcomes(context.run, "segments", 0)[0].faces
    assert 0 <= face.occlusion_ratio <= 1
    assert np.isfinite(face.predicted_iou)
