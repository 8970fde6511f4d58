"""What a report knows of each photo: how it ended, its figures, and where its faces lie."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.answer import STAGE as ANSWERING
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.pipeline.corrections import CORRECTIONS
from s3pot_batch.pipeline.evaluation.evaluate import OURS, take_corrections
from s3pot_batch.stages.errors import ConfigError

GROUP = "kind"
"""The column that photos are grouped by unless another is named, as in ``evaluate``."""
NEEDED = ("index", "image_id", "status", "error_type", "error", "faces", "occlusion_ratio", "predicted_iou",
          "faces_left_out", "seconds")  # fmt: skip
UNFINISHED = "its shard was not finished; run the command again"


@dataclass(frozen=True, slots=True)
class Row:
    """One photo of a run."""

    index: int
    """Its number in the plan."""
    image_id: str
    status: str
    shard: int
    error_type: str | None = None
    error: str | None = None
    ratio: float | None = None
    """Hidden share of the face region, 0 to 1."""
    predicted_iou: float | None = None
    """What the segmenter itself expects, as a mean over the faces."""
    faces: tuple[int, ...] = ()
    """Zarr rows."""
    left_out: int = 0
    """Faces beyond ``faces.max_faces``."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Truth:
    """What is known of the true masks of a run."""

    iou: dict[str, float] = field(default_factory=dict)
    """IoU of the occlusion by image id, where ``evaluate`` has measured it."""
    summary: list[dict[str, Any]] = field(default_factory=list)
    """The means, by method and group."""
    cells: dict[str, object] = field(default_factory=dict)
    """The true masks, by image id: what people have corrected, else what the manifest has in the column ``mask``."""
    images: dict[str, str] = field(default_factory=dict)
    """What it has in the column ``image``: paths of masks are relative to the same folder."""
    note: str | None = None
    """What to do where there is a truth and no figures."""


def read_rows(run: Path, plan: Plan) -> list[Row]:
    """Every photo that the manifest lists, in the plan's order; one whose shard lacks has failed."""
    return list(chain.from_iterable(_shard(run, plan, shard) for shard in plan.wanted_shards))


def _shard(run: Path, plan: Plan, shard: int) -> Iterator[Row]:
    wanted, ids = plan.wanted(shard), plan.image_ids(shard)
    try:
        found = read_table(items_path(run, ANSWERING, shard), columns=NEEDED).to_pylist()
    except ManifestError:  # it is not there, or damaged
        first = plan.shard(shard)[0].index
        lost = (Row(first + n, name, "failed", shard, "ShardError", UNFINISHED) for n, name in enumerate(ids))
        yield from (row for row, keep in zip(lost, wanted, strict=True) if keep)
        return
    for one, keep in zip(found, wanted, strict=True):
        if keep:
            yield Row(
                one["index"], one["image_id"], one["status"], shard, one["error_type"], one["error"],
                one["occlusion_ratio"], one["predicted_iou"], tuple(face["row"] for face in one["faces"] or ()),
                one["faces_left_out"] or 0, one["seconds"],
            )  # fmt: skip


def read_groups(run: Path, group: str | None = None) -> dict[str, str]:
    """The group of each photo, by image id; empty where the manifest has no such column.

    Args:
        run: a run folder; without an answer there are no groups.
        group: a column of the manifest, by default ``kind``.

    Raises:
        ConfigError: a column was named that is not there.
    """
    path = run / ANSWER
    table = read_table(path, columns=("image_id", group or GROUP)) if path.exists() else pa.table({"image_id": []})
    if (group or GROUP) not in table.column_names:
        if group:
            raise ConfigError(f"{path}: no column {group} to group by; give a column of the manifest")
        return {}
    pairs = zip(table["image_id"].to_pylist(), table[group or GROUP].to_pylist(), strict=True)
    return {name: str(value) for name, value in pairs if value is not None}


def read_truth_of(run: Path) -> Truth:
    """What ``evaluate`` found out about a run's masks, and where their truth is.

    Figures that are older than the masks, or of other photos, are not taken.
    """
    answer = run / ANSWER
    table = read_table(answer, columns=("image_id", "image", "mask")).to_pylist() if answer.exists() else []
    take_corrections(table, run)
    rows = [row for row in table if row.get("mask") is not None]
    cells = {row["image_id"]: row["mask"] for row in rows}
    images = {row["image_id"]: row["image"] for row in rows}
    measured, means = run / "evaluation.parquet", run / "evaluation.json"
    if not rows or not (measured.exists() and means.exists()):
        note = "There are true masks: s3pot-batch evaluate measures against them. Report again afterwards."
        return Truth({}, [], cells, images, note if rows else None)
    ours = [row for row in read_table(measured).to_pylist() if row["method"] == OURS]
    others = [row["image"] for row in ours] != [row["image"] for row in rows]
    if others or _older(measured, answer, run / CORRECTIONS):
        note = (
            "What evaluate has measured is older than these masks or their truth: run s3pot-batch evaluate, and report "
            "again."
        )
        return Truth({}, [], cells, images, note)
    pairs = zip(rows, ours, strict=True)
    iou = {row["image_id"]: figures["iou"] for row, figures in pairs if figures["iou"] is not None}
    return Truth(iou, json.loads(means.read_text(encoding="utf-8")), cells, images)


def _older(one: Path, *others: Path) -> bool:
    """Whether a file is older than any of some others that are there."""
    return any(one.stat().st_mtime_ns < other.stat().st_mtime_ns for other in others if other.exists())


def by_interest(rows: Sequence[Row], iou: dict[str, float]) -> list[int]:
    """The places in ``rows`` of the photos with a mask, those that people want to look at first in front.

    In turn: the worst and best by IoU with the truth, the least and most sure masks that mark anything, the most
    hidden, several faces, and a sample of all.
    """
    ok = [n for n, row in enumerate(rows) if row.status == "ok"]
    known = sorted((n for n in ok if rows[n].image_id in iou), key=lambda n: iou[rows[n].image_id])
    sure = sorted((n for n in ok if rows[n].ratio), key=lambda n: rows[n].predicted_iou or 0)
    hidden = sorted(ok, key=lambda n: -(rows[n].ratio or 0))
    several = [n for n in ok if len(rows[n].faces) > 1]
    sample = np.random.default_rng(0).permutation(ok).tolist()
    turns = zip_longest(known, known[::-1], sure, hidden, sure[::-1], several, sample)
    return list(dict.fromkeys(n for turn in turns for n in turn if n is not None))
