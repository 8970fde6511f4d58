"""How a command ended: counts, reasons, files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from s3pot_batch.manifests.finished import finished
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.manifests.schema import STATUSES
from s3pot_batch.stages.base import ShardReport

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Failure:
    """One photo that failed, and why."""

    image_id: str
    error_type: str
    error: str


@dataclass(frozen=True)
class Summary:
    """How a stage ended. ``ok + no_face + failed == photos``."""

    stage: str
    photos: int
    ok: int
    no_face: int
    failed: int
    failures: tuple[Failure, ...]
    seconds: float
    files: tuple[Path, ...]
    unit: str = "photos"

    @property
    def exit_code(self) -> int:
        """0: every photo is ok or has no face; 1: some failed."""
        return 1 if self.failed else 0

    def as_json(self) -> dict[str, Any]:
        """The same in JSON types."""
        return {**asdict(self), "files": [str(path) for path in self.files]}

    def text(self) -> str:
        """The same for a person: counts, reasons, files."""
        counts = f"{self.ok} ok, {self.no_face} without a face, {self.failed} failed"
        lines = [f"{self.stage}: {counts} of {self.photos} {self.unit}; {self.seconds:.1f} s"]
        for kind, count in Counter(failure.error_type for failure in self.failures).most_common():
            lines.append(f"  {count} × {kind}")
        lines += [f"    {failure.image_id}: {failure.error}" for failure in self.failures[:SHOWN_FAILURES]]
        if len(self.failures) > SHOWN_FAILURES:
            lines.append(f"    … and {len(self.failures) - SHOWN_FAILURES} more")
        lines += [f"  {path}" for path in self.files]
        return "\n".join(lines)


def summarise(
    stage: str, plan: Plan, run: Path, reports: Sequence[ShardReport], *, seconds: float, files: Sequence[Path]
) -> Summary:
    """Count the outcome of every planned photo; one whose shard did not finish has failed with the shard's reason."""
    reasons = {report.shard: report.error for report in reports if report.error}
    done = finished(run, stage).of(plan)
    tally = Counter(done.statuses)
    failures = [Failure(**row) for row in done.failures(plan)]
    for shard in plan.wanted_shards:
        if shard not in done.fingerprints:
            kind, _, reason = reasons.get(shard, "ShardError: its shard was not finished; run again").partition(": ")
            ids = list(compress(plan.image_ids(shard), plan.wanted(shard)))
            failures += [Failure(image_id, kind, reason) for image_id in ids]
            tally["failed"] += len(ids)
    ok, no_face, failed = (tally[status] for status in STATUSES)
    return Summary(stage, plan.photos, ok, no_face, failed, tuple(failures), seconds, tuple(files))
