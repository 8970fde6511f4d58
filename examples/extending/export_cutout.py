"""An export: the visible face cut out of its photo, a PNG with an alpha channel for every photo."""

from pathlib import Path

import numpy as np
from PIL import Image

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.export import file_name, read_answers
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.rle import decode_rle

FOLDER = "cutouts"


def write(run: Path, out: Path) -> int:
    """Write ``IMAGE_ID.png`` of the photo's own size: opaque where a face is seen, transparent elsewhere."""
    bounds, written = resolve(file=run / CONFIG).settings.faces, 0
    for item, row in read_answers(run, "status", "occlusion", "face_region"):
        if row["status"] == "ok":
            seen = decode_rle(row["face_region"]) & ~decode_rle(row["occlusion"])
            alpha = np.where(seen, 255, 0).astype(np.uint8)
            with replacing(out / file_name(item.image_id, ".png")) as temporary:
                Image.fromarray(np.dstack([read_photo(item.image, bounds), alpha])).save(temporary, "PNG")
            written += 1
    return written
