"""The seam between scheduling and work: small picklable tasks in, small picklable reports out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.models.profiles import Profile
from stages.settings import Settings


@dataclass(frozen=True)
class ShardTask:
    """One shard of one stage: the unit of scheduling, and the owner of one Zarr shard per array."""

    stage: str
    run: Path
    shard: int


@dataclass(frozen=True)
class StageContext:
    """What every shard of a stage shares. Specs only: a worker loads models itself, once per process."""

    profile: Profile
    settings: Settings
    fingerprint: str
    device: str = "cpu"
    batch_size: int = 8

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
    """One line when the whole shard failed (see :class:`stages.errors.ShardError`)."""


RunShard = Callable[[ShardTask, StageContext], ShardReport]
