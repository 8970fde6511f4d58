"""Comparing a run's masks with the ground truth that its manifest names. Training never imports this."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import write_parquet
from stages.errors import ConfigError
from stages.evaluation.metrics import Counts, count
from stages.images import Mask, decode_rle, read_mask

FIGURES = ("iou", "precision", "recall", "f1")


@dataclass(frozen=True)
class EvaluationResult:
    """Figures per image, and their means overall and by ``kind``."""

    rows: pa.Table
    summary: list[dict[str, Any]]
    skipped: int
    """Rows without a ground truth."""

    def table(self) -> str:
        """The summary as text; a figure without an occluded photo is a dash."""
        lines = [
            f"{'photos':<14}{'n':>5}{'faceless':>10}" + "".join(f"{name:>11}" for name in FIGURES) + "  clean marked"
        ]
        for entry in self.summary:
            figures = "".join(f"{'–' if entry[name] is None else format(entry[name], '.3f'):>11}" for name in FIGURES)
            clean = "–" if entry["clean_marked"] is None else f"{100 * entry['clean_marked']:.1f} %"
            lines.append(f"{entry['photos']:<14}{entry['n']:>5}{entry['faceless']:>10}{figures}{clean:>14}")
        notes = "Truth is compared inside the found face region, or in the whole photo where no face was found."
        return "\n".join([*lines, notes, *([f"{self.skipped} rows have no ground truth."] if self.skipped else [])])

    def write(self, folder: Path) -> None:
        """Write ``evaluation.parquet`` (per image) and ``evaluation.json`` (the summary)."""
        write_parquet(self.rows, folder / "evaluation.parquet")
        (folder / "evaluation.json").write_text(json.dumps(self.summary, indent=2) + "\n")


def evaluate(manifest: Path, run: Path) -> EvaluationResult:
    """Compare ``run/segments.parquet`` with the ``mask`` column that it took over from the manifest.

    The truth is the occluder's pixels; what counts is the part inside the face, so both masks are compared inside the
    found face region M. A photo in which no face was found has an empty answer, compared in the whole photo.

    Raises:
        ConfigError: there is no answer or no ground truth.
    """
    path = run / "segments.parquet"
    if not path.exists():
        raise ConfigError(f"{path}: no answer there; run: s3pot-batch segment --manifest {manifest}")
    table = pq.read_table(path)
    if "mask" not in table.column_names:
        raise ConfigError(f"{manifest}: no column mask; evaluation needs a ground truth")
    rows, compared, skipped = [], [], 0
    for row in table.to_pylist():
        if row["mask"] is None:
            skipped += 1
            continue
        counts = compare(row, read_mask(row["mask"], manifest.parent))
        compared.append((row, counts))
        rows.append(
            {"image": row["image"], "kind": row.get("kind"), "status": row["status"],
             **{name: getattr(counts, name) for name in FIGURES}, "false_positive_area": counts.false_positive_area}
        )  # fmt: skip
    if not rows:
        raise ConfigError(f"{manifest}: the column mask is empty; evaluation needs a ground truth")
    kinds = sorted({row["kind"] for row in rows if row["kind"] is not None})
    groups = [("all", compared)] + [(kind, [c for c in compared if c[0].get("kind") == kind]) for kind in kinds]
    return EvaluationResult(pa.Table.from_pylist(rows), [summarise(name, group) for name, group in groups], skipped)


def compare(row: dict[str, Any], truth: Mask) -> Counts:
    """One photo's answer against its truth."""
    empty = np.zeros_like(truth)
    found = decode_rle(row["occlusion"]) if row["occlusion"] else empty
    inside = decode_rle(row["face_region"]) if row["status"] == "ok" else ~empty
    if found.shape != truth.shape:
        raise ConfigError(f"{row['image']}: its mask is {truth.shape}, the photo {found.shape}")
    return count(found, truth, inside)


def summarise(name: str, group: Sequence[tuple[dict[str, Any], Counts]]) -> dict[str, Any]:
    """Means over the occluded photos, and the marked share of the unoccluded ones."""
    occluded = [counts for _, counts in group if counts.occluded]
    clean = [counts.false_positive_area for _, counts in group if not counts.occluded]
    return {
        "photos": name, "n": len(group), "faceless": sum(row["status"] != "ok" for row, _ in group),
        **{figure: float(np.mean([getattr(c, figure) for c in occluded])) if occluded else None for figure in FIGURES},
        "clean_marked": float(np.mean(clean)) if clean else None,
    }  # fmt: skip
