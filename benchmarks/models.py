"""What each embedded model costs a face."""

import numpy as np
import torch

from benchmarks.timing import seconds
from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.method.references import ReferenceGenerator
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.protocols import Detection
from s3pot_batch.stages.models.registry import Models

LANDMARKS = np.array([[206, 107], [242, 107], [224, 128], [210, 144], [238, 144]], float)
"""Of scikit-image's astronaut, by hand."""


def models() -> None:
    """Seconds per face of each embedded model, on scikit-image's astronaut."""
    import skimage.data

    photo, settings, parts = skimage.data.astronaut(), EMBEDDED.settings, Models(EMBEDDED)
    face = AlignedFace.drawn(photo, Detection((206, 107, 242, 144), 1.0, LANDMARKS), settings.faces.frame)
    parser = FaceParser(parts.parser, settings.references.face_classes)
    references = ReferenceGenerator(parts.inpainter, parser.taxonomy, settings.references)
    [parsed] = parser.parse([face])
    work = {
        "detector": lambda: parts.detector.detect(photo, settings.faces.min_score),
        "parser": lambda: parser.parse([face]),
        "inpainter": lambda: references.generate([ParsedFace(face, parsed)], [("astronaut", 0)]),
        "image encoder": lambda: parts.segmenter.encode(torch.from_numpy(face.raw[None])),
    }
    for name, step in work.items():
        print(f"{name}: {seconds(step):.3f} s per photo")
