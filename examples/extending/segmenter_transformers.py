"""A segmenter of another library: any SAM that is published as a folder in ``transformers``' format, pruned ones too.

What is particular to the model stays in here: the tokens that its decoder puts in front of the prompts, its pixel mean,
and that its decoder knows no padding, so that images are decoded one after the other.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, SamModel

from s3pot_batch.stages.models.protocols import TokenShape

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels in 0..1, as ``SamImageProcessor`` normalises them."""
SURE = 10.0
"""A mask prompt is the logits of an earlier answer, and those are about so large where SAM is sure."""


class TransformersSegmenter:
    """A :class:`~transformers.SamModel` as a segmenter; its weights are frozen."""

    def __init__(self, sam: PreTrainedModel) -> None:
        self.sam = sam.eval().requires_grad_(requires_grad=False)

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(self.sam.config.vision_config.image_size)

    @property
    def shape(self) -> TokenShape:
        """Of :meth:`encode`'s tokens."""
        config = self.sam.config.prompt_encoder_config
        return TokenShape(config.hidden_size, config.image_embedding_size)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.sam.device)

    @property
    def point_spread(self) -> float:
        """√(½ + the labels' variance): a point is sines and cosines, whose mean square is ½, and its label's vector."""
        return float((0.5 + self._label_vectors.var(1)).mean().sqrt())

    @property
    def _label_vectors(self) -> Tensor:
        """2×C: what is added to a point for its label."""
        return torch.cat([embedding.weight for embedding in self.sam.prompt_encoder.point_embed[:2]])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×C×T×T float32."""
        tokens: Tensor = self.sam.vision_encoder(self._pixels(images))[0]
        return tokens

    def _pixels(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×3×S×S, normalised."""
        pixels = images.permute(0, 3, 1, 2).to(self.device, torch.float32) / 255
        if pixels.shape[-1] != self.side:
            size = (self.side, self.side)
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """B×P×2 in 0..1 and B×P → B×P+1×C; SAM adds a padding point where there is no box."""
        sparse: Tensor = self.sam.prompt_encoder((points * self.side)[:, None], labels[:, None], None, None)[0]
        return sparse[:, 0]

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """B×4 in 0..1 → B×2×C."""
        sparse: Tensor = self.sam.prompt_encoder(None, None, (boxes * self.side)[:, None], None)[0]
        return sparse[:, 0]

    def embed_maps(self, maps: Tensor) -> Tensor:
        """B×T×T in −1..1 → B×C×T×T; SAM's mask prompt has four times the side of its tokens."""
        dense: Tensor = self.sam.prompt_encoder.mask_embed(F.interpolate(SURE * maps[:, None], scale_factor=4))
        return dense

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """B×C×T×T and B×Q×C → B×T²×C: the second output of the decoder's two-way transformer."""
        queries = torch.cat([self._own_tokens.expand(len(tokens), -1, -1), prompts], 1)
        keys: Tensor = self.sam.mask_decoder.transformer(
            queries[:, None], tokens + self._no_map, self._position.expand(len(tokens), -1, -1, -1), None
        )[1]
        return keys[:, 0]

    def decode(
        self, tokens: Tensor, prompts: Tensor, padding: Tensor | None = None, maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """B×4T×4T logits and B predicted IoU."""
        masks, qualities = [], []
        for n in range(len(tokens)):
            own = prompts[n] if padding is None else prompts[n][~padding[n]]
            dense = self._no_map if maps is None else maps[n : n + 1]
            mask, quality = self._decoded(tokens[n : n + 1], own[None, None], dense)
            masks.append(mask[0, 0, 0])
            qualities.append(quality[0, 0, 0])
        return torch.stack(masks), torch.stack(qualities)

    def _decoded(self, tokens: Tensor, prompts: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """One image's mask and predicted IoU, 1×1×1×4T×4T and 1×1×1."""
        mask, quality = self.sam.mask_decoder(tokens, self._position, prompts, dense, multimask_output=False)
        return mask, quality

    @property
    def _own_tokens(self) -> Tensor:
        """What the decoder puts in front of the prompts."""
        decoder = self.sam.mask_decoder
        return torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])

    @property
    def _no_map(self) -> Tensor:
        weight: Tensor = self.sam.prompt_encoder.no_mask_embed.weight
        return weight.reshape(1, -1, 1, 1)

    @property
    def _position(self) -> Tensor:
        position: Tensor = self.sam.get_image_wide_positional_embeddings()
        return position


def token_shape(*, channels: int = 256, side: int = 64) -> TokenShape:
    """Of the segmenter that :func:`build` gives with these options; all published SAMs have the default."""
    return TokenShape(channels, side)


def build(
    weights: Path, device: str, dtype: str = "float32", *, channels: int = 256, side: int = 64
) -> TransformersSegmenter:
    """The segmenter from its folder; ``channels`` and ``side`` say what tokens it has before it is loaded."""
    if dtype != "float32":
        raise TypeError(f"a segmenter runs in float32, not {dtype}")
    segmenter = TransformersSegmenter(SamModel.from_pretrained(weights, local_files_only=True).to(device))
    if segmenter.shape != token_shape(channels=channels, side=side):
        raise TypeError(f"its tokens are {segmenter.shape}; say so in the profile's options")
    return segmenter
