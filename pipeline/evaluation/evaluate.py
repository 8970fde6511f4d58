"""Comparing masks with the ground truth that a manifest names. Training never imports this."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.origin import folder_of
from s3pot_batch.pipeline.corrections import read_corrections
from s3pot_batch.pipeline.evaluation.metrics import boundary_iou, count, mean_iou, mean_with_interval
from s3pot_batch.pipeline.evaluation.truth import BadTruth, read_truth
from s3pot_batch.stages.errors import ConfigError, ItemError
from s3pot_batch.stages.rle import Mask, decode_rle

OURS = "S3POT"
FIGURES = ("iou", "miou", "boundary_iou", "precision", "recall", "f1", "whole_iou")
"""Means over the occluded photos; ``false_positive_area`` is the mean over the others."""
FOUND = 0.3
"""Least IoU of the found face region with the manifest's ``region`` from which its face counts as found."""
NOTES = """Found: photos whose face was found, where it is if the manifest says so. IoU, boundary IoU, precision, recall
and F1 are of the occlusion inside the face, over occluded photos: inside the manifest's region where it has one, else
inside the found region M; whole IoU does not cut the truth to M. mIoU is over visible face, occlusion and background.
Clean marked is the share of the face that is marked on unoccluded photos. In brackets: bootstrap 95 % intervals."""


ROWS = pa.schema(
    [(name, pa.string()) for name in ("image", "group", "method", "status")]
    + [(name, pa.float64()) for name in (*FIGURES, "false_positive_area", "found")]
    + [("error", pa.string())]
)
"""``evaluation.parquet``: a row per photo and method; ``error`` says why a ground truth could not be used."""
BLANK: dict[str, float | str | None] = dict.fromkeys((*FIGURES, "false_positive_area", "found", "error"))


@dataclass(frozen=True)
class Answer:
    """What a method says about one photo, H×W each: the ``occlusion``, and the face ``region`` that it looked in."""

    occlusion: Mask
    region: Mask


