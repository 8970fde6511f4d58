"""What a report says before anybody looks at a photo: how the run ended, what to look at first, and why."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s3pot_batch.manifests.schema import STATUSES
from s3pot_batch.pipeline.evaluation.evaluate import OURS
from s3pot_batch.pipeline.report.rows import Row, Truth

BINS = 20
"""Bars of a histogram."""
MOSTLY = 0.5
"""Hidden share of a face from which more of it is hidden than seen."""
SOME = 0.0001
"""Hidden share that is more than nothing, as the page rounds it."""
EXAMPLES = 5
"""Photos that are named for each kind of failure."""
FEW = 12
"""Photos with a truth below which no correlation is told."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: values from ``low`` up to ``high``."""

    low: float
    high: float
    count: int
    height: float
    """Percent of the highest one."""


@dataclass(frozen=True)
class Histogram:
    """How a figure from 0 to 1 is spread over the photos."""

    name: str
    """The page's script knows the figure by it."""
    title: str
    note: str
    bars: tuple[Bar, ...]
    median: float | None

    @property
    def count(self) -> int:
        """Photos that have the figure."""
        return sum(bar.count for bar in self.bars)

    @property
    def most(self) -> int:
        """Photos of the highest bar."""
        return max(bar.count for bar in self.bars)


@dataclass(frozen=True)
class FailureKind:
    """All photos that failed for the same kind of reason."""

    kind: str
    count: int
    advice: str
    """What to do, as the error itself says."""
    examples: tuple[tuple[str, str], ...]
    """Image id and error of some of them."""


@dataclass(frozen=True)
class Look:
    """Something to look at first: how many photos, why, and the gallery's address that shows them."""

    count: int
    what: str
    why: str
    address: str


@dataclass(frozen=True)
class Training:
    """How the run's own adapter was trained."""

    losses: tuple[float, ...]
    faces: int

    @property
    def points(self) -> str:
        """An SVG polyline's points, 0 to 100 each way; the highest loss is at the top."""
        low, high = min(self.losses), max(self.losses)
        across, up = 100 / max(len(self.losses) - 1, 1), 100 / max(high - low, 1e-9)
        return " ".join(f"{n * across:.2f},{(high - loss) * up:.2f}" for n, loss in enumerate(self.losses))


@dataclass(frozen=True)
class Story:
    """Everything that the page says above its gallery."""

    photos: int
    counts: dict[str, int]
    """Photos by status."""
    faces: int
    seconds: float | None
    """Median time per photo with a face."""
    histograms: tuple[Histogram, ...]
    failures: tuple[FailureKind, ...]
    looks: tuple[Look, ...]
    training: Training | None
    metrics: list[dict[str, Any]]
    iou: dict[str, Any] | None
    """The entry of ``metrics`` over all photos."""
    measured: int
    """Photos whose mask has an IoU with the truth."""
    correlation: float | None
    """Rank correlation of the predicted with the measured IoU."""
    note: str | None

    def percent(self, status: str) -> float:
        """Share of the photos with that status, in percent."""
        return 100 * self.counts[status] / max(self.photos, 1)


def tell(run: Path, rows: Sequence[Row], truth: Truth) -> Story:
    """Sum up a run.

    Args:
        run: the run folder.
        rows: all its photos.
        truth: what is known of their true masks.
    """
    tally = Counter(row.status for row in rows)
    ok = [row for row in rows if row.status == "ok"]
    ratios = [row.ratio for row in ok if row.ratio is not None]
    predicted = [row.predicted_iou for row in ok if row.predicted_iou is not None]
    overall = [entry for entry in truth.summary if entry["method"] == OURS and entry["photos"] == "all"]
    return Story(
        photos=len(rows),
        counts={status: tally[status] for status in STATUSES},
        faces=sum(len(row.faces) for row in ok),
        seconds=float(np.median([row.seconds for row in ok])) if ok else None,
        histograms=(
            histogram("ratio", "Hidden share of the face", "share of the face region that is hidden", ratios),
            histogram("sure", "Predicted IoU", "the segmenter's own guess of how good its mask is", predicted),
        ),
        failures=failure_kinds(rows),
        looks=tuple(_looks(rows, truth)),
        training=_training(run),
        metrics=truth.summary,
        iou=overall[0] if overall and overall[0]["iou"] is not None else None,
        measured=len(truth.iou),
        correlation=_correlation(ok, truth),
        note=truth.note,
    )


