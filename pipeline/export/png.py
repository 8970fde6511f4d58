"""Masks as PNG files, for tools that read no run-length encoding: 8 bit, 255 = occluded, the photo's own size."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from s3pot_batch.pipeline.export import Written, read_answers, written
from s3pot_batch.stages.rle import decode_rle

FOLDER = "masks"


def write(run: Path, out: Path) -> Iterator[Written]:
    """Write a PNG for every photo with an answer; failed rows have none."""
    for item, name, row in read_answers(run, "occlusion"):
        if row["occlusion"] is not None:
            picture = Image.fromarray(decode_rle(row["occlusion"]).astype(np.uint8) * 255)
            yield written(item, out / f"{name}.png", partial(picture.save, format="PNG"))
