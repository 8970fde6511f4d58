"""Corrections: what people have drawn in their own tools, back in the run folder as ``corrections.parquet``.

A correction holds for its whole photo. ``evaluate`` takes it as truth, and exports prefer it to the answer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3pot_batch.manifests.files import read_table
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
    ]
)
"""One row per corrected photo. A face's ``bbox`` is that of the answer's face that it corrects, else its own."""


def read_corrections(run: Path) -> dict[str, dict[str, Any]]:
    """A run's corrections by ``image_id``; none if there is no file.

    Raises:
        ManifestError: the file is damaged.
    """
    path = run / CORRECTIONS
    if not path.exists():
        return {}
    rows = read_table(path, "remove it, and import the corrections again").to_pylist()
    return {row["image_id"]: row for row in rows}


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
