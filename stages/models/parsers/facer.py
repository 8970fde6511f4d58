"""Face parsing through facer's parser class, whichever TorchScript file it is given.

torch is imported inside: what the classes are is asked by commands that parse nothing.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.models.taxonomy import CELEBM, Taxonomy

if TYPE_CHECKING:
    from torch import Tensor

TAXONOMY = CELEBM


class FacerParser:
    """``facer.face_parsing.FaRLFaceParser`` with the ``celebm/448`` warp and classes (FaRL, arXiv 2112.03109).

    Args:
        weights: a TorchScript file.
        device: where it runs.
        dtype: name of a torch dtype, of the net's matrix products: its weights and the warps stay float32, as half a
            pixel's coordinate is no place, and a traced net may hold constants of the precision it was traced in.
        warped: draw the frame anew at 448 pixels by its landmarks, as the published weights need it; else the net sees
            the frame as it is, which is aligned already, and has to take any size.
    """

    def __init__(self, weights: Path, device: str, dtype: str = "float32", *, warped: bool = True) -> None:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
            from facer.face_parsing import FaRLFaceParser

            self.parser = FaRLFaceParser(TAXONOMY.name, model_path=str(weights), device=torch.device(device))
        self.dtype: torch.dtype = getattr(torch, dtype)
        # whatever precision the file has: embedded weights lie in float16
        self.parser.net.float().to(memory_format=torch.channels_last)
        self.device = torch.device(device)
        self.warped = warped

    @property
    def taxonomy(self) -> Taxonomy:
        """Those of ``celebm/448``."""
        return TAXONOMY

    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> "Tensor":
        """B×S×S×3 uint8 RGB and B×5×2 landmarks in frame pixels → B×19×S×S class probabilities, on the device."""
        import torch
        from torch.nn import functional as F

        half = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        # on a card TorchScript would compile kernels while it sees the first batches of every size, for seconds
        plain = torch.jit.optimized_execution(self.device.type == "cpu")  # type: ignore[attr-defined]
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2).float() / 255
            back = None
            if self.warped:
                points = torch.as_tensor(landmarks, dtype=torch.float32, device=self.device)
                data = {"points": points, "image_ids": torch.arange(len(frames), device=self.device)}
                images, _, back = self.parser.warp_images(images, data)
            with half, plain:
                logits = self.parser.net(images)[0]
            if back is not None:
                logits = F.grid_sample(logits.float(), back, align_corners=False)  # as facer's forward does
            found: Tensor = logits.float().softmax(1)
            return found


def build(weights: Path, device: str, dtype: str = "float32", *, warped: bool = True) -> FacerParser:
    """The parser from a TorchScript file that takes facer's aligned faces."""
    return FacerParser(weights, device, dtype, warped=warped)
