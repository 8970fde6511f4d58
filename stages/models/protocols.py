"""The six parts of a profile as the method sees them. An implementation is a file in the part's own folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pot_batch.stages.models.taxonomy import Taxonomy
from s3pot_batch.stages.settings import ReferenceSettings

GREY = 127
"""What stands for "nothing is shown here" in a picture of 0..255: beyond a photo's edge, and in a hole."""


@dataclass(frozen=True)
class Detection:
    """One found face; ``bbox`` x0 y0 x1 y1 and ``landmarks`` 5×2 (x, y) in photo pixels, ``score`` 0..1.

    Landmarks are left eye, right eye, nose tip, left and right mouth corner, as seen.
    """

    bbox: tuple[float, ...]
    score: float
    landmarks: NDArray[np.float64]


class Detector(Protocol):
    """Finds the faces of one photo."""

    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Detection]:
        """H×W×3 uint8 RGB → faces, best first; several looks at one face may be among them."""


class Parser(Protocol):
    """Parses aligned faces."""

    @property
    def taxonomy(self) -> Taxonomy:
        """What its classes are."""

    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32] | Tensor:
        """B×S×S×3 uint8 RGB and B×5×2 landmarks in frame pixels → B×K×S×S float32 class probabilities.

        A tensor stays on its device until it is three maps: K of them take longer to copy than to make.
        """


@dataclass(frozen=True)
class Inpainting:
    """What an inpainter is asked for: B aligned photos of side S, their parse maps, and what to generate anew."""

    photos: NDArray[np.uint8]
    """B×S×S×3 RGB."""
    parsing: NDArray[np.uint8]
    """B×S×S class ids of ``taxonomy``."""
    holes: NDArray[np.bool_]
    """B×S×S."""
    hide: bool
    """Keep the photo under the holes from the model, so that it cannot copy what it replaces."""
    taxonomy: Taxonomy


class Inpainter(Protocol):
    """Generates the reference: the face that a parse map describes, where a photo has holes."""

    def inpaint(
        self, asked: Inpainting, settings: ReferenceSettings, seeds: Sequence[torch.Generator]
    ) -> NDArray[np.uint8]:
        """B×S×S×3; pixels outside the holes are the photo's. ``seeds`` holds a CPU generator per photo."""


@dataclass(frozen=True)
class TokenShape:
    """What a segmenter's tokens C×T×T are like: C ``channels``, T ``side``.

    Prompts have as many channels. ``fine`` more stand behind them, which are not compared: finer maps that only the
    segmenter's own decoder reads.
    """

    channels: int
    side: int
    fine: int = 0

    @property
    def stored(self) -> int:
        """Channels of the tokens, those of finer maps included."""
        return self.channels + self.fine


@dataclass(frozen=True)
class Decision:
    """What the decoder made of one face in its frame of side S."""

    photo: NDArray[np.uint8]
    """S×S×3 RGB."""
    reference: NDArray[np.uint8]
    """S×S×3 RGB, the same face with nothing in front."""
    region: NDArray[np.bool_]
    """S×S, M."""
    occlusion: NDArray[np.float32]
    """S×S, probability that a pixel of M is hidden; 0 outside M."""


class Refiner(Protocol):
    """Corrects a coarse mask where the picture says otherwise, as CascadePSP does (Cheng et al., arXiv 2005.02551)."""

    def refine(self, decisions: Sequence[Decision]) -> NDArray[np.float32]:
        """B×S×S float32, probability that a pixel of M is hidden; what it says outside of M is not looked at."""


class Segmenter(Protocol):
    """A promptable segmenter in the manner of Segment Anything (Kirillov et al., arXiv 2304.02643), frozen.

    All that is particular to one of them stays behind these methods: how pixels are normalised, which tokens its
    decoder puts in front of the prompts, what its mask prompt expects.
    """

    @property
    def shape(self) -> TokenShape:
        """Of :meth:`encode`'s tokens."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def point_spread(self) -> float:
        """Standard deviation of its embedded points: what a layer between prompts and decoder had better keep."""

    def encode(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×C×T×T float32 tokens; here and below with ``fine`` channels behind C, if it has any."""

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points B×P×2 (x, y in 0..1 of the image) and labels B×P (1 wanted, 0 not) → B×Q×C prompts, Q ≥ P."""

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes B×4 (x0, y0, x1, y1 in 0..1 of the image) → B×Q×C prompts."""

    def embed_maps(self, maps: Tensor) -> Tensor:
        """Maps B×T×T (1 surely wanted, −1 surely not, 0 unknown) → B×C×T×T mask prompts."""

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Tokens B×C×T×T and prompts B×Q×C → B×T²×C: the tokens after the decoder's transformer."""

    def decode(
        self, tokens: Tensor, prompts: Tensor, padding: Tensor | None = None, maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One mask per image.

        Args:
            tokens: B×C×T×T.
            prompts: B×Q×C, filled up to the longest.
            padding: B×Q bool, true where a prompt is only filling.
            maps: B×C×T×T embedded mask prompts.

        Returns:
            B×H×H logits and B predicted IoU.
        """


class Adapter(Protocol):
    """The trained layer: it re-weights the embedded prompts of an image (S³POT's prompt selection)."""

    @property
    def embed_dim(self) -> int:
        """Channels of the prompts that it takes."""

    def __call__(self, prompts: Tensor, padding: Tensor | None = None) -> Tensor:
        """B×P×C → B×P×C; ``padding`` B×P bool, true where a prompt only fills up the batch."""
