"""Masks as PNG files, for tools that read no run-length encoding: 8 bit, 255 = occluded, the photo's own size."""

from pathlib import Path

import numpy as np
from PIL import Image

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.export import file_name, read_answers
from s3pot_batch.stages.rle import decode_rle

FOLDER = "masks"


def write(run: Path, out: Path) -> int:
    """Write ``IMAGE_ID.png`` for every photo with an answer; failed rows have none."""
    written = 0
    for item, row in read_answers(run, "occlusion"):
        if row["occlusion"] is not None:
            with replacing(out / file_name(item.image_id, ".png")) as temporary:
                Image.fromarray(decode_rle(row["occlusion"]).astype(np.uint8) * 255).save(temporary, "PNG")
            written += 1
    return written
