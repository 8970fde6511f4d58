"""SAM 2 and 2.1 (Ravi et al., arXiv 2408.00714) for pictures, from a folder in ``transformers``' format.

Its decoder also reads two finer feature maps. They travel with the tokens, as channels behind those that are compared:
a cell of T×T tokens holds the 2×2 and the 4×4 finer cells that lie in it.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from s3pot_batch.stages.models.protocols import TokenShape

NORMALISED = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
"""Of pixels in 0..1, as ``Sam2ImageProcessor`` does."""
MASK_LOGIT = 10.0
"""A mask prompt is the logits of an earlier answer, and those are about so large where SAM is sure."""


class Sam2Segmenter:
    """A :class:`~transformers.Sam2Model` as a segmenter; its weights are frozen."""

    def __init__(self, sam: Sam2Model) -> None:
        self.sam = sam.eval().requires_grad_(requires_grad=False)
        # where the mask is unstable it would give another one than was asked for
        self.sam.mask_decoder.dynamic_multimask_via_stability = False
        self.side: int = sam.config.prompt_encoder_config.image_size

    @property
    def shape(self) -> TokenShape:
        """Of :meth:`encode`'s tokens."""
        config = self.sam.config.prompt_encoder_config
        return token_shape(channels=config.hidden_size, side=self.side // config.patch_size)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.sam.device)

    @property
    def point_spread(self) -> float:
        """√(½ + the labels' variance): a point is sines and cosines, whose mean square is ½, and its label's vector."""
        labels = self.sam.prompt_encoder.point_embed.weight[:2]
        return float((0.5 + labels.var(1)).mean().sqrt())

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×4C×T×T float32: C channels to compare, then the finer maps."""
        pixels = images.permute(0, 3, 1, 2).to(self.device, torch.float32) / 255
        if pixels.shape[-1] != self.side:
            size = (self.side, self.side)
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in NORMALISED)
        finest, finer, tokens = self.sam.get_image_embeddings((pixels - mean) / std)
        return torch.cat([tokens, F.pixel_unshuffle(finer, 2), F.pixel_unshuffle(finest, 4)], 1)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """B×P×2 in 0..1 and B×P → B×P+1×C; SAM adds a padding point where there is no box."""
        asked = (points * self.side)[:, None], labels[:, None].long()
        sparse: Tensor = self.sam.prompt_encoder(*asked, None, None)[0]
        return sparse[:, 0]

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """B×4 in 0..1 → B×3×C: SAM 2 adds a padding point here, too."""
        sparse: Tensor = self.sam.prompt_encoder(None, None, (boxes * self.side)[:, None], None)[0]
        return sparse[:, 0]

    def embed_maps(self, maps: Tensor) -> Tensor:
        """B×T×T in −1..1 → B×C×T×T; SAM's mask prompt has four times the side of its tokens."""
        dense: Tensor = self.sam.prompt_encoder.mask_embed(F.interpolate(MASK_LOGIT * maps[:, None], scale_factor=4))
        return dense

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """B×4C×T×T and B×Q×C → B×T²×C: the second output of the decoder's two-way transformer."""
        decoder, b = self.sam.mask_decoder, len(tokens)
        own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        keys: Tensor = decoder.transformer(
            torch.cat([own.expand(b, -1, -1), prompts], 1)[:, None],
            tokens[:, : self.shape.channels] + self._no_map,
            self._position.expand(b, -1, -1, -1),
            None,
        )[1]
        return keys[:, 0]

    def decode(
        self, tokens: Tensor, prompts: Tensor, padding: Tensor | None = None, maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """B×4T×4T logits and B predicted IoU; the decoder knows no padding, so one image comes after the other."""
        masks, qualities, channels = [], [], self.shape.channels
        for n in range(len(tokens)):
            own = prompts[n] if padding is None else prompts[n][~padding[n]]
            coarse, finer, finest = torch.split(tokens[n : n + 1], [channels, channels, 2 * channels], 1)
            mask, quality, *_ = self.sam.mask_decoder(
                coarse, self._position, own[None, None], self._no_map if maps is None else maps[n : n + 1],
                multimask_output=False,
                high_resolution_features=[F.pixel_shuffle(finest, 4), F.pixel_shuffle(finer, 2)],
            )  # fmt: skip
            masks.append(mask[0, 0, 0])
            qualities.append(quality[0, 0, 0])
        return torch.stack(masks), torch.stack(qualities)

    @property
    def _no_map(self) -> Tensor:
        weight: Tensor = self.sam.prompt_encoder.no_mask_embed.weight
        return weight.reshape(1, -1, 1, 1)

    @property
    def _position(self) -> Tensor:
        position: Tensor = self.sam.get_image_wide_positional_embeddings()
        return position


def token_shape(*, channels: int = 256, side: int = 64) -> TokenShape:
    """Of the segmenter that :func:`build` gives with these options; all published ones have the default."""
    return TokenShape(channels, side, fine=3 * channels)  # C/4 channels at twice the side, and C/8 at four times


def build(
    weights: Path, device: str, dtype: str = "float32", *, channels: int = 256, side: int = 64
) -> Sam2Segmenter:  # fmt: skip
    """The segmenter from its folder; ``channels`` and ``side`` say what tokens it has before it is loaded."""
    if dtype != "float32":
        raise TypeError(f"a segmenter runs in float32, not {dtype}")
    segmenter = Sam2Segmenter(Sam2Model.from_pretrained(weights, local_files_only=True).to(device))
    if segmenter.shape != token_shape(channels=channels, side=side):
        raise TypeError(f"its tokens are {segmenter.shape}; say so in the profile's options")
    return segmenter