@dataclass(frozen=True)
class EvaluationResult:
    """Figures per photo and method, and their means overall and by group."""

    rows: pa.Table
    summary: list[dict[str, Any]]
    skipped: int
    """Rows without a ground truth."""
    unread: tuple[str, ...] = ()
    """Why the ground truth of some rows could not be taken; they are in ``rows`` without figures."""

    def table(self) -> str:
        """The summary as text; a figure without an occluded photo is a dash."""
        head = ("method", "photos", "found", "IoU", "mIoU", "boundary", "precision", "recall", "F1",
                "whole IoU", "clean marked")  # fmt: skip
        lines = [head, *(self._line(entry) for entry in self.summary)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
        pads = (str.ljust, str.ljust, *(str.rjust for _ in head[2:]))
        aligned = [
            "  ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)) for line in lines
        ]
        skipped = [f"{self.skipped} rows have no ground truth."] if self.skipped else []
        if self.unread:
            skipped.append(f"{len(self.unread)} rows have a truth that cannot be used; the first: {self.unread[0]}")
        return "\n".join([*aligned, NOTES, *skipped])

    def _line(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        figures = ["–" if entry[name] is None else f"{entry[name]:.3f}" for name in FIGURES[1:]]
        clean = entry["clean_marked"]
        return (
            entry["method"], entry["photos"], f"{entry['found']}/{entry['n']}",
            "–" if entry["iou"] is None else f"{entry['iou']:.3f} [{entry['iou_low']:.3f}, {entry['iou_high']:.3f}]",
            *figures,
            "–" if clean is None else
            f"{100 * clean:.1f} % [{100 * entry['clean_low']:.1f}, {100 * entry['clean_high']:.1f}]",
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write ``evaluation.parquet`` (per photo and method) and ``evaluation.json`` (the summary)."""
        write_parquet(self.rows, folder / "evaluation.parquet")
        (folder / "evaluation.json").write_text(json.dumps(self.summary, indent=2, allow_nan=False) + "\n")


def evaluate(
    manifest: Path, runs: Mapping[str, Path], *, group: str | None = None,
    others: Mapping[str, Mapping[int, Answer]] | None = None,
) -> EvaluationResult:  # fmt: skip
    """Compare answers with people's corrections, else with the column ``mask`` that the runs took over.

    Args:
        manifest: whose folder the masks' paths are relative to; of a part of an answer, the folder of its manifest.
        runs: run folders with ``segments.parquet``, by the name of the method; the first one's rows are compared, and
            what was corrected there is the truth for its photo.
        group: a column to group by; by default ``kind`` where there is one.
        others: answers of further methods, by name and row number; a row without one has an empty answer.

    Raises:
        ConfigError: there is no answer, no ground truth, or no such column.
    """
    answers = {name: read_segments(manifest, run) for name, run in runs.items()}
    table = next(iter(answers.values()))
    take_corrections(table, next(iter(runs.values())))
    if "mask" not in table[0]:
        raise ConfigError(
            f"{manifest}: no column mask; evaluation needs a ground truth, which index --masks takes from "
            "NAME_mask.png, or corrections, which import takes from other tools"
        )
    if group is not None and group not in table[0]:
        raise ConfigError(f"{manifest}: no column {group} to group by; there are {', '.join(table[0])}")
    column, unread = group or "kind", list[str]()
    folder = folder_of(manifest, pq.read_schema(next(iter(runs.values())) / ANSWER), (row["mask"] for row in table))
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(table):
        if row["mask"] is None:
            continue
        about = {"image": row["image"], "group": None if row.get(column) is None else str(row[column])}
        try:
            scored: Mapping[str, Mapping[str, float | str]] = dict(_score(number, row, answers, others or {}, folder))
        except ItemError as error:
            unread.append(f"row {number}, {error}")
            scored = {name: {"error": str(error)} for name in (*answers, *(others or {}))}
        about |= {"status": row["status"]}
        rows += [about | {"method": name, **BLANK, **_known(figures)} for name, figures in scored.items()]
    if not rows:
        raise ConfigError(f"{manifest}: the column mask is empty; evaluation needs a ground truth")
    if all(row["error"] is not None for row in rows):
        raise ConfigError(f"{manifest}: no ground truth can be used; {unread[0]}")
    skipped = sum(row["mask"] is None for row in table)
    summary = summarise([row for row in rows if row["error"] is None])
    return EvaluationResult(pa.Table.from_pylist(rows, schema=ROWS), summary, skipped, tuple(unread))


def read_segments(manifest: Path, run: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``segments.parquet``.

    Raises:
        ConfigError: there are none.
    """
    path = run / ANSWER
    if not path.exists():
        raise ConfigError(f"{path}: no answer there; run: s3pot-batch segment --manifest {manifest}")
    with pq.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name != "faces"]  # as large as all else together
        rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
    if not rows:
        raise ConfigError(f"{path}: the answer has no rows")
    return rows


def take_corrections(table: list[dict[str, Any]], run: Path) -> None:
    """Put what people have corrected into the truth's place: hidden pixels, and faces where the manifest gives none."""
    corrections = read_corrections(run)
    for row in table if corrections else ():
        correction = corrections.get(row["image_id"])
        row["mask"] = row.get("mask") if correction is None else correction["occlusion"]
        if correction is not None and correction["faces"] and row.get("face") is None:
            row["face"] = correction["face_region"]


def _score(
    number: int, row: dict[str, Any], answers: Mapping[str, list[dict[str, Any]]],
    others: Mapping[str, Mapping[int, Answer]], folder: Path,
) -> Iterator[tuple[str, dict[str, float]]]:  # fmt: skip
    """One photo's figures, method by method."""
    truth = read_truth(row["mask"], folder)
    face, region = (read_truth(row[name], folder) if row.get(name) is not None else None for name in ("face", "region"))
    for name, mask in (("face", face), ("region", region)):
        if mask is not None and mask.shape != truth.shape:
            raise BadTruth(f"{row['image']}: its {name} is {_size(mask.shape)}, its mask {_size(truth.shape)}")
    for method, rows in answers.items():
        yield method, compare(answer_of(rows[number], truth.shape), truth, face, region)
    for method, found in others.items():
        answer = found.get(number, answer_of(row | {"occlusion": None}, truth.shape))
        yield method, compare(answer, truth, face, region)


def answer_of(row: Mapping[str, Any], shape: tuple[int, ...]) -> Answer:
    """A row's masks; without a face they are empty.

    Raises:
        BadTruth: they do not have the truth's shape.
    """
    empty = np.zeros(shape, bool)
    occlusion = decode_rle(row["occlusion"]) if row["occlusion"] else empty
    region = decode_rle(row["face_region"]) if row["status"] == "ok" else empty
    if occlusion.shape != shape or region.shape != shape:
        raise BadTruth(f"{row['image']}: its mask is {_size(shape)}, the photo {_size(occlusion.shape)}")
    return Answer(occlusion, region)


def _known(figures: Mapping[str, float | str]) -> dict[str, float | str]:
    """Without those that a photo does not have: an unoccluded one has no IoU."""
    return {name: value for name, value in figures.items() if isinstance(value, str) or np.isfinite(value)}


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in reversed(shape))


def compare(
    answer: Answer, truth: Mask, face: Mask | None = None, region: Mask | None = None
) -> dict[str, float]:  # fmt: skip
    """Figures of one photo.

    They are of the given region, else of the found one, and of the whole photo where that misses the occlusion or no
    face was found.

    Args:
        answer: what was found.
        truth: H×W, the occluder's pixels.
        face: H×W, the true face region, where the manifest has a column ``face``; else the found one stands in for it.
        region: H×W, where the truth is known, the column ``region``: nothing outside it is scored.
    """
    missed = truth.any() and not (truth & answer.region).any()  # the wrong face was found
    inside = np.ones_like(truth) if missed or not answer.region.any() else answer.region
    if region is not None:
        inside, face = region, region if face is None else face
    counts = count(answer.occlusion, truth, inside)
    whole = count(answer.occlusion, truth if face is None else truth & face, np.ones_like(truth))
    return {
        "iou": counts.iou, "miou": mean_iou(answer.occlusion, truth, inside, inside if face is None else face),
        "boundary_iou": boundary_iou(answer.occlusion & inside, truth & inside),
        "precision": counts.precision, "recall": counts.recall, "f1": counts.f1, "whole_iou": whole.iou,
        "false_positive_area": counts.false_positive_area,
        "found": float(_is_found(answer.region, region)),
    }  # fmt: skip


def _is_found(found: Mask, region: Mask | None) -> bool:
    if region is None:
        return bool(found.any())
    return bool((found & region).sum() >= FOUND * (found | region).sum())


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means by method, first over all photos and then by group."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    parts = [("all", rows), *((group, [row for row in rows if row["group"] == group]) for group in groups)]
    return [
        _means(method, name, [row for row in part if row["method"] == method])
        for name, part in parts for method in methods
    ]  # fmt: skip


def _means(method: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    occluded = [row for row in rows if row["iou"] is not None]
    clean = [row["false_positive_area"] for row in rows if row["iou"] is None]
    iou = mean_with_interval([row["iou"] for row in occluded]) if occluded else (None,) * 3
    marked = mean_with_interval(clean) if clean else (None,) * 3
    return {
        "method": method, "photos": name, "n": len(rows), "faceless": sum(row["status"] != "ok" for row in rows),
        "found": sum(row["found"] > 0 for row in rows),
        **{figure: _mean([row[figure] for row in occluded if row[figure] is not None]) for figure in FIGURES},
        "iou_low": iou[1], "iou_high": iou[2],
        "clean_marked": marked[0], "clean_low": marked[1], "clean_high": marked[2],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
