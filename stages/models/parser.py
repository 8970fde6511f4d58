"""Face parsing through facer's parser class, whichever TorchScript file it is given."""

import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Parser(Protocol):
    """Parses aligned faces."""

    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
        """B×S×S×3 uint8 RGB and B×5×2 landmarks in frame pixels → B×19×S×S class probabilities."""


class FacerParser:
    """``facer.face_parsing.FaRLFaceParser`` with the ``celebm/448`` warp and classes (FaRL, arXiv 2112.03109)."""

    def __init__(self, weights: Path, device: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
            from facer.face_parsing import FaRLFaceParser

            self.parser = FaRLFaceParser("celebm/448", model_path=str(weights), device=torch.device(device))
        self.parser.net.float()  # embedded weights lie in half precision
        self.device = torch.device(device)

    @torch.inference_mode()
    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
        """B×S×S×3 uint8 RGB and B×5×2 landmarks in frame pixels → B×19×S×S class probabilities."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(self.device).float() / 255
        points = torch.as_tensor(landmarks, dtype=torch.float32, device=self.device)
        data = {"points": points, "image_ids": torch.arange(len(frames), device=self.device)}
        logits = self.parser(images, data)["seg"]["logits"]
        return np.asarray(logits.softmax(1).cpu().numpy(), np.float32)
