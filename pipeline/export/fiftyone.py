"""FiftyOne: a label map for every photo, and the masks of each face.

``labels/`` is of its format ``ImageSegmentationDirectory``, with all faces united, and ``faces.json`` of its format
``COCODetectionDataset``. Both are opened with ``data_path="data.json"``; the photos themselves stay where they are.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.export import Written, written
from s3pot_batch.pipeline.export._photos import FILTERS, Pictures, answered_photos
from s3pot_batch.pipeline.export.coco import Gathered
from s3pot_batch.pipeline.options import ExportOptions

FOLDER = "fiftyone"
CHOICES = (*FILTERS, "photos")
FACES = "faces.json"
VISIBLE, HIDDEN = 1, 2
"""Labels: the seen part of a face, and the hidden one; 0 is everything else."""


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write ``labels/NAME.png`` for every photo, the masks of all faces, and where the photos are."""
    pictures, places, faces = Pictures(run, out, wanted=options.photos), dict[str, str](), Gathered()
    for photo in answered_photos(run, options):
        occlusion, region = photo.masks()
        labels = Image.fromarray(np.where(occlusion, HIDDEN, np.where(region, VISIBLE, 0)).astype(np.uint8))
        drawn = pictures.write(photo)
        if drawn.error:
            yield drawn
            continue
        called = f"{photo.name}.png"  # whatever its suffix: to the label maps it does not count
        places[called] = pictures.place(photo)
        faces.add(photo, called)
        yield written(photo.item, out / "labels" / f"{photo.name}.png", partial(labels.save, format="PNG"))
    with replacing(out / "data.json") as temporary:
        temporary.write_text(json.dumps(places, ensure_ascii=False), encoding="utf-8")
    faces.save(out / FACES, run.name)
