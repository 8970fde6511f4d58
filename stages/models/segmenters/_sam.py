"""Everything that is particular to ``segment_anything``'s SAM, behind the segmenter's protocol."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Self, cast

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.stages.models.compiling import BatchSizes
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.segmenters._decoding import (
    decode_masks,
    embed_label_maps,
    own_tokens,
    through_layers,
)
from s3pot_batch.stages.models.windows import TokenWindow

MOST_COMPILED = 64
"""Of one block, before torch leaves it uncompiled; torch says 8, which are four sizes of batch."""


class ChannelNorm(LayerNorm2d):  # type: ignore[misc]  # segment_anything is untyped
    """``LayerNorm2d`` as one operation: the library's takes seven, a third of a small encoder's time on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → the same, every pixel's channels normalised."""
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


def with_quick_norms(sam: Sam) -> Sam:
    """The same network, and the same weights, with :class:`ChannelNorm` for every ``LayerNorm2d``."""
    for module in sam.modules():
        for name, norm in module.named_children():
            if type(norm) is LayerNorm2d:
                quick = ChannelNorm(len(norm.weight), norm.eps)
                quick.weight, quick.bias = norm.weight, norm.bias
                setattr(module, name, quick)
    return sam


class SamSegmenter:
    """A :class:`~segment_anything.modeling.Sam` of any size as a segmenter.

    Args:
        sam: the network.
        frozen: nothing of it trains; a recipe that trains it says no.
        map_logit: what a mask prompt holds where a map is sure; a SAM trained by our recipe takes the maps as they are.
    """

    def __init__(self, sam: Sam, *, frozen: bool = True, map_logit: float = 1.0) -> None:
        self.map_logit = map_logit
        self.sizes = BatchSizes(compiled=False)
        sam = with_quick_norms(sam)
        self.sam = sam.eval().requires_grad_(requires_grad=False) if frozen else sam

    @property
    def shape(self) -> TokenShape:
        """Of :meth:`encode`'s tokens."""
        return TokenShape(self.sam.prompt_encoder.embed_dim, self.sam.prompt_encoder.image_embedding_size[0])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return cast("torch.device", self.sam.device)

    @property
    def point_spread(self) -> float:
        """√(½ + the labels' variance): a point is sines and cosines, whose mean square is ½, and its label's vector."""
        labels = torch.cat([embedding.weight for embedding in self.sam.prompt_encoder.point_embeddings[:2]])
        return float((0.5 + labels.detach().var(1)).mean().sqrt())

    def encode(self, images: Tensor) -> Tensor:
        """B×H×H×3 uint8 RGB → B×C×T×T float32, through ``Sam.preprocess`` (pixel mean and std)."""
        with self.sizes.filled(len(images)) as size:
            more = images[-1:].expand(size - len(images), -1, -1, -1)
            return encode(self.sam, torch.cat([images, more]) if len(more) else images)[: len(images)]

    def compile(self, backend: str | Callable[..., object] = "inductor") -> None:
        """Have the image encoder compiled for every size of batch that it sees, and batches filled up.

        It is compiled block by block: all blocks of a kind share what one of them was compiled to, and a whole ViT-H
        would be 32 times as much to compile.
        """
        for block in getattr(self.sam.image_encoder, "blocks", [self.sam.image_encoder]):
            block.compile(backend=backend, dynamic=False)
        # a size of batch takes two, one for blocks with windows and one for those without
        config = torch._dynamo.config  # noqa: SLF001
        config.recompile_limit = max(config.recompile_limit, MOST_COMPILED)
        self.sizes = BatchSizes()

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """B×P×2 in 0..1 and B×P → B×P+1×C; SAM adds a padding point where there is no box.

        It is what ``PromptEncoder`` gives, which picks the points of a label by a mask: a host would wait for each.
        """
        encoder: PromptEncoder = self.sam.prompt_encoder
        placed, labels = F.pad(points * self._side + 0.5, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        at = encoder.pe_layer.forward_with_coords(placed, encoder.input_image_size)
        kinds = torch.cat([embedding.weight for embedding in encoder.point_embeddings[:2]])
        known = at + kinds[labels.clamp(min=0).long()]
        return torch.where(labels[..., None] < 0, encoder.not_a_point_embed.weight, known)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """B×4 in 0..1 → B×2×C."""
        sparse, _ = self.sam.prompt_encoder(points=None, boxes=boxes * self._side, masks=None)
        return cast("Tensor", sparse)

    def embed_maps(self, maps: Tensor) -> Tensor:
        """B×T×T in −1..1 → B×C×T×T, through SAM's mask prompt."""
        return embed_label_maps(self.sam, maps * self.map_logit)

    def attend(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """B×C×T×T and B×Q×C → B×T²×C: the second output of the decoder's two-way transformer."""
        queries = torch.cat([own_tokens(self.sam.mask_decoder).expand(len(tokens), -1, -1), prompts], dim=1)
        keys, places = ((tokens + self.no_map).flatten(2).transpose(1, 2), self.places.flatten(2).transpose(1, 2))
        return through_layers(self.sam.mask_decoder.transformer, keys, places, queries)[1]

    def decode(
        self, tokens: Tensor, prompts: Tensor, padding: Tensor | None = None, maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """B×4T×4T logits and B predicted IoU, as ``MaskDecoder.forward`` gives with ``multimask_output=False``."""
        padding = prompts.new_zeros(prompts.shape[:2], dtype=torch.bool) if padding is None else padding
        shown = tokens + (self.no_map if maps is None else maps)
        logits, quality = decode_masks(self.sam.mask_decoder, shown, self.places, prompts, padding)
        return logits[:, 0], quality[:, 0]

    def within(self, window: TokenWindow) -> Self:
        """The same segmenter, whose ``attend`` and ``decode`` take the window's tokens."""
        part = copy.copy(self)
        part.places = window.cut(self.places)
        return part

    @cached_property
    def places(self) -> Tensor:
        """1×C×T×T, SAM's positional encoding of the tokens: nothing of it trains."""
        return cast("Tensor", self.sam.prompt_encoder.get_dense_pe())

    @property
    def no_map(self) -> Tensor:
        """1×C×1×1, SAM's embedding of no mask prompt."""
        return cast("Tensor", self.sam.prompt_encoder.no_mask_embed.weight)[..., None, None]

    @property
    def _side(self) -> int:
        return cast("int", self.sam.image_encoder.img_size)


def encode(sam: Sam, images: Tensor) -> Tensor:
    """B×H×H×3 uint8 RGB → B×C×T×T float32 tokens of a SAM, with gradients where they are asked for."""
    side = sam.image_encoder.img_size
    pixels = images.permute(0, 3, 1, 2).to(sam.device, torch.float32)
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    dtype = next(sam.image_encoder.parameters()).dtype
    return cast("Tensor", sam.image_encoder(sam.preprocess(pixels).to(dtype)).float())


def assemble(encoder: nn.Module, img_size: int, tokens: int, embed_dim: int, *, mlp_dim: int, heads: int) -> Sam:
    prompt_encoder = PromptEncoder(
        embed_dim=embed_dim, image_embedding_size=(tokens, tokens), input_image_size=(img_size, img_size),
        mask_in_chans=16,
    )  # fmt: skip
    transformer = TwoWayTransformer(depth=2, embedding_dim=embed_dim, mlp_dim=mlp_dim, num_heads=heads)
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=embed_dim, iou_head_depth=3,
        iou_head_hidden_dim=256,
    )  # fmt: skip
    return Sam(encoder, prompt_encoder, decoder).eval()
