"""A job: one command over one manifest in one run folder, stage by stage."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.files import Manifest, read_manifest, shard_is_done
from manifests.plan import Plan, make_plan, settle_plan
from manifests.segments import assemble_segments
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.devices import DeviceChoice, Place, cpu_cores, placement, visible_gpus
from pipeline.progress import progress
from pipeline.report import Failure, Summary, summarise
from pipeline.runner import run_serial
from stages.base import RunShard, ShardReport, ShardTask, StageContext
from stages.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What the command line says about work; everything but the manifest has a default."""

    manifest: Path
    run: Path | None = None
    profile: str | None = None
    config: Path | None = None
    device: DeviceChoice = "auto"
    workers: int | None = None
    scheduler: str | None = None
    seed: int | None = None
    limit: int | None = None
    shard_size: int = 16
    batch_size: int = 8
    checkpoint: Path | None = None
    png: bool = False
    per_image: bool = False


@dataclass(frozen=True)
class Job:
    """A checked job; nothing has been written yet."""

    options: Options
    run: Path
    config: Config
    manifest: Manifest
    plan: Plan
    stages: tuple[str, ...]

    def pending(self, stage: str) -> list[int]:
        """The shards of a stage that are not done with these settings."""
        if stage == "train":
            return [] if _trained(self.run, self.config.fingerprint(stage)) else [0]
        made = self.config.fingerprint(stage)
        return [shard for shard in range(self.plan.shards) if not shard_is_done(self.run, stage, shard, made)]

    def preview(self) -> dict[str, object]:
        """What ``--dry-run`` says: what would be done where; nothing is written."""
        pending = {stage: len(self.pending(stage)) for stage in self.stages}
        places = _places(self.options, max(pending.values()))
        return {
            "run": str(self.run),
            "profile": self.config.profile.name,
            "photos": len(self.plan.items),
            "shards": self.plan.shards,
            "shards to do": pending,
            "workers": self.options.scheduler or len(places),
            "fingerprints": {stage: self.config.fingerprint(stage) for stage in self.stages},
        }


def run_folder(manifest: Path | None, run: Path | None) -> Path:
    """The run folder that a command means: its own choice, else ``runs/<manifest stem>``.

    Raises:
        ConfigError: neither is given.
    """
    if run is not None:
        return run
    if manifest is None:
        raise ConfigError("which run? give --run DIR or --manifest FILE")
    return Path("runs") / manifest.stem


def open_job(options: Options, *stages: str) -> Job:
    """Read and check everything that can be checked before any work, for the stages in their order.

    Raises:
        ConfigError: a setting is wrong, or differs from what the run folder was made with.
        ManifestError: the manifest is wrong, or the run folder is of other photos.
    """
    run = run_folder(options.manifest, options.run)
    resolved = configuration.resolve(file=options.config, profile=options.profile, seed=options.seed)
    trained = run / "checkpoint" / "model.safetensors"
    if options.checkpoint or ({"fits", "segments"} & set(stages) and trained.exists()):
        resolved = resolved.with_checkpoint(options.checkpoint or trained)
    if options.per_image:
        resolved = resolved.with_per_image()
    manifest = read_manifest(options.manifest, options.limit)
    sizes = {"shard_size": options.shard_size, "max_faces": resolved.settings.faces.max_faces}
    written = (run / "plan.parquet").exists()
    plan = settle_plan(manifest, run, **sizes) if written else make_plan(manifest, **sizes)
    configuration.check_run(resolved, run, stages)
    return Job(options, run, resolved, manifest, plan, stages)


def references(job: Job) -> Summary:
    """Stage one."""
    started = time.monotonic()
    _settle(job)
    reports = _run_stage(job, "references", job.pending("references"))
    return summarise(
        "references", job.plan, job.run, reports,
        seconds=time.monotonic() - started, files=[job.run / "references.zarr"],
    )  # fmt: skip


def train(job: Job) -> Summary:
    """Stage one and the token cache where they lack, then the training; counts are of faces."""
    started = time.monotonic()
    _settle(job)
    _run_stages(job, "references", "tokens")
    reports = _run_stage(job, "train", job.pending("train"))
    failures = tuple(Failure("training", *(report.error or "").split(": ", 1)) for report in reports if report.error)
    report = reports[0] if reports else ShardReport("train", 0, skipped=True)
    return Summary(
        "train", report.items, report.ok, report.no_face, len(failures), failures,
        time.monotonic() - started, () if failures else (job.run / "checkpoint",), unit="faces",
    )  # fmt: skip


