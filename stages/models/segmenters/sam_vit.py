"""SAM with its published ViT encoders: ``segment_anything``'s own classes and checkpoints."""

from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from s3pot_batch.stages.models.checkpoints import read_state
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.segmenters._attention import fold
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter, assemble

VIT_SIZES = {
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
"""Encoders of the published checkpoints (Kirillov et al., arXiv 2304.02643)."""

MAP_LOGIT = 10.0
"""SAM's mask prompt is the logits of an earlier answer of its own; its answers are about so large where it is sure."""
DTYPES = ("float32", "bfloat16", "float16")


def build_vit_sam(
    size: str = "", *, embed_dim: int = 0, depth: int = 0, num_heads: int = 0,
    global_attn_indexes: tuple[int, ...] = (), img_size: int = 1024, patch_size: int = 16, out_chans: int = 256,
) -> Sam:  # fmt: skip
    """The network as ``segment_anything.build_sam`` builds it, with random weights; other sizes for tests.

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
    return assemble(encoder, img_size, img_size // patch_size, out_chans, mlp_dim=2048, heads=8)


def token_shape(*, img_size: int = 1024, patch_size: int = 16, out_chans: int = 256, **others: object) -> TokenShape:
    """Of the segmenter that :func:`build` gives with these options."""
    del others  # the encoder's width and depth change nothing of the tokens' shape
    return TokenShape(out_chans, img_size // patch_size)


def build(
    weights: Path, device: str, dtype: str = "float32", *, map_logit: float = MAP_LOGIT, fused: bool = True,
    compiled: bool = False, **options: object,
) -> SamSegmenter:  # fmt: skip
    """The segmenter from a published ``.pth`` or a safetensors file.

    Args:
        weights: the file.
        device: where it runs.
        dtype: of the image encoder, which takes nearly all of the time; tokens, prompts and decoder are float32.
        map_logit: what a mask prompt holds where a map is sure.
        fused: the image encoder's attention is :class:`FoldedAttention`; else it is the library's own.
        compiled: the image encoder by ``torch.compile``, which takes minutes first; never on a CPU.
        options: :func:`build_vit_sam`'s.
    """
    if dtype not in DTYPES:
        raise TypeError(f"sam_vit runs in {', '.join(DTYPES)}, not {dtype}")
    sam = build_vit_sam(**options)  # type: ignore[arg-type]
    sam.load_state_dict(read_state(weights))
    if fused:
        fold(sam.image_encoder)
    sam.image_encoder.to(getattr(torch, dtype))
    segmenter = SamSegmenter(sam.to(device), map_logit=map_logit)
    if compiled and device != "cpu":
        segmenter.compile()
    return segmenter
