"""An export: the visible face cut out of its photo, a PNG with an alpha channel for every photo."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.export import Written, read_answers, written
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.rle import decode_rle

FOLDER = "cutouts"


def write(run: Path, out: Path) -> Iterator[Written]:
    """Write a PNG of the photo's own size for each: opaque where a face is seen, transparent elsewhere."""
    bounds = resolve(file=run / CONFIG).settings.faces
    for item, name, row in read_answers(run, "status", "occlusion", "face_region"):
        if row["status"] == "ok":
            seen = decode_rle(row["face_region"]) & ~decode_rle(row["occlusion"])
            alpha = np.where(seen, 255, 0).astype(np.uint8)

            def save(path: Path, image: str = item.image, alpha: np.ndarray = alpha) -> None:
                Image.fromarray(np.dstack([read_photo(image, bounds), alpha])).save(path, "PNG")

            yield written(item, out / f"{name}.png", save)