def fit(job: Job) -> Summary:
    """Stage one and the token cache where they lack, then a selector for every face."""
    started = time.monotonic()
    _settle(job)
    reports = _run_stages(job, "references", "tokens", "fits")
    return summarise(
        "fits", job.plan, job.run, reports, seconds=time.monotonic() - started, files=[job.run / "fits"]
    )  # fmt: skip


def segment(job: Job) -> Summary:
    """Stage one where it lacks, with per-image fitting the fits, then masks, then the answer: one row per photo."""
    started = time.monotonic()
    _settle(job)
    reports = _run_stages(job, *job.stages)
    assemble_segments(job.manifest, job.plan, job.run, job.config.fingerprint("segments"))
    files = [job.run / "segments.parquet", job.run / "masks.zarr"]
    if job.options.png:
        from pipeline.masks import write_masks

        write_masks(job.run, job.manifest.image_ids)
        files.append(job.run / "masks")
    return summarise("segments", job.plan, job.run, reports, seconds=time.monotonic() - started, files=files)


def _settle(job: Job) -> None:
    """Write down the plan and the settings: from here on the run folder is bound to them."""
    job.run.mkdir(parents=True, exist_ok=True)
    settle_plan(job.manifest, job.run, shard_size=job.plan.shard_size, max_faces=job.plan.max_faces)
    configuration.write_run(job.config, job.run, job.stages)


def _run_stages(job: Job, *stages: str) -> list[ShardReport]:
    """One stage after the other; a shard that one of them failed on is left out of the next."""
    reports: list[ShardReport] = []
    lacking: set[int] = set()
    for stage in stages:
        reports += _run_stage(job, stage, [shard for shard in job.pending(stage) if shard not in lacking])
        lacking |= set(job.pending(stage))
    return reports


def _run_stage(job: Job, stage: str, shards: Sequence[int]) -> list[ShardReport]:
    if not shards:
        return []
    run_shard, prepare = _functions(stage)
    places = () if stage == "train" else _places(job.options, len(shards))
    device = places[0].device if places else job.options.device
    context = job.config.context(stage, device=device, batch_size=job.options.batch_size)
    if prepare:
        prepare(job.run, job.plan, context)
    tasks = [ShardTask(stage, job.run.absolute(), shard) for shard in shards]
    sizes, unit = {shard: len(job.plan.shard(shard)) for shard in shards}, "photos"
    if stage == "train":
        sizes, unit = {0: job.config.settings.training.epochs}, "epochs"
    with progress(stage, sizes, unit) as on_report:
        if not places and not job.options.scheduler:
            return run_serial(run_shard, tasks, context, on_report)
        from pipeline.scheduling import run_dask

        return run_dask(run_shard, tasks, context, on_report, places=places, address=job.options.scheduler)


def _places(options: Options, shards: int) -> tuple[Place, ...]:
    if options.scheduler:
        return ()
    gpus = () if options.device == "cpu" else visible_gpus()
    return placement(options.device, workers=options.workers, shards=shards, gpus=gpus, cores=cpu_cores())


def _functions(stage: str) -> tuple[RunShard, Callable[[Path, Plan, StageContext], None] | None]:
    if stage == "references":
        from stages import references

        return references.run_shard, references.prepare
    if stage == "tokens":
        from stages.segmentation import tokens

        return tokens.run_shard, tokens.prepare
    if stage == "train":
        from stages.segmentation import training

        return training.run_shard, None
    if stage == "fits":
        from stages.segmentation import fitting

        return fitting.run_shard, None
    from stages.segmentation import inference

    return inference.run_shard, inference.prepare


def _trained(run: Path, fingerprint: str) -> bool:
    """Whether the run's checkpoint is whole (its weights come last) and of this fingerprint."""
    folder = run / "checkpoint"
    if not (folder / "model.safetensors").exists():
        return False
    return bool(json.loads((folder / "config.json").read_text()).get("fingerprint") == fingerprint)
