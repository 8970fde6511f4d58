"""The page that a person looks at: ``report.html``, one file with everything in it, however large the run."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.plan import Plan, read_plan
from s3pot_batch.manifests.schema import STATUSES
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.progress import Display, display
from s3pot_batch.pipeline.report import parts
from s3pot_batch.pipeline.report.parts import BUNDLE, as_script, rounded
from s3pot_batch.pipeline.report.pictures import Size, Thumbnail, steps, thumbnail, true_mask
from s3pot_batch.pipeline.report.rows import Row, Truth, by_interest, read_groups, read_rows, read_truth_of
from s3pot_batch.pipeline.report.story import tell
from s3pot_batch.stages.base import ShardReport
from s3pot_batch.stages.errors import ConfigError, ShardError
from s3pot_batch.stages.models.registry import taxonomy_of

PAGE = "report.html"
LABELS = {"ok": "with a mask", "no_face": "without a face", "failed": "failed"}
MOST_PHOTOS = 10_000
"""In a gallery."""
SIDES = ((2_000, 160), (5_000, 128), (MOST_PHOTOS, 96))
"""Up to so many photos, thumbnails have this side in pixels."""
MOST_OF_THUMBNAILS = 16_000_000
"""Bytes; what is left of a page is for steps."""
A_PHOTOS_STEPS = 40_000
"""Bytes, about: by that, progress says how many photos will have their steps."""
LONGEST_ERROR = 300


@dataclass
class _Gallery:
    """What the page shows of the photos, and how much room that takes."""

    run: Path
    plan: Plan
    rows: list[Row]
    """Those in the gallery."""
    truth: Truth
    manifest: Path | None = None
    thumbnails: list[Thumbnail] = field(default_factory=list)
    steps: dict[int, Markup] = field(default_factory=dict)
    """JSON by place in ``rows``."""
    damaged: set[str] = field(default_factory=set)
    """Image ids."""

    def location(self, row: Row) -> str:
        return self.plan.item(row.index).image


def write_page(
    run: Path, *, manifest: Path | None = None, group: str | None = None, first: Collection[str] = (),
    quiet: bool = False,
) -> Path:  # fmt: skip
    """Write ``report.html``.

    Args:
        run: a run folder.
        manifest: whose folder true masks are relative to; without it, that which the photos' own paths show.
        group: a column of the manifest to filter by, by default ``kind``.
        first: image ids of photos whose steps have to be on the page.
        quiet: say nothing of the progress.

    Raises:
        ManifestError: there is no run.
        ConfigError: no such column, or no such photo.
    """
    plan = read_plan(run)
    rows, truth = read_rows(run, plan), read_truth_of(run)
    groups = read_groups(run, group)
    unknown = sorted(set(first) - {row.image_id for row in rows})
    if unknown:
        raise ConfigError(f"{run}: no photo {unknown[0]}; see the column image_id of {run / ANSWER}")
    order = [*(n for n, row in enumerate(rows) if row.image_id in first and row.faces), *by_interest(rows, truth.iou)]
    kept = _kept(rows, order)
    gallery = _Gallery(run, plan, [rows[n] for n in kept], truth, manifest)
    table = _table(gallery, groups)
    with display(quiet=quiet) as show:
        _draw_thumbnails(gallery, show)
        bundles = parts.bundled([[one.photo, one.mask] for one in gallery.thumbnails])
        places = {n: place for place, n in enumerate(kept)}
        left = parts.room(*bundles, as_script(table))
        _draw_steps(gallery, [places[n] for n in dict.fromkeys(order) if n in places], left, show)
    return parts.write(
        run / PAGE, "page.html.j2",
        name=run.absolute().name, story=tell(run, rows, truth), labels=LABELS, groups=table["groups"],
        shown_of=_shown_of(len(kept), len(rows)), damaged=len(gallery.damaged),
        rows=as_script(table | {"steps": sorted(gallery.steps)}), bundles=bundles, steps=list(gallery.steps.items()),
        files=run_files(run),
    )  # fmt: skip


def _kept(rows: Sequence[Row], order: Sequence[int]) -> list[int]:
    """Which photos come into the gallery, in the run's order: of very many, those that failed and the most telling."""
    if len(rows) <= MOST_PHOTOS:
        return list(range(len(rows)))
    without = [n for n, row in enumerate(rows) if row.status != "ok"]
    without.sort(key=lambda n: rows[n].status != "failed")
    telling = list(dict.fromkeys([*without[: MOST_PHOTOS // 2], *order, *without]))
    return sorted(telling[:MOST_PHOTOS])


def _shown_of(shown: int, photos: int) -> str:
    if shown == photos:
        return ""
    return f"Of {photos} photos, these {shown} are on this page: the failures, the most telling, and a sample."


def thumbnail_size(photos: int) -> Size:
    """How large the thumbnails of so many photos may be."""
    side = next(side for most, side in SIDES if photos <= most)
    return Size(side, MOST_OF_THUMBNAILS // max(photos, 1))


def _draw_thumbnails(gallery: _Gallery, show: Display) -> None:
    size = thumbnail_size(len(gallery.rows))
    sizes = Counter(row.shard for row in gallery.rows)
    with show.stage("thumbnails", sizes) as on_report:
        for n, row in enumerate(gallery.rows, 1):
            try:
                gallery.thumbnails.append(thumbnail(gallery.run, row, gallery.location(row), size))
            except ShardError:
                gallery.thumbnails.append(Thumbnail())
                gallery.damaged.add(row.image_id)
            if n == len(gallery.rows) or gallery.rows[n].shard != row.shard:
                on_report(ShardReport("thumbnails", row.shard))


def _draw_steps(gallery: _Gallery, order: Sequence[int], room: int, show: Display) -> None:
    """Draw the steps of one photo after the other until the page is full."""
    if not order:
        return
    taxonomy = taxonomy_of(resolve(file=gallery.run / CONFIG).profile.parser)
    likely = min(len(order), room // A_PHOTOS_STEPS)
    with show.stage("steps", dict.fromkeys(range(likely), 1)) as on_report:
        for n, place in enumerate(order):
            row = gallery.rows[place]
            truth = true_mask(row, gallery.truth, gallery.location(row), gallery.manifest)
            try:
                text = as_script(steps(gallery.run, row, taxonomy, truth))
            except ShardError:
                gallery.damaged.add(row.image_id)
                continue
            if len(text) > room:
                return  # the rest interests less
            gallery.steps[place], room = text, room - len(text)
            if n < likely:
                on_report(ShardReport("steps", n))


def _table(gallery: _Gallery, groups: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script knows of each photo, column by column."""
    rows = gallery.rows
    names = sorted({groups[row.image_id] for row in rows if row.image_id in groups})
    numbers = {name: n for n, name in enumerate(names)}
    return {
        "ids": [row.image_id for row in rows],
        "statuses": STATUSES,
        "status": [STATUSES.index(row.status) for row in rows],
        "ratio": [rounded(row.ratio) for row in rows],
        "sure": [rounded(row.predicted_iou) for row in rows],
        "iou": [rounded(gallery.truth.iou.get(row.image_id)) for row in rows],
        "faces": [len(row.faces) for row in rows],
        "left": [row.left_out for row in rows],
        "groups": names,
        "group": [numbers.get(groups.get(row.image_id, ""), -1) for row in rows],
        "errors": {
            n: [row.error_type or "", (row.error or "")[:LONGEST_ERROR]]
            for n, row in enumerate(rows) if row.status == "failed"
        },
        "bundle": BUNDLE,
    }  # fmt: skip


def run_files(run: Path) -> tuple[Path, ...]:
    """What there is to look at in a run folder."""
    names = (ANSWER, "references.zarr", "decoded.zarr", "masks.zarr", "masks", "checkpoint", CONFIG, PAGE)
    return tuple(path for name in names if (path := run / name).exists())
