"""SAM 2 and 2.1 (Ravi et al., arXiv 2408.00714) for pictures, from a folder in ``transformers``' format.

Its decoder also reads two finer feature maps. They travel with the tokens, as channels behind those that are compared:
a cell of T×T tokens holds the 2×2 and the 4×4 finer cells that lie in it.
"""

from pathlib import Path

import torch
from segmenter_transformers import TransformersSegmenter
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2Model

from s3pot_batch.stages.models.protocols import TokenShape


class Sam2Segmenter(TransformersSegmenter):
    """A :class:`~transformers.Sam2Model` as a segmenter: what it does not share with a SAM."""

    def __init__(self, sam: Sam2Model) -> None:
        super().__init__(sam)
        # where the mask is unstable it would give another one than was asked for
        self.sam.mask_decoder.dynamic_multimask_via_stability = False

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(self.sam.config.prompt_encoder_config.image_size)

    @property
    def shape(self) -> TokenShape:
        """Of :meth:`encode`'s tokens."""
        config = self.sam.config.prompt_encoder_config
        return token_shape(channels=config.hidden_size, side=self.side // config.patch_size)

    @property
    def _label_vectors(self) -> Tensor:
        weight: Tensor = self.sam.prompt_encoder.point_embed.weight
        return weight[:2]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×4C×T×T float32: C channels to compare, then the finer maps."""
        finest, finer, tokens = self.sam.get_image_embeddings(self._pixels(images))
        return torch.cat([tokens, F.pixel_unshuffle(finer, 2), F.pixel_unshuffle(finest, 4)], 1)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """B×P×2 in 0..1 and B×P → B×P+1×C; SAM adds a padding point where there is no box, SAM 2 beside one, too."""
        return super().embed_points(points, labels.long())

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """B×4C×T×T and B×Q×C → B×T²×C: the second output of the decoder's two-way transformer."""
        return super().attend(tokens[:, : self.shape.channels], prompts)

    def _decoded(self, tokens: Tensor, prompts: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.shape.channels
        coarse, finer, finest = torch.split(tokens, [channels, channels, 2 * channels], 1)
        mask, quality, *_ = self.sam.mask_decoder(
            coarse, self._position, prompts, dense, multimask_output=False,
            high_resolution_features=[F.pixel_shuffle(finest, 4), F.pixel_shuffle(finer, 2)],
        )  # fmt: skip
        return mask, quality

    @property
    def _own_tokens(self) -> Tensor:
        return torch.cat([self.sam.mask_decoder.obj_score_token.weight, super()._own_tokens])


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
