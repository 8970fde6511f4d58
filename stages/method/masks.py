"""From pairs to masks: the decoder's answer in the aligned frame, and its way back into the photo's own pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.method.alignment import Alignment
from s3pot_batch.stages.method.edges import cut_along_edges
from s3pot_batch.stages.method.network import S3POT, Prompted, Segmentation
from s3pot_batch.stages.method.pairs import Pair, encode_pairs
from s3pot_batch.stages.method.region import dilated
from s3pot_batch.stages.method.selection import Prompts
from s3pot_batch.stages.models.protocols import Decision, Refiner
from s3pot_batch.stages.settings import SegmentSettings

REACH = 1 / 32
"""How far beyond what was decoded a refiner may mark, as a share of the frame's side."""


SPECKS = 0.003
"""A share of M that is no thing: of 806 faces, hidden and not, the refiner left nothing in any of the 360 with less."""


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of one face in the aligned frame, S×S each; edges and threshold come after it."""

    occlusion: NDArray[np.float32]
    """Probability that a pixel of M is hidden; 0 outside M."""
    contrast: NDArray[np.float32]
    """1 − cosine of raw and reference tokens."""
    prompts: NDArray[np.int8]
    """At a prompt's pixel: 1 = face point, 2 = occlusion point; 0 elsewhere."""
    predicted_iou: float


@dataclass(frozen=True)
class FaceMask:
    """One face's answer in the aligned frame, S×S each."""

    occlusion: NDArray[np.float32]
    """Probability that a pixel of M is hidden, 0 or 1 where GrabCut decided; 0 outside M."""
    region: NDArray[np.bool_]


@dataclass(frozen=True)
class PastedMask:
    """One face's answer in the photo's pixels, H×W."""

    probability: NDArray[np.float32]
    """That a pixel is hidden; 0 outside M."""
    occlusion: NDArray[np.bool_]
    region: NDArray[np.bool_]

    @property
    def occlusion_ratio(self) -> float:
        """|O| / |M|; 0 where M is empty."""
        return ratio(self.occlusion, self.region)


@torch.no_grad()
def decode_pairs(
    network: S3POT, pairs: Sequence[Pair], own_network: Callable[[int, Prompted], S3POT] | None = None
) -> list[Decoded]:
    """What the decoder says of every pair; nothing is hidden in a face whose region holds no token.

    Args:
        network: segmenter and adapter.
        pairs: one face each; encoder and decoder run as one batch.
        own_network: with per-image fitting, gives the n-th pair its own network; then one face is decoded after the
            other.
    """
    encoded = encode_pairs(network, pairs) if pairs else []
    prompted = {n: one.prompted for n, one in enumerate(encoded) if one is not None}
    if own_network is None:
        found = dict(zip(prompted, network(list(prompted.values())) if prompted else [], strict=True))
    else:
        found = {n: own_network(n, one)([one])[0] for n, one in prompted.items()}
    return [
        _in_frame(pair, prompted[n], found[n]) if n in prompted else nothing_hidden(pair)
        for n, pair in enumerate(pairs)
    ]


def _in_frame(pair: Pair, prompted: Prompted, segmentation: Segmentation) -> Decoded:
    side = pair.region.shape[0]
    hidden = np.where(pair.region, expit(to_frame(-segmentation.logits, side)), 0)
    return Decoded(
        occlusion=hidden.astype(np.float32),
        contrast=to_frame(1 - prompted.contrast, side),
        prompts=_points(prompted, side),
        predicted_iou=float(segmentation.predicted_iou),
    )


def nothing_hidden(pair: Pair) -> Decoded:
    """What is said of a face without a region."""
    empty = np.zeros(pair.region.shape, np.float32)
    return Decoded(empty, empty, empty.astype(np.int8), 0.0)


def draw(
    pair: Pair, decoded: NDArray[np.float32], settings: SegmentSettings, refiner: Refiner | None = None
) -> FaceMask:
    """The mask of a face: what the decoder says, corrected and cut along the photo's edges as the settings ask for it.

    Args:
        pair: the face.
        decoded: S×S, :attr:`Decoded.occlusion`.
        settings: for ``refine``, edges and threshold.
        refiner: wanted where ``refine`` is set.

    Raises:
        ValueError: there is none then.
    """
    occlusion = decoded
    if settings.refine:
        if refiner is None:
            raise ValueError("segments.refine is set, and there is no refiner")
        occlusion = corrected(pair, decoded, settings.threshold, refiner)
    if settings.edges == "grabcut":
        occlusion = cut_along_edges(pair.raw, pair.reference, pair.region, occlusion, settings.threshold)
    return FaceMask(occlusion, pair.region)


def corrected(pair: Pair, decoded: NDArray[np.float32], threshold: float, refiner: Refiner) -> NDArray[np.float32]:
    """S×S probabilities, the mean of the refiner's and the decoder's, which err in other places.

    What the refiner says counts where something was decoded and ``REACH`` around it; elsewhere it may only clear. It
    moves edges and finds nothing of its own: dark eyes, which a reference draws lighter, would be things to it. It is
    not asked about specks, which are cleared.
    """
    hidden = decoded > threshold
    if not hidden.any():
        return decoded
    if ratio(hidden, pair.region) <= SPECKS:
        return np.where(hidden, np.float32(0), decoded)
    [found] = refiner.refine([Decision(pair.raw, pair.reference, pair.region, decoded)])
    near = dilated(hidden, round(REACH * len(hidden)))
    refined = np.where(near, found, np.minimum(found, decoded))
    return np.where(pair.region, (refined + decoded) / 2, np.float32(0)).astype(np.float32)


def prompt_map(prompts: Prompts, side: int) -> NDArray[np.int8]:
    """T×T: 1 at a face point, 2 at an occlusion point, 0 elsewhere."""
    grid = np.zeros(side * side, np.int8)
    grid[prompts.cells.cpu().numpy()] = 2 - prompts.labels.cpu().numpy().astype(np.int8)
    return grid.reshape(side, side)


def paste(mask: FaceMask, alignment: Alignment, shape: tuple[int, int], threshold: float) -> PastedMask:
    """A face's masks at the photo's H×W resolution; nothing outside the frame."""
    inside = alignment.paste(mask.region.astype(np.float32), shape) > 0.5
    probability = np.where(inside, alignment.paste(mask.occlusion, shape), 0).astype(np.float32)
    return PastedMask(probability, probability > threshold, inside)


def ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """|part| / |whole|; 0 where the whole is empty."""
    return float(part.sum() / max(int(whole.sum()), 1))


def to_frame(values: Tensor, side: int) -> NDArray[np.float32]:
    """Values on a grid, such as T×T, drawn at S×S."""
    resized = F.interpolate(values[None, None].float(), (side, side), mode="bilinear", align_corners=False)
    return np.asarray(resized[0, 0].cpu().numpy(), np.float32)


def _points(prompted: Prompted, side: int) -> NDArray[np.int8]:
    """S×S: the prompts at their tokens' centres."""
    tokens = prompted.tokens.shape[-1]
    grid = prompt_map(prompted.prompts, tokens)
    y, x = ((np.argwhere(grid) + 0.5) * side / tokens).astype(int).T
    picture = np.zeros((side, side), np.int8)
    picture[y, x] = grid[grid > 0]
    return picture
