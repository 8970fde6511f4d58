"""Masks as PNG files, for tools that read no run-length encoding."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from stages.images import decode_rle


def write_masks(run: Path, image_ids: Sequence[str]) -> int:
    """Write ``masks/IMAGE_ID.png`` for every photo with an answer: 8 bit, 255 = occluded, the photo's own size.

    Args:
        run: a run folder with ``segments.parquet``.
        image_ids: of its rows, in order.

    Returns:
        How many files were written; failed rows have none.
    """
    names = iter(image_ids)
    written = 0
    with pq.ParquetFile(run / "segments.parquet") as answer:
        for batch in answer.iter_batches(batch_size=64, columns=["occlusion"]):
            for encoded in batch.column(0).to_pylist():
                name = next(names)
                if encoded is None:
                    continue
                path = run / "masks" / mask_name(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(decode_rle(encoded).astype(np.uint8) * 255).save(path)
                written += 1
    return written


def mask_name(image_id: str) -> str:
    """The PNG's name: the id, folders and all, unless it would lead out of the masks' folder."""
    inside = not PurePosixPath(image_id).is_absolute() and ".." not in PurePosixPath(image_id).parts
    return f"{image_id if inside and '://' not in image_id else quote(image_id, safe='')}.png"
