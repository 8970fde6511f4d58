"""What is done in a run folder, and what is left."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.answer import STAGE as ANSWERING
from s3pot_batch.manifests.finished import finished
from s3pot_batch.manifests.plan import Plan, read_plan
from s3pot_batch.manifests.schema import STATUSES
from s3pot_batch.pipeline.at_work import AtWork, at_work
from s3pot_batch.pipeline.copies import called
from s3pot_batch.pipeline.progress import LOG_SECONDS
from s3pot_batch.stages.base import STAGES, stages_towards
from s3pot_batch.stages.settings import Settings

WATCH_SECONDS = 2.0
"""Between two looks of ``status --watch``."""
ALWAYS = {stage.name for stage in stages_towards(ANSWERING, Settings())}
"""Stages that every run has; others are named once they have begun."""


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is; photos of shards that did not finish are in none of the counts."""

    stage: str
    shards_done: int
    shards: int
    ok: int
    no_face: int
    failed: int

    def text(self) -> str:
        """The same for a person."""
        counts = f"{self.ok} ok, {self.no_face} without a face, {self.failed} failed"
        return f"{self.shards_done}/{self.shards} shards done: {counts}"


@dataclass(frozen=True)
class RunStatus:
    """What a run folder holds."""

    run: Path
    photos: int
    stages: tuple[StageStatus, ...]
    checkpoint: bool
    answer: bool
    now: tuple[AtWork, ...] = ()
    """What is worked on."""

    @property
    def finished(self) -> bool:
        """Whether there is an answer, all shards of its stages are done, and nobody works on any."""
        return self.answer and not self.now and all(stage.shards_done == stage.shards for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """The same in JSON types."""
        return {**asdict(self), "run": str(self.run)}

    def text(self) -> str:
        """The same for a person."""
        lines = [f"{self.run}: {self.photos} photos"]
        lines += [f"  {stage.stage:<12} {stage.text()}" for stage in self.stages]
        lines.append(f"  {'checkpoint':<12} {'trained here' if self.checkpoint else 'none; the profile has its own'}")
        lines.append(f"  {'answer':<12} {self.run / ANSWER if self.answer else 'not yet'}")
        lines += [f"  {'now':<12} {one.stage}, {one.text()}" for one in self.now]
        return "\n".join(lines)


def run_status(run: Path) -> RunStatus:
    """Look into a run folder; nothing is loaded but the statuses.

    Raises:
        ManifestError: there is no run.
    """
    plan = read_plan(run, names=False)
    every = (_stage_status(run, plan, stage.name) for stage in STAGES if stage.scope == "shard")
    stages = tuple(status for status in every if status.shards_done or status.stage in ALWAYS)
    checkpoint = (run / "checkpoint" / "model.safetensors").exists()
    return RunStatus(run, plan.photos, stages, checkpoint, (run / ANSWER).exists(), tuple(at_work(run)))


def watch(look: Callable[[], RunStatus], seconds: float = WATCH_SECONDS) -> None:
    """Show a run's status on standard output again and again, until it is finished.

    Args:
        look: finds it out.
        seconds: between two looks on a terminal; else there is a line every ten seconds.

    Raises:
        ManifestError: there is no run.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(soft_wrap=True)
    pause = seconds if console.is_terminal else max(seconds, LOG_SECONDS)
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        while not (status := look()).finished:
            if console.is_terminal:
                live.update(Text(called(status.text())), refresh=True)
            else:
                console.print(Text(called(status.text())))
            time.sleep(pause)
    console.print(Text(called(status.text())))


def _stage_status(run: Path, plan: Plan, stage: str) -> StageStatus:
    found = finished(run, stage).of(plan)
    tally = found.statuses
    return StageStatus(stage, found.shards, len(plan.wanted_shards), *(tally[status] for status in STATUSES))
