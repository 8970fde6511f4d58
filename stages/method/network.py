"""S³POT's segmentation network: a frozen segmenter, prompted by contrast, with one trained layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.enhancement import enhance_all, token_centres, token_region
from s3pot_batch.stages.method.selection import Prompts, select_all
from s3pot_batch.stages.models.protocols import Adapter, Segmenter
from s3pot_batch.stages.models.windows import TokenWindow, within
from s3pot_batch.stages.settings import SegmentSettings

DEFAULT = SegmentSettings()


@dataclass(frozen=True)
class Prompted:
    """One pair after FE and the matching of PS: all that does not depend on trained weights."""

    tokens: Tensor
    """C×T×T, E(I)."""
    contrast: Tensor
    """T×T, cosine of raw and reference tokens: 1 where they agree."""
    prompts: Prompts

    @property
    def window(self) -> TokenWindow:
        """Around the prompts, which are all tokens of M."""
        return TokenWindow.around(self.prompts.cells, self.tokens.shape[-1])


@dataclass(frozen=True)
class Segmentation:
    """The decoder's answer for one image; logits are of the *visible face*, whatever the decoder was asked for."""

    logits: Tensor
    """H×H float32, at the resolution of the segmenter's masks."""
    predicted_iou: Tensor


class S3POT(nn.Module):
    """FE, PS and mask decoding of S³POT (arXiv 2602.00635).

    The segmenter is frozen and stays out of ``parameters()``; the adapter is all that trains. Without one, prompts go
    to the decoder as they are.

    Raises:
        ConfigError: segmenter and adapter have different widths.
    """

    def __init__(self, segmenter: Segmenter, adapter: Adapter | None, settings: SegmentSettings = DEFAULT) -> None:
        super().__init__()
        width = segmenter.shape.channels
        if adapter is not None and adapter.embed_dim != width:
            raise ConfigError(f"the adapter has {adapter.embed_dim} channels and the segmenter {width}; train one")
        self._frozen = (segmenter,)  # in a tuple: one that is a torch module is no sub-module, and does not train
        self.adapter = adapter
        self.settings = settings

    @property
    def segmenter(self) -> Segmenter:
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
        [found] = self.prompt_all([(raw, reference, region)])
        return found

    @torch.no_grad()
    def prompt_all(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Prompted]:
        """:meth:`prompt` of one or more pairs (raw, reference, region), as one batch."""
        asked = self.settings
        insides = [token_region(region, raw.shape[-1]) for raw, _, region in pairs]
        given = [(raw, reference, inside) for (raw, reference, _), inside in zip(pairs, insides, strict=True)]
        enhanced = enhance_all(self.segmenter, given, conditioned=asked.enhance, windowed=asked.window)
        prompts = select_all(enhanced, insides, min_similarity=asked.min_similarity, reach=asked.reach)
        each = zip(pairs, enhanced, prompts, strict=True)
        return [Prompted(raw, one.contrast, some) for (raw, _, _), one, some in each]

    def forward(self, batch: Sequence[Prompted]) -> list[Segmentation]:
        """Re-weight the prompts and decode one mask per image; as many prompts per image as it has."""
        if self.settings.window and len(batch) > 1:  # each has a window of its own
            return [answer for one in batch for answer in self([one])]
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
        if self.settings.adapter and self.adapter is not None:
            prompts = self.adapter(prompts, padding)
        maps = None
        if self.settings.mask_prompt:
            labels = torch.stack([label_map(one, self.settings.min_similarity) for one in batch])
            maps = self.segmenter.embed_maps(-labels if flip else labels)
        tokens = torch.stack([prompted.tokens for prompted in batch])
        if self.settings.window:
            logits, iou = self._decode_within(batch[0].window, tokens, prompts, maps)
        else:
            logits, iou = self.segmenter.decode(tokens, prompts, padding, maps)
        return [Segmentation(-one if flip else one, quality) for one, quality in zip(logits, iou, strict=True)]

    def _decode_within(
        self, window: TokenWindow, tokens: Tensor, prompts: Tensor, maps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seen = None if maps is None else window.cut(maps)
        logits, iou = within(self.segmenter, window).decode(window.cut(tokens), prompts, maps=seen)
        return window.filled(logits), iou

    def _embed(self, prompted: Prompted, *, flip: bool) -> Tensor:
        """Q×C: the points as the segmenter embeds them."""
        prompts = thinned(prompted.prompts, prompted.tokens.shape[-1], self.settings.prompt_step)
        centres = token_centres(prompted.tokens.shape[-1], prompted.tokens.device)
        labels = 1 - prompts.labels if flip else prompts.labels
        return self.segmenter.embed_points(centres[prompts.cells][None], labels[None])[0]


def thinned(prompts: Prompts, side: int, step: int) -> Prompts:
    """Every ``step``-th prompt of every ``step``-th row of T = ``side`` tokens, and all of a kind with none there."""
    if step == 1:
        return prompts
    rows, columns = prompts.cells // side, prompts.cells % side
    kept = (rows % step == 0) & (columns % step == 0)
    for label in (0.0, 1.0):
        kind = prompts.labels == label
        if not (kept & kind).any():
            kept = kept | kind
    return Prompts(prompts.cells[kept], prompts.labels[kept], prompts.similarity[kept])


SURENESS = 5.0
"""How fast a mask prompt grows sure as a similarity leaves the threshold."""


def label_map(prompted: Prompted, threshold: float) -> Tensor:
    """T×T in −1..1: how surely each token of M shows the visible face; 0 outside M.

    It is the points' labels with their margin: a token that an edge runs through is nearly undecided.
    """
    prompts, tokens = prompted.prompts, prompted.tokens
    sure = torch.zeros(tokens.shape[-1] ** 2, device=tokens.device)
    sure[prompts.cells] = torch.tanh(SURENESS * (prompts.similarity - threshold))
    return sure.reshape(tokens.shape[-2:])


def at_points(logits: Tensor, prompted: Prompted) -> Tensor:
    """H×W logits sampled at the prompts' points → P."""
    tokens = prompted.tokens.shape[-1]
    cells = prompted.prompts.cells
    centres = torch.stack([cells % tokens, cells // tokens], -1).float().add(0.5).div(tokens).mul(2).sub(1)
    return F.grid_sample(logits[None, None], centres[None, None], align_corners=False)[0, 0, 0]
