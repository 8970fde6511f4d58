"""The promptable segmenter: ``segment_anything``'s own classes, in the published sizes and in a small one."""

from functools import partial
from typing import cast

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.trunk import UNetTrunk

VIT_SIZES = {
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
"""Encoders of the published checkpoints (Kirillov et al., arXiv 2304.02643)."""


class TrunkImageEncoder(nn.Module):
    """A U-Net trunk with SAM's LayerNorm neck: B×3×S×S normalised pixels → B×C×S/2×S/2 tokens."""

    def __init__(self, img_size: int, out_chans: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.img_size = img_size
        self.trunk = UNetTrunk(widths)
        self.fine = nn.Conv2d(widths[0], out_chans, 1, bias=False)
        self.coarse = nn.Conv2d(widths[1], out_chans, 1, bias=False)
        self.neck = nn.Sequential(
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """B×3×S×S → B×C×S/2×S/2."""
        half, quarter = self.trunk(x)
        coarse = F.interpolate(self.coarse(quarter), scale_factor=2.0, mode="bilinear", align_corners=False)
        return cast("Tensor", self.neck(self.fine(half) + coarse))


def build_small_sam(
    img_size: int = 128, embed_dim: int = 128, widths: tuple[int, ...] = (32, 64, 128, 192), heads: int = 4
) -> Sam:
    """The embedded size: a convolutional encoder of stride 2 under SAM's prompt encoder and mask decoder."""
    encoder = TrunkImageEncoder(img_size, embed_dim, widths)
    return _assemble(encoder, img_size, img_size // 2, embed_dim, mlp_dim=4 * embed_dim, heads=heads)


def build_vit_sam(
    size: str = "", *, embed_dim: int = 0, depth: int = 0, num_heads: int = 0,
    global_attn_indexes: tuple[int, ...] = (), img_size: int = 1024, patch_size: int = 16, out_chans: int = 256,
) -> Sam:  # fmt: skip
    """SAM with a ViT encoder, as ``segment_anything.build_sam`` builds it; other sizes for tests.

    Raises:
        KeyError: ``size`` is none of ``vit_b``, ``vit_l``, ``vit_h``.
    """
    shape = VIT_SIZES[size] if size else {
        "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "global_attn_indexes": global_attn_indexes,
    }  # fmt: skip
    encoder = ImageEncoderViT(
        **shape, img_size=img_size, patch_size=patch_size, out_chans=out_chans, mlp_ratio=4, qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
    )  # fmt: skip
    return _assemble(encoder, img_size, img_size // patch_size, out_chans, mlp_dim=2048, heads=8)


def _assemble(encoder: nn.Module, img_size: int, tokens: int, embed_dim: int, *, mlp_dim: int, heads: int) -> Sam:
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


@torch.no_grad()
def encode(sam: Sam, images: Tensor) -> Tensor:
    """Tokens of a batch of square images, through ``Sam.preprocess`` (pixel mean and std).

    Args:
        sam: the segmenter.
        images: B×H×H×3 uint8 RGB.

    Returns:
        B×C×T×T float32.
    """
    side = sam.image_encoder.img_size
    pixels = images.permute(0, 3, 1, 2).to(sam.device, torch.float32)
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    dtype = next(sam.image_encoder.parameters()).dtype
    return cast("Tensor", sam.image_encoder(sam.preprocess(pixels).to(dtype)).float())
