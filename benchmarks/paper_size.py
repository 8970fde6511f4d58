"""The paper profile's networks with random weights: what they cost does not depend on what they have learnt.

FaRL cannot be had but as its TorchScript file, so that a ViT of its backbone's size stands in for it: its head costs
besides. Stable Diffusion comes without its text encoder, which reads one prompt in a run.
"""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import timm.models.vision_transformer as vit
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.stages.models.profiles import PAPER, Profile
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import Settings, changed

PARSED = 448
"""Side at which FaRL sees a face."""


@dataclass(frozen=True)
class Size:
    """How large everything is; the default is the paper profile, with SAM ViT-H."""

    name: str = "full"
    frame: int = 512
    drawn: int = 512
    """Side at which the inpainter works."""
    batch: int = 8
    """Faces at once."""
    steps: int = 20
    sam: dict[str, Any] = field(default_factory=lambda: {"size": "vit_h"})
    parser: dict[str, Any] = field(default_factory=lambda: {"embed_dim": 768, "depth": 12, "num_heads": 12})
    unet: dict[str, Any] = field(default_factory=lambda: {"attention_head_dim": 8, "cross_attention_dim": 768})
    """What UNet and ControlNet have in common, where it is not diffusers' default."""
    vae: dict[str, Any] = field(default_factory=lambda: {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    })  # fmt: skip
    seen: dict[str, Any] = field(default_factory=dict)
    """How the ControlNet embeds what it is shown, where it is not diffusers' default."""

    @property
    def settings(self) -> Settings:
        """The paper profile's, at this size."""
        return changed(
            PAPER.settings, {"faces": {"frame": self.frame}, "references": {"steps": self.steps}}, "benchmarks"
        )


NARROW = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 4,
    "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}  # fmt: skip
SIZES = {
    "full": Size(),
    "tiny": Size(
        "tiny", 64, 64, 2, 2,
        sam={"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 128, "patch_size": 8, "out_chans": 32,
             "global_attn_indexes": (1,)},
        parser={"embed_dim": 32, "depth": 1, "num_heads": 2}, unet=NARROW,
        vae={"block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4,
             "up_block_types": ("UpDecoderBlock2D",) * 4, "norm_num_groups": 4},
        seen={"conditioning_embedding_out_channels": (4, 4, 8, 8)},
    ),
}  # fmt: skip


class Parser(nn.Module):
    """A ViT with 16-pixel patches over 448 pixels, and one layer to the classes: B×3×448×448 → B×19×448×448."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = vit.VisionTransformer(
            img_size=PARSED, patch_size=16, num_classes=0, class_token=False, global_pool="", **shape
        )
        self.head = nn.Linear(shape["embed_dim"], len(CELEBM.classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and something else, as in FaRL's release."""
        small = self.head(self.backbone(images)).transpose(1, 2).unflatten(2, (PARSED // 16, PARSED // 16))
        return F.interpolate(small, (PARSED, PARSED), mode="bilinear"), small


@dataclass(frozen=True)
class Generator:
    """Stable Diffusion's three networks and a ControlNet."""

    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    vae: AutoencoderKL

    @classmethod
    def of(cls, size: Size) -> "Generator":
        """With random weights."""
        up = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")} if size.unet is NARROW else {}
        unet = UNet2DConditionModel(in_channels=9, out_channels=4, **size.unet, **up)
        return cls(
            unet, ControlNetModel(in_channels=4, **size.unet, **size.seen), AutoencoderKL(latent_channels=4, **size.vae)
        )

    def save(self, folder: Path) -> None:
        """As a pipeline in diffusers' format, in half precision."""
        logging.set_verbosity_error()
        pipeline = StableDiffusionControlNetInpaintPipeline(
            vae=self.vae, text_encoder=None, tokenizer=None, unet=self.unet, controlnet=self.controlnet,
            scheduler=UniPCMultistepScheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        pipeline.to(torch.float16).save_pretrained(folder)


def write(size: Size, folder: Path) -> None:
    """Parser, inpainter and segmenter of a size, as files of their formats."""
    torch.manual_seed(0)
    Generator.of(size).save(folder / "inpainter")
    save_file(build_vit_sam(**size.sam).state_dict(), folder / "sam.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what FaRL's release is
        traced = torch.jit.trace(Parser(size.parser).eval(), torch.zeros(2, 3, PARSED, PARSED))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(folder / "parser.pt"))


def profile(size: Size, folder: Path, way: Literal["published", "exact", "half"], *, compiled: bool = False) -> Profile:
    """The paper profile over what :func:`write` has written.

    Args:
        size: what was written.
        folder: where.
        way: ``published`` and ``exact`` are float32, and the former has ``segment_anything``'s own attention.
        compiled: by ``torch.compile``.
    """
    half, more = way == "half", (("compiled", compiled),)
    parts = {
        "parser": ("parser.pt", "float16", ()),
        "inpainter": ("inpainter", "float16", (("size", size.drawn), ("condition", "inpaint"), *more)),
        "segmenter": ("sam.safetensors", "bfloat16", (*size.sam.items(), ("fused", way != "published"), *more)),
    }
    specs: dict[str, Any] = {
        part: replace(
            PAPER.part(part), weights=str(folder / file), sha256="", dtype=dtype if half else "float32", options=options
        )
        for part, (file, dtype, options) in parts.items()
    }
    return replace(PAPER, name=f"{size.name}, {way}", settings=size.settings, **specs)
