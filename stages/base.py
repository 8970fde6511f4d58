"""The stages of a run, in one list, and the driver that does what all shards share.

A stage is a function ``work(items, context)`` in a module of its own: it takes the photos of one shard and gives an
outcome for each, and arrays by Zarr row. Which stages there are, in which order, what decides their results, what is
still to do and how far they are: all that follows from :data:`STAGES`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from s3pot_batch.manifests.outcomes import Checksums, Outcome, items_path, shard_is_done, write_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.manifests.schema import ANSWER_VERSION, SCHEMA_VERSION, STATUSES
from s3pot_batch.stages.errors import RetryableError
from s3pot_batch.stages.headway import Headway
from s3pot_batch.stages.models.memory import out_of_memory
from s3pot_batch.stages.models.profiles import Profile
from s3pot_batch.stages.settings import DECODING, PROMPTING, SECTIONS, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s3pot_batch.stages.models.registry import Models


@dataclass(frozen=True)
class ShardTask:
    """One shard of one stage, with its photos: the unit of scheduling, and the owner of one Zarr shard per array.

    A stage that works on the whole run has one task without photos.
    """

    stage: str
    run: Path
    shard: int
    items: tuple[PlannedItem, ...] = ()


@dataclass(frozen=True)
class StageContext:
    """What every shard of a stage shares. Specs only: a worker loads models itself, once per process."""

    run: Path
    profile: Profile
    settings: Settings
    fingerprint: str
    device: str = "cpu"
    batch_size: int = 8
    headway: Headway = field(default_factory=Headway, compare=False)
    """Where a stage's work says what it has done by now; each task has its own."""

    @property
    def models(self) -> "Models":
        """The profile's models on this worker's device."""
        from s3pot_batch.stages.models.registry import Models

        return Models(self.profile, self.device)

    @property
    def faces_at_once(self) -> int:
        """The batch size; 1 on a CPU, which gains nothing from more and whose kernels may then round otherwise."""
        return 1 if self.device == "cpu" else self.batch_size


@dataclass(frozen=True)
class ShardReport:
    """What came of one shard. ``ok + no_face + failed == items`` unless ``error`` is set."""

    stage: str
    shard: int
    items: int = 0
    ok: int = 0
    no_face: int = 0
    failed: int = 0
    seconds: float = 0.0
    skipped: bool = False
    """True when a finished shard with the same fingerprint was found and nothing was done."""
    error: str | None = None
    """One line when the whole shard failed (see :class:`s3pot_batch.stages.errors.ShardError`)."""
    damaged: tuple[str, int] | None = None
    """Stage and shard whose data has to be made again first."""


RunShard = Callable[[ShardTask, StageContext], ShardReport]


@dataclass(frozen=True)
class ShardResult:
    """What a stage made of the photos of one shard."""

    outcomes: Sequence[Outcome]
    """One per photo, in order."""
    arrays: "Mapping[int, Mapping[str, NDArray[np.generic]]]" = field(default_factory=dict)
    """Values of the stage's arrays by Zarr row; rows that are not named stay empty."""


@dataclass(frozen=True)
class Stage:
    """One stage, as everything but its own module sees it."""

    name: str
    needs: tuple[str, ...] = ()
    """Stages whose results it reads."""
    needs_if: tuple[tuple[str, str], ...] = ()
    """(setting, stage): needed as well where that setting is true."""
    settings: tuple[str, ...] = ()
    """Settings that decide its results: sections, or dotted names."""
    parts: tuple[str, ...] = ()
    """Models that decide its results, besides those of the stages that it needs."""
    store: str | None = None
    """The Zarr store that it writes; its module's ``arrays(context)`` says what is in there."""
    scope: Literal["shard", "run"] = "shard"
    """``run``: one task for all photos; its module does without this driver, and has ``is_done(run, fingerprint)``."""
    imports: tuple[str, ...] = ()
    """What its work imports late, as it is slow, besides its own module and those of its parts."""
    unit: str = "photos"
    """What its progress counts."""
    version: int | None = None
    """Of what it writes, raised with it: what was written before is outdated then."""

    @cached_property
    def module(self) -> Any:  # noqa: ANN401  (a module with the functions named above)
        """Its module, imported when first asked for: that is when torch is loaded."""
        return import_module(f"s3pot_batch.stages.{_MODULES.get(self.name, self.name)}")

    def needed(self, settings: Settings) -> tuple[str, ...]:
        """The stages whose results it reads with these settings."""
        more = [stage for name, stage in self.needs_if if _value(settings, name)]
        return (*self.needs, *more)

    def is_done(self, run: Path, shard: int, fingerprint: str) -> bool:
        """Whether a shard is finished with this fingerprint.

        Raises:
            ManifestError: it was finished with another one, or its file is damaged.
        """
        if self.scope == "run":
            return bool(self.module.is_done(run, fingerprint))
        return shard_is_done(run, self.name, shard, fingerprint)

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of settings that are this stage's own."""
        return tuple(name for name in self.settings if name in SECTIONS)


