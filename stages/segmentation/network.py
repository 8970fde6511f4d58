"""S³POT's segmentation network: a frozen SAM, prompted by contrast, with one trained layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from stages.segmentation.decoding import decode_batch, embed_label_maps
from stages.segmentation.enhancement import enhance, token_centres, token_region
from stages.segmentation.selection import Prompts, PromptSelector, select_prompts
from stages.settings import SegmentSettings

DEFAULT = SegmentSettings()


@dataclass(frozen=True)
class Prompted:
    """One pair after FE and the matching of PS: all that does not depend on trained weights."""

    tokens: Tensor
    """C×T×T, E(I)."""
    contrast: Tensor
    """T×T, cosine of raw and reference tokens: 1 where they agree."""
    prompts: Prompts


@dataclass(frozen=True)
class Segmentation:
    """The decoder's answer for one image; logits are of the *visible face*, whatever the decoder was asked for."""

    logits: Tensor
    """4T×4T float32."""
    predicted_iou: Tensor


class S3POT(nn.Module):
    """FE, PS and mask decoding of S³POT (arXiv 2602.00635).

    SAM is frozen and stays out of ``parameters()``; the selector is all that trains.
    """

    def __init__(self, sam: Sam, selector: PromptSelector, settings: SegmentSettings = DEFAULT) -> None:
        super().__init__()
        self._frozen = (sam.eval().requires_grad_(requires_grad=False),)  # in a tuple: not a sub-module
        self.selector = selector
        self.settings = settings

    @property
    def sam(self) -> Sam:
        """The frozen segmenter."""
        return self._frozen[0]

    @torch.no_grad()
    def prompt(self, raw: Tensor, reference: Tensor, region: Tensor) -> Prompted:
        """Contrast and match one pair.

        Args:
            raw: C×T×T tokens E(I).
            reference: C×T×T tokens E(R).
            region: S×S bool, M in the aligned frame.

        Raises:
            ValueError: M is smaller than a token.
        """
        inside = token_region(region, raw.shape[-1])
        enhanced = enhance(self.sam, raw, reference, inside, conditioned=self.settings.enhance)
        prompts = select_prompts(
            enhanced, inside, min_similarity=self.settings.min_similarity, reach=self.settings.reach
        )
        return Prompted(raw, enhanced.contrast, prompts)

    def forward(self, batch: Sequence[Prompted]) -> list[Segmentation]:
        """Re-weight the prompts and decode one mask per image; as many prompts per image as it has."""
        if self.settings.target != "both":
            return self._decode(batch, flip=self.settings.target == "occlusion")
        pairs = zip(self._decode(batch, flip=False), self._decode(batch, flip=True), strict=True)
        return [
            Segmentation((face.logits + occlusion.logits) / 2, (face.predicted_iou + occlusion.predicted_iou) / 2)
            for face, occlusion in pairs
        ]

    def _decode(self, batch: Sequence[Prompted], *, flip: bool) -> list[Segmentation]:
        """Ask for the visible face, or, with all labels flipped, for the occlusion."""
        embedded = [self._embed(prompted, flip=flip) for prompted in batch]
        prompts = pad_sequence(embedded, batch_first=True)
        lengths = torch.tensor([len(e) for e in embedded], device=prompts.device)
        padding = torch.arange(prompts.shape[1], device=prompts.device) >= lengths[:, None]
        if self.settings.reweight:
            prompts = self.selector(prompts, padding)
        dense = None
        if self.settings.mask_prompt:
            maps = torch.stack([label_map(one, self.settings.min_similarity) for one in batch])
            dense = embed_label_maps(self.sam, -maps if flip else maps)
        logits, iou = decode_batch(self.sam, torch.stack([p.tokens for p in batch]), prompts, padding, dense)
        return [Segmentation(-one if flip else one, quality) for one, quality in zip(logits, iou, strict=True)]

    def _embed(self, prompted: Prompted, *, flip: bool) -> Tensor:
        """P+1×C: the points as SAM embeds them, its own padding point included."""
        prompts = prompted.prompts
        centres = token_centres(self.sam, prompted.tokens.shape[-1]).to(prompted.tokens.device)
        labels = 1 - prompts.labels if flip else prompts.labels
        points = (centres[prompts.cells][None], labels[None])
        sparse, _ = self.sam.prompt_encoder(points=points, boxes=None, masks=None)
        return cast("Tensor", sparse[0])


SHARPNESS = 5.0
"""How fast a mask prompt grows sure as a similarity leaves the threshold."""


def label_map(prompted: Prompted, threshold: float) -> Tensor:
    """T×T in −1..1: how surely each token of M shows the visible face; 0 outside M.

    It is the points' labels with their margin: a token that an edge runs through is nearly undecided.
    """
    prompts, tokens = prompted.prompts, prompted.tokens
    sure = torch.zeros(tokens.shape[-1] ** 2, device=tokens.device)
    sure[prompts.cells] = torch.tanh(SHARPNESS * (prompts.similarity - threshold))
    return sure.reshape(tokens.shape[-2:])


def at_points(logits: Tensor, prompted: Prompted) -> Tensor:
    """H×W logits sampled at the prompts' points → P."""
    tokens = prompted.tokens.shape[-1]
    cells = prompted.prompts.cells
    centres = torch.stack([cells % tokens, cells // tokens], -1).float().add(0.5).div(tokens).mul(2).sub(1)
    return F.grid_sample(logits[None, None], centres[None, None], align_corners=False)[0, 0, 0]
