"""A job: one command over one manifest in one run folder, stage by stage."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from s3pot_batch.manifests.answer import ANSWER, WRITTEN, answer_is_current, assemble_segments, was_written
from s3pot_batch.manifests.answer import STAGE as ANSWERING
from s3pot_batch.manifests.errors import DamagedOutcomes, one_line
from s3pot_batch.manifests.finished import finished
from s3pot_batch.manifests.manifest import Manifest, read_manifest
from s3pot_batch.manifests.outcomes import items_path, other_settings
from s3pot_batch.manifests.plan import Plan, Settled, settled, write_plan
from s3pot_batch.pipeline import config as configuration
from s3pot_batch.pipeline.borrowing import borrow_references, check_lender
from s3pot_batch.pipeline.changes import STAGE as BORROWED
from s3pot_batch.pipeline.changes import changed_shards
from s3pot_batch.pipeline.config import Config
from s3pot_batch.pipeline.damage import damaged_shards, has_metadata, mend_metadata
from s3pot_batch.pipeline.devices import Place, cpu_cores, placement, visible_gpus
from s3pot_batch.pipeline.lock import locked
from s3pot_batch.pipeline.logbook import logbook
from s3pot_batch.pipeline.options import Options
from s3pot_batch.pipeline.progress import Display, display
from s3pot_batch.pipeline.remote import HELD
from s3pot_batch.pipeline.report.summary import Failure, Summary, summarise
from s3pot_batch.pipeline.runner import Runner, run_serial
from s3pot_batch.stages.base import STAGES, ShardReport, ShardTask, Stage, run_task
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import Profile


@dataclass(frozen=True)
class Job:
    """A checked job towards one stage; nothing has been written yet."""

    options: Options
    run: Path
    config: Config
    manifest: Manifest
    settled: Settled
    target: str
    changed: frozenset[int] = frozenset()
    """Shards with photos that are other ones by now, or that failed and may come through."""
    outdated: Mapping[str, str] = field(default_factory=dict)
    """Stages that were made with other settings, and are done again; and with which."""
    lender: Path | None = None
    """A run folder whose references are taken over."""

    @property
    def plan(self) -> Plan:
        """The run's, for this manifest."""
        return self.settled.plan

    @property
    def stale(self) -> frozenset[int]:
        """Shards that have to be done again, whatever their outcomes say."""
        return self.settled.stale | self.changed

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What has to be done, in order; the last one is the target."""
        return self.config.stages(self.target)

    def pending(self, stage: Stage) -> list[int]:
        """The shards of a stage that are not done with these settings."""
        made, stale = self.config.fingerprint(stage.name), self.stale
        if stage.scope == "run":
            return [] if stage.is_done(self.run, 0, made) else [0]
        if stage.name in self.outdated:
            return self.plan.wanted_shards
        holder = self.lender if self.lender and stage.name == BORROWED else self.run
        found = finished(holder, stage.name)
        done, elsewhere = found.fingerprints, found.misplaced(self.plan)
        pending = [n for n in self.plan.wanted_shards if n in stale or n not in done or n in elsewhere]
        for shard in set(self.plan.wanted_shards).difference(pending):
            if done[shard] != made:
                raise other_settings(items_path(self.run, stage.name, shard), done[shard], made)
        return pending

    def preview(self) -> dict[str, object]:
        """What ``--dry-run`` says: what would be done where; nothing is written."""
        pending = {stage.name: len(self.pending(stage)) for stage in self.stages}
        places = _places(self.options, max(pending.values()))
        return {
            "run": str(self.run),
            "profile": self.config.profile.name,
            "photos": self.plan.photos,
            "shards": len(self.plan.wanted_shards),
            "shards to do": pending,
            "workers": _address(self.options) or len(places),
            "fingerprints": {stage.name: self.config.fingerprint(stage.name) for stage in self.stages},
        }


@dataclass(frozen=True)
class Tasks(Sequence[ShardTask]):
    """The tasks of some shards, each made when it is asked for: a million photos need not be objects at once."""

    stage: Stage
    run: Path
    plan: Plan
    shards: Sequence[int]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.shards)

    def __getitem__(self, n: int) -> ShardTask:  # type: ignore[override]
        """The n-th task, with its photos."""
        shard = self.shards[n]
        items = self.plan.shard(shard) if self.stage.scope == "shard" else ()
        return ShardTask(self.stage.name, self.run, shard, items)


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


def open_job(options: Options, target: str) -> Job:
    """Read and check everything that can be checked before any work.

    Args:
        options: the command line's.
        target: the stage that is wanted; what it needs comes first.

    Raises:
        ConfigError: a setting is wrong, or differs from what the run folder was made with.
        ManifestError: the manifest is wrong, or the run folder is of other photos.
    """
    run = run_folder(options.manifest, options.run)
    resolved = configuration.resolve(file=options.config, profile=options.profile, seed=options.seed)
    if options.per_image:
        resolved = resolved.with_settings({"segments": {"per_image": True}})
    stages = resolved.stages(target)
    trained = run / "checkpoint" / "model.safetensors"
    adapts = any("adapter" in stage.parts for stage in stages)
    if options.checkpoint or (adapts and trained.exists()):
        resolved = resolved.with_checkpoint(options.checkpoint or trained)
    if options.confine:
        resolved = resolved.with_settings({"faces": {"local_addresses": False}})
    confine = [one.strip() for one in options.schemes.split(",") if one.strip()] if options.confine else None
    manifest = read_manifest(options.manifest, options.limit, confine)
    lender = options.references if not (run / "plan.parquet").exists() else None  # taken over once
    if lender:
        check_lender(resolved, lender)
    found = settled(manifest, lender or run, max_faces=resolved.settings.faces.max_faces, shard_size=options.shard_size)
    outdated = configuration.outdated_stages(resolved, run, stages)
    changed = changed_shards(lender or run, found.plan, retry_failed=options.retry_failed)
    return Job(options, run, resolved, manifest, found, target, changed, outdated, lender)


def work(job: Job) -> Summary:
    """Do all stages of a job where they lack, and write the answer if it is of the last stage.

    Raises:
        ConfigError: another command works in the run folder.
    """
    again = [f"{name} was made with other settings ({what}); it is done again" for name, what in job.outdated.items()]
    if configuration.is_damaged(job.run):
        again.append(f"{job.run / configuration.CONFIG} is damaged and is made anew")
    job.run.mkdir(parents=True, exist_ok=True)
    with (
        locked(job.run),
        logbook(job.run, job.options.log_level),
        display(job.run, quiet=job.options.quiet) as show,
    ):
        for note in (*job.manifest.notes, *job.settled.notes, *again):
            show.say(f"Note: {note}")
        return _work(job, show)


def _work(job: Job, show: Display) -> Summary:
    started = time.monotonic()
    _settle(job)
    job = replace(job, outdated={}, lender=None)
    reports: list[ShardReport] = []
    lacking: set[int] = set()
    _look_for_damage(job, show)
    pending = {stage.name: job.pending(stage) for stage in job.stages}
    for path in (items_path(job.run, name, shard) for name, shards in pending.items() for shard in shards):
        if path.exists():
            show.say(f"Note: {path} is damaged; its shard is done again")
            path.unlink()
    if any(pending.values()) and any("adapter" in stage.parts for stage in job.stages):
        _check_adapter(job, show)
    with ExitStack() as stack:
        with show.waiting("the workers start"):
            at = stack.enter_context(_runner(job, pending))
        for stage in job.stages:
            shards = [shard for shard in pending[stage.name] if shard not in lacking or stage.scope == "run"]
            made = _run_stage(job, stage, shards, at, show)
            if any(report.damaged for report in made):
                made = _mended(job, stage, made, at, show)
            lacking |= {report.shard for report in made if report.error}  # left out of the stages that come after
            reports += made
    for stage in job.stages:
        finished(job.run, stage.name)  # kept in one file: whoever asks next opens no shard's own
    target = job.stages[-1]
    if target.scope == "run":
        return _summary_of_run(job, target, reports, time.monotonic() - started)
    files = [job.run / (target.store or target.name)]
    if target.name == ANSWERING:
        basis = job.manifest, job.plan, job.run, job.config.fingerprint(target.name)
        if not answer_is_current(*basis):
            reports += _answered(job, basis, show)
        files.insert(0, job.run / ANSWER)
    return summarise(target.name, job.plan, job.run, reports, seconds=time.monotonic() - started, files=files)


def _look_for_damage(job: Job, show: Display) -> None:
    """Find what is not as it was written, say so, and forget it, so that it is made anew."""
    if HELD.get(job.run):
        (job.run / WRITTEN).unlink(missing_ok=True)  # of a run in a storage, what is read is fetched
        return
    if job.target == ANSWERING and was_written(job.run) is False:
        show.say(f"Note: {job.run / ANSWER} is not as it was written; it is written again")
    for stage in job.stages:
        if stage.store and not has_metadata(job.run / stage.store):
            show.say(f"Note: {job.run / stage.store}: its metadata is damaged; it is made anew")
            mend_metadata(stage, job.plan, job.config.context(stage.name, job.run, device="cpu", batch_size=1))
    for stage, shard in damaged_shards(job.run, job.plan, job.stages):
        _damaged(job, stage.name, shard, show)


def _damaged(job: Job, stage: str, shard: int, show: Display) -> None:
    show.say(f"Note: {stage}, shard {shard}: what was written is damaged; it is done again")
    items_path(job.run, stage, shard).unlink(missing_ok=True)


def _answered(job: Job, basis: tuple[Manifest, Plan, Path, str], show: Display) -> list[ShardReport]:
    """Write the answer; a shard whose outcomes turn out to be damaged is done again, once."""
    again: dict[int, list[ShardReport]] = {}
    while True:
        try:
            with show.waiting("the answer is written"):
                assemble_segments(*basis)
        except DamagedOutcomes as error:
            if error.shard in again:
                raise
            _damaged(job, error.stage, error.shard, show)
            at = run_serial, job.options.device
            made = _run_stage(job, job.stages[-1], [error.shard], at, show)
            again[error.shard] = _mended(job, job.stages[-1], made, at, show) if made[0].damaged else made
        else:
            return [report for reports in again.values() for report in reports]


def _check_adapter(job: Job, show: Display) -> None:
    """Say before stage one what stage two would find: an adapter that does not fit, or none."""
    from s3pot_batch.stages.choices import check_adapter  # with torch, which takes seconds

    check_adapter(job.config.profile)
    if not job.config.profile.adapter.weights and job.config.settings.segments.adapter:
        show.say("Note: the adapter is untrained and changes next to nothing; train one: s3pot-batch train")


def _summary_of_run(job: Job, target: Stage, reports: Sequence[ShardReport], seconds: float) -> Summary:
    own = [report for report in reports if report.stage == target.name]
    failures = tuple(Failure("training", *(report.error or "").split(": ", 1)) for report in own if report.error)
    report = own[0] if own else ShardReport(target.name, 0, skipped=True)
    return Summary(
        target.name, report.items, report.ok, report.no_face, len(failures), failures, seconds,
        () if failures else (job.run / "checkpoint",), unit="faces",
    )  # fmt: skip


def _settle(job: Job) -> None:
    """Write down the plan and the settings: from here on the run folder is bound to them."""
    if job.lender:
        borrow_references(job.lender, job.run)
    for stage in job.stages:
        if stage.name in job.outdated:
            _forget(job.run, stage)
    for shard in job.stale:
        for stage in STAGES:
            items_path(job.run, stage.name, shard).unlink(missing_ok=True)
    if job.lender or not job.settled.written:
        write_plan(job.plan, job.run)
    configuration.write_run(job.config, job.run, [stage.name for stage in job.stages])
    if remote := HELD.get(job.run):
        remote.put_up()


def _forget(run: Path, stage: Stage) -> None:
    """Remove what a stage has made, its checkpoint aside, which is replaced when there is another."""
    for name in (f"items/{stage.name}", *([stage.store] if stage.store else [])):
        if (run / name).exists():
            shutil.rmtree(run / name)
        if remote := HELD.get(run):
            remote.remove(name)
    if stage.scope == "run":
        (run / "checkpoint" / "training.pt").unlink(missing_ok=True)


def _run_stage(
    job: Job, stage: Stage, shards: Sequence[int], at: tuple[Runner, str], show: Display
) -> list[ShardReport]:
    if not shards:
        return []
    run, device = at
    context = job.config.context(stage.name, job.run, device=device, batch_size=job.options.batch_size)
    remote = HELD.get(job.run)
    if remote:
        remote.lend(stage, stage.needed(job.config.settings), shards)
    if stage.store:
        from s3pot_batch.stages import store

        store.create(job.run / stage.store, job.plan, stage.module.arrays(context))
    tasks = Tasks(stage, job.run.absolute(), job.plan, shards)
    sizes = {shard: job.plan.shard_photos(shard) for shard in shards}
    if stage.scope == "run":
        sizes = {0: job.config.settings.training.epochs}
    with show.stage(stage.name, sizes, stage.unit) as on_report:
        if not remote:
            return run(run_task, tasks, context, on_report)
        remote.put_up()  # the arrays' metadata
        with remote.following(on_report) as following:
            return run(run_task, tasks, context, following)


def _mended(
    job: Job, stage: Stage, reports: Sequence[ShardReport], at: tuple[Runner, str], show: Display
) -> list[ShardReport]:
    """Make anew what earlier stages had written and what is damaged by now, and then what could not be made of it."""
    damaged = sorted({report.damaged for report in reports if report.damaged})
    for name, shard in damaged:
        _damaged(job, name, shard, show)
    for earlier in job.stages[: job.stages.index(stage)]:
        _run_stage(job, earlier, [shard for name, shard in damaged if name == earlier.name], at, show)
    broken = [report.shard for report in reports if report.damaged]
    made = _run_stage(job, stage, broken, at, show)
    return [report for report in reports if not report.damaged] + made


@contextmanager
def _runner(job: Job, pending: Mapping[str, Sequence[int]]) -> Iterator[tuple[Runner, str]]:
    """What runs the tasks of all stages, and the device that they see: workers and their models start once."""
    options, shards = job.options, max(map(len, pending.values()))
    places = _places(options, shards)
    address = _address(options) if shards else None
    if not shards or not (places or address):
        yield run_serial, options.device
        return
    from s3pot_batch.pipeline.scheduling import dask_runner

    todo = [stage for stage in job.stages if pending[stage.name]]
    with dask_runner(places, address, imports=_imports(todo, job.config.profile)) as run:
        yield run, places[0].device if places else options.device


def _address(options: Options) -> str | None:
    """Where somebody's scheduler is, if one is meant.

    Raises:
        ConfigError: two are given, or the file does not say it.
    """
    file = options.scheduler_file
    if file is None:
        return options.scheduler
    if options.scheduler:
        raise ConfigError("--scheduler and --scheduler-file are two ways to name one scheduler; give one of them")
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read as a scheduler's file ({type(error).__name__}: {one_line(error)})"
        raise ConfigError(f"--scheduler-file {file}: {reason}; start one: dask scheduler --scheduler-file") from error


def _imports(stages: Sequence[Stage], profile: Profile) -> list[str]:
    """The modules that the work of some stages needs and that are slow to import."""
    from s3pot_batch.stages.models.registry import REGISTRIES

    parts = dict.fromkeys(part for stage in stages for part in stage.parts)
    own = [name for stage in stages for name in (stage.module.__name__, *stage.imports)]
    return own + [REGISTRIES[part].where(profile.part(part).kind) for part in parts]


def _places(options: Options, shards: int) -> tuple[Place, ...]:
    if options.scheduler or options.scheduler_file:
        return ()
    asked = options.device == "cuda" or (options.device == "auto" and shards)  # torch is slow to load: only for work
    gpus = visible_gpus() if asked else ()
    return placement(options.device, workers=options.workers, shards=shards, gpus=gpus, cores=cpu_cores())
