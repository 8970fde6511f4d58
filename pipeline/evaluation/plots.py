"""Plots of an evaluation, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""


def draw_plots(summary: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write ``evaluation-iou.png`` (by method and group) and ``evaluation-photos.png`` (spread over photos)."""
    paths = [folder / "evaluation-iou.png", folder / "evaluation-photos.png"]
    _bars(summary).savefig(paths[0], dpi=110)
    _spread(rows).savefig(paths[1], dpi=110)
    return paths


def _bars(summary: Sequence[Mapping[str, Any]]) -> Figure:
    entries = [entry for entry in summary if entry["iou"] is not None]
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    groups = list(dict.fromkeys(entry["photos"] for entry in entries))
    figure = Figure(figsize=(max(6.0, 1.4 * len(groups) * max(len(methods), 3) / 4), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(methods), 1)
    for n, method in enumerate(methods):
        own = [entry for entry in entries if entry["method"] == method]
        at = np.array([groups.index(entry["photos"]) for entry in own]) + (n - (len(methods) - 1) / 2) * width
        mean = np.array([entry["iou"] for entry in own])
        span = np.array([[e["iou"] - e["iou_low"], e["iou_high"] - e["iou"]] for e in own]).T.clip(min=0)
        axes.bar(at, mean, width, yerr=span, label=method, color=COLOURS[n % len(COLOURS)], error_kw={"lw": 0.8})
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean IoU of the occlusion, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="upper right")
    return figure


def _spread(rows: Sequence[Mapping[str, Any]]) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for n, method in enumerate(methods):
        values = np.sort([row["iou"] for row in rows if row["method"] == method and row["iou"] is not None])
        share = np.linspace(0, 1, len(values))
        axes.plot(share, values, label=method, color=COLOURS[n % len(COLOURS)])
    axes.set_xlabel("share of the occluded photos")
    axes.set_ylabel("IoU up to")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
