"""Two runs beside each other: ``comparison.html``, one file like the report, of the photos that both have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from PIL import Image

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import read_table
from s3pot_batch.manifests.plan import Plan, read_plan
from s3pot_batch.pipeline.evaluation.metrics import mean_with_interval
from s3pot_batch.pipeline.progress import display
from s3pot_batch.pipeline.report import parts
from s3pot_batch.pipeline.report.page import thumbnail_size
from s3pot_batch.pipeline.report.parts import BUNDLE, as_script, rounded
from s3pot_batch.pipeline.report.pictures import (
    FINE,
    Size,
    Thumbnail,
    faces_of,
    in_frame,
    lossy,
    stencil,
    thumbnail,
    true_mask,
)  # fmt: skip
from s3pot_batch.pipeline.report.rows import Row, Truth, read_groups, read_rows, read_truth_of
from s3pot_batch.pipeline.runner import OnReport
from s3pot_batch.stages import references, segments, store
from s3pot_batch.stages.base import ShardReport
from s3pot_batch.stages.errors import ConfigError, ShardError
from s3pot_batch.stages.rle import BadRle, decode_rle

PAGE = "comparison.html"
MOST_PAIRS = 5_000
"""In a gallery; of more, those that changed most."""
TELLING, VISIBLE = 0.01, 0.05
"""By how much the IoU with the truth has to differ, or the masks among each other, to be called a change.

Masks are compared where one of them hides the first share of the face.
"""
Verdict = Literal["better", "worse", "changed", "same"]
LABELS: dict[Verdict, str] = {
    "better": "better", "worse": "worse", "changed": "changed, no truth to tell", "same": "about the same",
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run: Path
    plan: Plan
    rows: dict[str, Row]
    """By image id."""
    truth: Truth
    masks: dict[str, Mapping[str, Any] | None]
    """The answer's occlusion, COCO RLE."""


@dataclass(frozen=True)
class Pair:
    """One photo in both runs."""

    image_id: str
    verdict: Verdict
    change: float
    """1 − IoU of the two masks: 0 are the same pixels, 1 has none in common."""
    gain: float | None
    """By how much the IoU with the truth rose; ``None`` without truth."""


@dataclass(frozen=True)
class Gain:
    """By how much the mean IoU of the photos with a truth rose, with its bootstrap 95 % interval over photos."""

    photos: int
    before: float
    after: float
    mean: float
    low: float
    high: float


def write_comparison(one: Path, other: Path, *, group: str | None = None, quiet: bool = False) -> Path:
    """Write ``comparison.html`` into the second run's folder.

    Args:
        one: a run folder with an answer, the earlier one say.
        other: another one, of the same photos or some of them.
        group: a column of the second run's manifest to filter by, by default ``kind``.
        quiet: say nothing of the progress.

    Raises:
        ManifestError: there is no run.
        ConfigError: a run has no answer, they have no photo in common, or there is no such column.
    """
    sides = read_side(one), read_side(other)
    pairs = compare(*sides)
    if not pairs:
        raise ConfigError(f"{one} and {other} have no photo in common; compare runs of the same manifest")
    shown = sorted(pairs, key=lambda pair: -max(pair.change, abs(pair.gain or 0)))[:MOST_PAIRS]
    groups = read_groups(other, group)
    table = _table(sides, shown, groups)
    with display(quiet=quiet) as show, show.stage("pairs", dict.fromkeys(range(len(shown)), 1)) as on_report:
        bundles = parts.bundled(_thumbnails(sides, shown, on_report))
    steps = _steps(sides, shown, parts.room(*bundles, as_script(table)))
    before, after = names = _names(one, other)
    return parts.write(
        other / PAGE, "compare.html.j2",
        before=before, after=after, names=as_script(names), photos=len(pairs),
        alone=[len(side.rows) - len(pairs) for side in sides],
        counts=Counter(pair.verdict for pair in pairs), labels=LABELS, telling=TELLING, visible=VISIBLE,
        otherwise=sum(len({side.rows[pair.image_id].status for side in sides}) > 1 for pair in pairs),
        gain=_gain(sides, pairs), notes=[f"{side.run}: {side.truth.note}" for side in sides if side.truth.note],
        shown=len(shown), groups=table["groups"],
        rows=as_script(table | {"steps": sorted(steps)}), bundles=bundles, steps=list(steps.items()),
    )  # fmt: skip


def _names(one: Path, other: Path) -> tuple[str, str]:
    """What the page calls the runs: their folders' names, unless these are the same."""
    before, after = one.absolute().name, other.absolute().name
    return (before, after) if before != after else (str(one), str(other))


def _gain(sides: tuple[Side, Side], pairs: Sequence[Pair]) -> Gain | None:
    gains = {pair.image_id: pair.gain for pair in pairs if pair.gain is not None}
    if not gains:
        return None
    before, after = (float(np.mean([side.truth.iou[name] for name in gains])) for side in sides)
    return Gain(len(gains), before, after, *mean_with_interval(list(gains.values())))


