"""S³POT's segmentation network: a frozen SAM, prompted by contrast, with one trained layer."""

from dataclasses import dataclass
from typing import Literal

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from stages.segmentation.enhancement import Enhanced, enhance, token_centres, token_region
from stages.segmentation.selection import Prompts, PromptSelector, select_prompts

Target = Literal["face", "occlusion"]


@dataclass(frozen=True)
class Prompted:
    """One pair after FE and the matching of PS: all that does not depend on trained weights."""

    tokens: Tensor
    """C×T×T, E(I)."""
    enhanced: Enhanced
    prompts: Prompts
    inside: Tensor
    """T×T bool."""


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

    def __init__(self, sam: Sam, selector: PromptSelector, target: Target = "face") -> None:
        super().__init__()
        self._frozen = (sam.eval().requires_grad_(requires_grad=False),)  # in a tuple: not a sub-module
        self.selector = selector
        self.target = target

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
        enhanced = enhance(self.sam, raw, reference, inside)
        return Prompted(raw, enhanced, select_prompts(enhanced, inside), inside)

    def forward(self, prompted: Prompted) -> Segmentation:
        """Re-weight the prompts and decode one mask."""
        prompts, sam = prompted.prompts, self.sam
        coords = token_centres(sam, prompted.tokens.shape[-1]).to(prompted.tokens.device)[prompts.cells]
        labels = prompts.labels if self.target == "face" else 1 - prompts.labels
        sparse, dense = sam.prompt_encoder(points=(coords[None], labels[None]), boxes=None, masks=None)
        logits, iou = sam.mask_decoder(
            image_embeddings=prompted.tokens[None], image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self.selector(sparse), dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        sign = 1.0 if self.target == "face" else -1.0
        return Segmentation(sign * logits[0, 0], iou[0, 0])


def at_points(logits: Tensor, prompted: Prompted) -> Tensor:
    """H×W logits sampled at the prompts' points → P."""
    tokens = prompted.tokens.shape[-1]
    cells = prompted.prompts.cells
    centres = torch.stack([cells % tokens, cells // tokens], -1).float().add(0.5).div(tokens).mul(2).sub(1)
    return F.grid_sample(logits[None, None], centres[None, None], align_corners=False)[0, 0, 0]
