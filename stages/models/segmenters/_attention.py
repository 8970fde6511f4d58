"""The attention of SAM's ViT encoders by PyTorch's fused kernels, which keep no N×N matrix.

``segment_anything`` adds a relative position to the matrix of scores: what a query makes of how far away the key's row
is, and its column. Both are scalar products, so they fit behind the query's channels, with a 1 at the key's own row and
column behind its channels: q·k + r = (q, r)·(k, 1). The kernels then need to know nothing of positions.
"""

from typing import cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F

MULTIPLE = 8
"""Of channels: the kernels for half precision take no others."""


class FoldedAttention(nn.Module):
    """An ``Attention`` with relative positions of ``segment_anything``, under its weights' names.

    Queries and keys of an H×W window get H + W more channels, and values as many zeros, as some kernels want all of one
    width.
    """

    def __init__(self, plain: Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = plain.num_heads, plain.scale
        self.qkv, self.proj = plain.qkv, plain.proj
        self.rel_pos_h, self.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w
        height, width = ((len(position) + 1) // 2 for position in (plain.rel_pos_h, plain.rel_pos_w))
        channels = plain.qkv.in_features // plain.num_heads
        self.more = -(-(channels + height + width) // MULTIPLE) * MULTIPLE - channels
        """Channels that are added."""
        own = torch.cat([torch.eye(height).repeat_interleave(width, 0), torch.eye(width).repeat(height, 1)], 1)
        # on the device like the weights, or every layer would wait for a copy of them
        self.register_buffer("own", F.pad(own, (0, self.more - height - width)), persistent=False)
        self.register_buffer("rows_away", _away(height), persistent=False)
        self.register_buffer("columns_away", _away(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        b, h, w, c = x.shape
        q, k, v = self.qkv(x).reshape(b, h, w, 3, self.num_heads, -1).permute(3, 0, 4, 1, 2, 5)
        rows, columns = self.rel_pos_h[self.rows_away], self.rel_pos_w[self.columns_away]
        seen = torch.cat([torch.einsum("bnhwc,hkc->bnhwk", q, rows), torch.einsum("bnhwc,wkc->bnhwk", q, columns)], -1)
        seen = F.pad(seen / self.scale, (0, self.more - seen.shape[-1]))  # only q·k is to be scaled
        found = F.scaled_dot_product_attention(
            torch.cat([q, seen], -1).flatten(2, 3),
            torch.cat([k.flatten(2, 3), cast("Tensor", self.own).expand(b, self.num_heads, -1, -1)], -1),
            F.pad(v.flatten(2, 3), (0, self.more)),
            scale=self.scale,
        )[..., : v.shape[-1]]
        return cast("Tensor", self.proj(found.transpose(1, 2).reshape(b, h, w, c)))


def _away(side: int) -> Tensor:
    """side×side int64: for a query and a key, the row of a table of relative positions."""
    place = torch.arange(side)
    return place[:, None] - place + side - 1


def fold(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Give every block of an encoder with relative positions the fused attention, in place."""
    for block in encoder.blocks:
        block.attn = FoldedAttention(cast("Attention", block.attn))
    return encoder
