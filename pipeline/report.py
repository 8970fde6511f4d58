"""What came out: the closing summary of a command, and the page that a person looks at."""

import base64
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import pyarrow.parquet as pq

from manifests.files import items_path
from manifests.plan import Plan, read_plan
from manifests.schema import STATUSES
from pipeline.status import RunStatus, run_status
from stages.base import ShardReport

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
    tally: Counter[str] = Counter()
    failures: list[Failure] = []
    for shard in range(plan.shards):
        path = items_path(run, stage, shard)
        if path.exists():
            rows = pq.read_table(path, columns=["image_id", "status", "error_type", "error"]).to_pylist()
            tally.update(row["status"] for row in rows)
            failures += [
                Failure(row["image_id"], row["error_type"], row["error"]) for row in rows if row["status"] == "failed"
            ]
        else:
            kind, _, reason = reasons.get(shard, "ShardError: its shard was not finished; run again").partition(": ")
            lost = [Failure(item.image_id, kind, reason) for item in plan.shard(shard)]
            tally["failed"] += len(lost)
            failures += lost
    ok, no_face, failed = (tally[status] for status in STATUSES)
    return Summary(stage, len(plan.items), ok, no_face, failed, tuple(failures), seconds, tuple(files))


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% } code { background: #f4f4f4 }
</style></head><body>
<h1>$title</h1>
<p>$photos photos. The masks mark what hides a face: <strong>1 = occluded</strong>.</p>
<h2>Stages</h2>
<table><tr><th>stage</th><th>shards</th><th>ok</th><th>no face</th><th>failed</th></tr>$stages</table>
<h2>What was found</h2>
$sheet
<h2>Failures</h2>
$failures
<h2>Files</h2>
<ul>$files</ul>
</body></html>
""")


def write_page(run: Path, sheet: Path) -> Path:
    """Write ``report.html``, one file with everything in it.

    Args:
        run: a run folder.
        sheet: the contact sheet, a PNG.

    Raises:
        ManifestError: there is no run.
    """
    status, plan = run_status(run), read_plan(run)
    stage = "segments" if status.answer else "references"
    summary = summarise(stage, plan, run, [], seconds=0.0, files=run_files(run))
    picture = base64.b64encode(sheet.read_bytes()).decode()
    page = PAGE.substitute(
        title=html.escape(f"Run {run.name}"),
        photos=status.photos,
        stages=_stage_rows(status),
        sheet=f'<img alt="photo, parse, reference, contrast, prompts, mask" src="data:image/png;base64,{picture}">',
        failures=_failure_rows(summary),
        files="".join(f"<li><code>{html.escape(str(path))}</code></li>" for path in summary.files),
    )
    path = run / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def run_files(run: Path) -> tuple[Path, ...]:
    """What there is to look at in a run folder."""
    names = ("segments.parquet", "references.zarr", "masks.zarr", "masks", "checkpoint", "config.toml", "report.html")
    return tuple(path for name in names if (path := run / name).exists())


def _stage_rows(status: RunStatus) -> str:
    return "".join(
        f"<tr><td>{stage.stage}</td><td class=n>{stage.shards_done}/{stage.shards}</td><td class=n>{stage.ok}</td>"
        f"<td class=n>{stage.no_face}</td><td class=n>{stage.failed}</td></tr>"
        for stage in status.stages
    )


def _failure_rows(summary: Summary) -> str:
    if not summary.failures:
        return "<p>None.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(failure.image_id)}</td><td>{html.escape(failure.error_type)}</td>"
        f"<td>{html.escape(failure.error)}</td></tr>"
        for failure in summary.failures
    )
    return f"<table><tr><th>photo</th><th>kind</th><th>reason</th></tr>{rows}</table>"