def read_side(run: Path) -> Side:
    """What a comparison needs of a run.

    Raises:
        ManifestError: there is no run.
        ConfigError: it has no answer.
    """
    plan, path = read_plan(run), run / ANSWER
    if not path.exists():
        raise ConfigError(f"{path}: no answer there; run: s3pot-batch segment")
    rows = {row.image_id: row for row in read_rows(run, plan)}
    answer = read_table(path, columns=("image_id", "occlusion"))
    masks = dict(zip(answer["image_id"].to_pylist(), answer["occlusion"].to_pylist(), strict=True))
    return Side(run, plan, rows, read_truth_of(run), masks)


def compare(one: Side, other: Side) -> list[Pair]:
    """The photos that both runs have, in the second one's order."""
    return [_pair(name, one, other) for name in other.rows if name in one.rows]


def _pair(name: str, one: Side, other: Side) -> Pair:
    hidden = max(side.rows[name].ratio or 0.0 for side in (one, other))
    # specks on a bare face are others in every run, and all of what is marked there
    change = changed(one.masks.get(name), other.masks.get(name)) if hidden >= TELLING else 0.0
    if name in one.truth.iou and name in other.truth.iou:
        gain = other.truth.iou[name] - one.truth.iou[name]
        verdict: Verdict = "same" if abs(gain) < TELLING else "better" if gain > 0 else "worse"
        return Pair(name, verdict, change, gain)
    moved = change >= VISIBLE or one.rows[name].status != other.rows[name].status
    return Pair(name, "changed" if moved else "same", change, None)


def changed(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> float:
    """1 − IoU of two masks in COCO RLE; 0 where both are empty or missing, 1 where the photo has another size."""
    if one == other:
        return 0.0
    try:
        masks = [decode_rle(mask) for mask in (one, other) if mask]
    except BadRle:
        return 1.0
    if len(masks) < 2:
        return float(any(mask.any() for mask in masks))
    if masks[0].shape != masks[1].shape:
        return 1.0
    union = int((masks[0] | masks[1]).sum())
    return 1 - int((masks[0] & masks[1]).sum()) / union if union else 0.0


def _table(sides: tuple[Side, Side], pairs: Sequence[Pair], groups: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script knows of each photo, column by column; figures of both runs stand side by side."""
    names = sorted({groups[pair.image_id] for pair in pairs if pair.image_id in groups})
    numbers = {name: n for n, name in enumerate(names)}
    rows = [[side.rows[pair.image_id] for side in sides] for pair in pairs]
    return {
        "ids": [pair.image_id for pair in pairs],
        "verdict": [pair.verdict for pair in pairs],
        "change": [rounded(pair.change) for pair in pairs],
        "gain": [rounded(pair.gain) for pair in pairs],
        "status": [[row.status for row in both] for both in rows],
        "ratio": [[rounded(row.ratio) for row in both] for both in rows],
        "sure": [[rounded(row.predicted_iou) for row in both] for both in rows],
        "iou": [[rounded(side.truth.iou.get(pair.image_id)) for side in sides] for pair in pairs],
        "groups": names,
        "group": [numbers.get(groups.get(pair.image_id, ""), -1) for pair in pairs],
        "bundle": BUNDLE,
    }  # fmt: skip


def _thumbnails(sides: tuple[Side, Side], pairs: Sequence[Pair], on_report: OnReport) -> list[list[str]]:
    """Photo and mask of both runs; the second photo is empty where it is the first one again."""
    size = thumbnail_size(2 * len(pairs))
    found = []
    for n, pair in enumerate(pairs):
        one, other = (_thumbnail(side, pair.image_id, size) for side in sides)
        found.append([one.photo, one.mask, "" if one.photo == other.photo else other.photo, other.mask])
        on_report(ShardReport("pairs", n))
    return found


def _thumbnail(side: Side, name: str, size: Size) -> Thumbnail:
    row = side.rows[name]
    try:
        return thumbnail(side.run, row, side.plan.item(row.index).image, size)
    except ShardError:
        return Thumbnail()


def _steps(sides: tuple[Side, Side], pairs: Sequence[Pair], room: int) -> dict[int, Markup]:
    """The first face of each photo at its full size, with both masks, by place, until the page is full."""
    found: dict[int, Markup] = {}
    for place, pair in enumerate(pairs):
        try:
            large = [_large(side, side.rows[pair.image_id]) for side in sides]
        except ShardError:
            continue
        text = as_script(large)
        if len(text) > room:
            break
        if any(photo for photo, *_ in large):
            found[place], room = text, room - len(text)
    return found


def _large(side: Side, row: Row) -> list[str]:
    """Photo, mask and truth of a photo's first face; empty where there is none."""
    if not row.faces:
        return ["", "", ""]
    [raw] = store.read_row(side.run / references.STORE, row.faces[0], "raw")
    [occlusion] = store.read_row(side.run / segments.STORE, row.faces[0], "occlusion")
    truth = true_mask(row, side.truth, side.plan.item(row.index).image, None)
    true = "" if truth is None else in_frame(truth, faces_of(side.run, row)[0], raw.shape[0])
    return [lossy(Image.fromarray(raw), FINE), stencil(occlusion > 0.5, raw.shape[0]), true]