_MODULES = {"train": "training"}
LEARNING = ("training", "segments.target", "segments.adapter", "segments.prompt_step")

STAGES = (
    Stage("references", settings=("seed", "faces", "references"), parts=("detector", "parser", "inpainter"),
          store="references.zarr", imports=("s3pot_batch.stages.method._facer",), version=SCHEMA_VERSION),
    Stage("tokens", needs=("references",), settings=(*PROMPTING, "training.tokens"), parts=("segmenter",),
          store="tokens.zarr"),
    Stage("train", needs=("tokens",), settings=("seed", *LEARNING), scope="run", unit="epochs"),
    Stage("fits", needs=("tokens",), settings=LEARNING, parts=("adapter",)),
    Stage("decoded", needs=("references",), needs_if=(("segments.per_image", "fits"),), settings=DECODING,
          parts=("segmenter", "adapter"), store="decoded.zarr"),
    Stage("segments", needs=("decoded",), settings=("segments",), parts=("refiner",),
          store="masks.zarr", version=ANSWER_VERSION),
)  # fmt: skip
"""All stages; each comes after those that it needs."""


def stage_named(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ValueError: there is none.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ValueError(f"no stage {name}; there are {', '.join(stage.name for stage in STAGES)}")


def stages_towards(target: str, settings: Settings) -> tuple[Stage, ...]:
    """A stage and all that have to come before it, in order."""
    wanted, queue = set[str](), [target]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += stage_named(name).needed(settings)
    return tuple(stage for stage in STAGES if stage.name in wanted)


def run_task(task: ShardTask, context: StageContext) -> ShardReport:
    """Do one task of any stage: nothing if it is done, else its work; the outcomes are written last and mark the end.

    A worker of somebody else's scheduler goes on when the command that gave it the task has died. When the same command
    runs again, whoever is given the task a second time waits for the first.

    Raises:
        RetryableError: memory ran out, be it while a model was loaded.
    """
    path = items_path(task.run, task.stage, task.shard).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):  # of a process that dies it is free at once
        report = _run_task(task, replace(context, headway=Headway(path)))
    path.unlink(missing_ok=True)  # whoever waits holds a lock of no name then, and finds the shard done
    return report


def _run_task(task: ShardTask, context: StageContext) -> ShardReport:
    started, stage = time.perf_counter(), stage_named(task.stage)
    if stage.is_done(task.run, task.shard, context.fingerprint):
        return ShardReport(stage.name, task.shard, len(task.items), skipped=True)
    work = stage.module.work
    try:
        if stage.scope == "run":
            report: ShardReport = work(task, context)
            return report
        result: ShardResult = work(task.items, context)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise RetryableError(f"out of memory with {context.faces_at_once} faces at once") from error
    checksums: Checksums = {}
    if stage.store:
        from s3pot_batch.stages import store

        max_faces = context.settings.faces.max_faces
        rows = range(task.items[0].row, task.items[0].row + len(task.items) * max_faces)
        checksums = store.write_rows(task.run / stage.store, stage.module.arrays(context), rows, result.arrays)
    write_outcomes(task.run, stage.name, task.shard, result.outcomes, context.fingerprint, checksums)
    ok, no_face, failed = (sum(one.status == status for one in result.outcomes) for status in STATUSES)
    return ShardReport(stage.name, task.shard, len(result.outcomes), ok, no_face, failed, time.perf_counter() - started)


def _value(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)
