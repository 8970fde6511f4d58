"""A parser of another taxonomy: FaRL's 11 classes of LaPa (arXiv 2112.03109), from a local TorchScript file.

The published file is ``face_parsing.farl.lapa.main_ema_136500_jit191.pt``, of facer's release ``models-v1``.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from s3pot_batch.stages.models.taxonomy import CELEBM, Taxonomy

CLASSES = ("background", "face", "rb", "lb", "re", "le", "nose", "ulip", "imouth", "llip", "hair")
TAXONOMY = Taxonomy(
    name="lapa/448",
    classes=CLASSES,
    # The inpainter sees a parse map by its colours, and knows a nose by the colour that it was trained with.
    colours=tuple(CELEBM.colours[CELEBM.classes.index(name)] for name in CLASSES),
    face=("face", "rb", "lb", "re", "le", "nose", "ulip", "imouth", "llip"),
    eyes=(("re",), ("le",)),
    nose=("nose",),
    mouth=("ulip", "imouth", "llip"),
    skin=("face",),
    worn=(),
    sides=(("rb", "lb"), ("re", "le")),
)


class LapaParser:
    """``facer.face_parsing.FaRLFaceParser`` with the ``lapa/448`` warp and classes."""

    def __init__(self, weights: Path, device: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
            from facer.face_parsing import FaRLFaceParser

            self.parser = FaRLFaceParser(TAXONOMY.name, model_path=str(weights), device=torch.device(device))
        self.device = torch.device(device)

    @property
    def taxonomy(self) -> Taxonomy:
        """Those of ``lapa/448``."""
        return TAXONOMY

    @torch.inference_mode()
    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
        """B×S×S×3 uint8 RGB and B×5×2 landmarks in frame pixels → B×11×S×S class probabilities."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(self.device) / 255
        points = torch.as_tensor(landmarks, dtype=torch.float32, device=self.device)
        data = {"points": points, "image_ids": torch.arange(len(frames), device=self.device)}
        logits = self.parser(images, data)["seg"]["logits"]
        return np.asarray(logits.softmax(1).cpu().numpy(), np.float32)


def build(weights: Path, device: str, dtype: str = "float32") -> LapaParser:
    """The parser from a TorchScript file that maps B×3×448×448 to (B×11×448×448 logits, something else)."""
    if dtype != "float32":
        raise TypeError(f"this parser runs in float32, not {dtype}")
    return LapaParser(weights, device)