def histogram(name: str, title: str, note: str, values: Sequence[float]) -> Histogram:
    """Count values from 0 to 1 in bars of the same width; 1 itself is in the last."""
    counts, edges = np.histogram(np.clip(values, 0, 1), bins=BINS, range=(0, 1))
    most = max(int(counts.max()), 1)
    bars = tuple(
        Bar(round(float(low), 4), round(float(high), 4), int(count), 100 * int(count) / most)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )
    return Histogram(name, title, note, bars, float(np.median(values)) if len(values) else None)


def failure_kinds(rows: Sequence[Row]) -> tuple[FailureKind, ...]:
    """The failures by kind, most frequent first; what to do is what follows the last semicolon of their errors."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == "failed":
            kinds.setdefault(row.error_type or "", []).append(row)
    return tuple(
        FailureKind(
            kind, len(failed), (failed[0].error or "").rpartition("; ")[2],
            tuple((row.image_id, row.error or "") for row in failed[:EXAMPLES]),
        )
        for kind, failed in sorted(kinds.items(), key=lambda pair: -len(pair[1]))
    )  # fmt: skip


def _looks(rows: Sequence[Row], truth: Truth) -> list[Look]:
    """What to look at first, with at least one photo each."""
    ok = [row for row in rows if row.status == "ok"]
    known = sum(row.image_id in truth.iou for row in ok)

    def count(condition: Callable[[Row], bool], among: Sequence[Row] = ok) -> int:
        return sum(map(condition, among))

    found = [
        Look(count(lambda row: row.status == "failed", rows), "failed", "no mask, and a reason each", "status=failed"),
        Look(count(lambda row: row.status == "no_face", rows), "without a face",
             "is there none? a box in the manifest says where to look", "status=no_face"),
        Look(known, "with a true mask, worst first", "the lowest measured IoU is at the top", "sort=worst"),
        Look(count(lambda row: bool(row.ratio)), "masks, least sure first",
             "by the segmenter's own guess, which is a hint and no measure", f"sort=unsure&ratio={SOME}-1"),
        Look(count(lambda row: (row.ratio or 0) > MOSTLY), "more hidden than seen",
             "the parser had little face to go by", f"sort=most&ratio={MOSTLY}-1"),
        Look(count(lambda row: row.ratio is not None and not row.ratio), "with nothing hidden",
             "a missed occlusion looks just so", "ratio=0-0"),
        Look(count(lambda row: len(row.faces) > 1), "with several faces", "their masks are united in the answer",
             "faces=several"),
        Look(count(lambda row: row.left_out > 0), "with faces left out", "beyond faces.max_faces", "faces=left"),
    ]  # fmt: skip
    return [look for look in found if look.count]


def _training(run: Path) -> Training | None:
    """The losses that a training wrote down, if the run has its own adapter."""
    path = run / "checkpoint" / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        losses = tuple(float(loss) for loss in facts["losses"])
        return Training(losses, int(facts["faces"])) if losses else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none there, or of another program


def _correlation(ok: Sequence[Row], truth: Truth) -> float | None:
    """Spearman's, over the occluded photos with a truth; of few photos it would say nothing."""
    pairs = [
        (row.predicted_iou, truth.iou[row.image_id]) for row in ok
        if row.image_id in truth.iou and row.predicted_iou is not None
    ]  # fmt: skip
    if len(pairs) < FEW or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(pairs).statistic)
