"""What is done in a run folder, and what is left."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.files import items_path
from manifests.plan import Plan, read_plan
from manifests.schema import STATUSES

STAGES = ("references", "tokens", "fits", "segments")
OPTIONAL = ("tokens", "fits")
"""Stages that not every run has; they are named once they have begun."""


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

    def as_json(self) -> dict[str, Any]:
        """The same in JSON types."""
        return {**asdict(self), "run": str(self.run)}

    def text(self) -> str:
        """The same for a person."""
        lines = [f"{self.run}: {self.photos} photos"]
        lines += [f"  {stage.stage:<12} {stage.text()}" for stage in self.stages]
        lines.append(f"  {'checkpoint':<12} {'trained here' if self.checkpoint else 'none; the profile has its own'}")
        lines.append(f"  {'answer':<12} {self.run / 'segments.parquet' if self.answer else 'not yet'}")
        return "\n".join(lines)


def run_status(run: Path) -> RunStatus:
    """Look into a run folder; nothing is loaded but the statuses.

    Raises:
        ManifestError: there is no run.
    """
    plan = read_plan(run)
    every = (_stage_status(run, plan, stage) for stage in STAGES)
    stages = tuple(status for status in every if status.shards_done or status.stage not in OPTIONAL)
    checkpoint = (run / "checkpoint" / "model.safetensors").exists()
    return RunStatus(run, len(plan.items), stages, checkpoint, (run / "segments.parquet").exists())


def _stage_status(run: Path, plan: Plan, stage: str) -> StageStatus:
    done = [path for shard in range(plan.shards) if (path := items_path(run, stage, shard)).exists()]
    tally: Counter[str] = Counter()
    for path in done:
        tally.update(pq.read_table(path, columns=["status"])["status"].to_pylist())
    return StageStatus(stage, len(done), plan.shards, *(tally[status] for status in STATUSES))
