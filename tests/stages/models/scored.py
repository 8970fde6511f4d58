"""A segmenter as another package would bring it: its decoder has other tokens in front than SAM's."""

from pathlib import Path

import torch
from torch import Tensor, nn

from s3pot_batch.stages.models.checkpoints import read_state
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.segmenters import sam_vit
from s3pot_batch.stages.models.segmenters._decoding import two_way
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter

SCORE, QUALITY, MASK = 0, 1, 2
"""Places of the decoder's own tokens: SAM's two kinds stand one further back."""


class ScoredSegmenter(nn.Module):
    """SAM with a token for an object score in front, where SAM 2 has it (Ravi et al., arXiv 2408.00714).

    It is a torch module, and its own parameter asks for gradients.
    """

    def __init__(self, sam):
        super().__init__()
        self.plain = SamSegmenter(sam)
        self.sam = sam
        self.score = nn.Parameter(torch.randn(1, self.shape.channels, generator=torch.Generator().manual_seed(7)))

    @property
    def shape(self):
        return self.plain.shape

    @property
    def device(self):
        return self.plain.device

    @property
    def point_spread(self):
        return self.plain.point_spread

    def encode(self, images: Tensor) -> Tensor:
        return self.plain.encode(images)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        return self.plain.embed_points(points, labels)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        return self.plain.embed_boxes(boxes)

    def embed_maps(self, maps: Tensor) -> Tensor:
        return self.plain.embed_maps(maps)

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        return self._transformed(tokens, prompts, prompts.new_zeros(prompts.shape[:2], dtype=torch.bool), None)[1]

    def decode(self, tokens, prompts, padding=None, maps=None):
        b, c, side, _ = tokens.shape
        padding = prompts.new_zeros(prompts.shape[:2], dtype=torch.bool) if padding is None else padding
        queries, keys = self._transformed(tokens, prompts, padding, maps)
        decoder = self.sam.mask_decoder
        upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(b, c, side, side))
        weights = decoder.output_hypernetworks_mlps[0](queries[:, MASK])
        return torch.einsum("bc,bchw->bhw", weights, upscaled), decoder.iou_prediction_head(queries[:, QUALITY])[:, 0]

    def _transformed(self, tokens, prompts, padding, maps):
        decoder, encoder = self.sam.mask_decoder, self.sam.prompt_encoder
        own = torch.cat([self.score, decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(tokens), -1, -1)
        dense = encoder.no_mask_embed.weight[..., None, None] if maps is None else maps
        hidden = torch.cat([padding.new_zeros(len(tokens), own.shape[1]), padding], dim=1)
        return two_way(
            decoder.transformer, (tokens + dense).flatten(2).transpose(1, 2),
            encoder.get_dense_pe().flatten(2).transpose(1, 2), torch.cat([own, prompts], dim=1), ~hidden[:, None, None],
        )  # fmt: skip


def token_shape(**options) -> TokenShape:
    """Of the segmenter that :func:`build` gives."""
    return sam_vit.token_shape(**options)


def build(weights: Path, device: str, dtype: str = "float32", **options) -> ScoredSegmenter:
    """The segmenter from a SAM's state dictionary."""
    sam = sam_vit.build_vit_sam(**options)
    sam.load_state_dict(read_state(weights))
    return ScoredSegmenter(sam.to(device))
