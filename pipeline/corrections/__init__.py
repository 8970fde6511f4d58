"""Corrections: what people have drawn in their own tools, back in the run folder as ``corrections.parquet``.

A correction holds for its whole photo. ``evaluate`` takes it as truth, and exports prefer it to the answer.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3pot_batch.manifests.files import read_table
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.manifests.schema import FACE_ANSWER, RLE
from s3pot_batch.stages.rle import Mask, decode_rle

CORRECTIONS = "corrections.parquet"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("faces", pa.list_(pa.struct([("bbox", pa.list_(pa.float64())), ("occlusion", RLE), ("face_region", RLE)]))),
        ("occlusion", RLE),
        ("face_region", RLE),
        ("format", pa.string()),
        ("file", pa.string()),
        ("content", pa.string()),
    ]
)
"""One row per corrected photo. A face's ``bbox`` is that of the answer's face that it corrects, else its own.
``content`` is the SHA-256 of the photo's file, where the run knows it.
"""
SHOWN = 3
"""Photos that a note names."""


def read_corrections(run: Path, *, outdated: bool = False) -> dict[str, dict[str, Any]]:
    """A run's corrections by ``image_id``; none if there is no file.

    Args:
        run: the run folder.
        outdated: also those of photos whose files have changed since. Otherwise a note on stderr names them.

    Raises:
        ManifestError: the file is damaged.
    """
    path = run / CORRECTIONS
    if not path.exists():
        return {}
    rows = read_table(path, "remove it, and import the corrections again").to_pylist()
    found = {row["image_id"]: row for row in rows}
    if outdated:
        return found
    now = contents(run, list(found))
    changed = [
        name for name, row in found.items() if row["content"] and now.get(name, row["content"]) != row["content"]
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        names = f"{', '.join(changed[:SHOWN])}{more}"
        sys.stderr.write(f"Note: {path}: not used for photos that are others by now ({names}); correct them anew\n")
    return {name: row for name, row in found.items() if name not in changed}


def contents(run: Path, image_ids: Sequence[str]) -> dict[str, str]:
    """SHA-256 (hex) of the files of some photos when the run read them; those that it does not know are left out."""
    plan = read_plan(run)
    numbers = plan.numbers(image_ids)
    wanted, found = set(image_ids), dict[str, str]()
    for shard in np.unique(plan.shard_of(numbers[numbers >= 0])).tolist():
        items = items_path(run, "segments", shard)
        if items.exists():
            rows = read_table(items, columns=("image_id", "content")).to_pylist()
            found |= {row["image_id"]: row["content"] for row in rows if row["content"] and row["image_id"] in wanted}
    return found


def corrected(row: Mapping[str, Any], correction: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row of the answer as people have corrected it.

    Args:
        row: some or all columns of the answer.
        correction: of the same photo, if there is one.

    Returns:
        The same columns; a face's score and the like stay with it, and one that was drawn anew has none.
    """
    if correction is None:
        return dict(row)
    known = {tuple(face["bbox"]): face for face in row.get("faces") or ()}
    faces = [{**_figures(face), **known.get(tuple(face["bbox"]), {}), **_masks(face)} for face in correction["faces"]]
    changes = {
        **{name: correction[name] for name in ("height", "width", "occlusion", "face_region")},
        "status": "ok" if faces else "no_face", "error_type": None, "error": None, "faces": faces,
        "occlusion_ratio": hidden_share(correction) if faces else None,
    }  # fmt: skip
    return {name: changes.get(name, value) for name, value in row.items()}


def hidden_share(masks: Mapping[str, Any]) -> float:
    """The occluded share of the face region M; what was drawn beyond M does not count. 0 where M is empty."""
    region, occlusion = decode_rle(masks["face_region"]), decode_rle(masks["occlusion"])
    return float((occlusion & region).sum() / max(int(region.sum()), 1))


def _masks(face: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "occlusion": face["occlusion"], "face_region": face["face_region"], "occlusion_ratio": hidden_share(face)
    }  # fmt: skip


def _figures(face: Mapping[str, Any]) -> dict[str, Any]:
    """A face of which nothing is known but where it is."""
    return {**{field.name: None for field in FACE_ANSWER}, "bbox": face["bbox"]}


def box_of(mask: Mask) -> list[float]:
    """The box x0 y0 x1 y1 of an H×W mask; zeros if it is empty."""
    y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return [float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)] if len(x) else [0.0] * 4
