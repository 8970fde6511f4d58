"""The paper profile's networks with random weights: what they cost does not depend on what they have learnt.

FaRL cannot be had but as its TorchScript file, so that a ViT of its backbone's size stands in for it: its head costs
besides. Stable Diffusion comes without its text encoder, which reads one prompt in a run.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
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
from torch.overrides import TorchFunctionMode

from s3pot_batch.stages.method.region import CORE
from s3pot_batch.stages.models.profiles import PAPER, PAPER_LCM, Profile
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings, Settings, changed

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
    photos: int = 64
    """That go through the pipeline itself."""
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


def few_steps(usual: ReferenceSettings) -> ReferenceSettings:
    """How ``paper-lcm`` draws; its weights are as large as ``paper``'s, as the LoRA is added to them."""
    few = PAPER_LCM.settings.references
    return usual.model_copy(update=few.model_dump(include={"steps", "scheduler", "guidance_scale", "negative_prompt"}))


NARROW = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 4,
    "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}  # fmt: skip
SIZES = {
    "full": Size(),
    "tiny": Size(
        "tiny", 64, 64, 2, 2, 2,
        sam={"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 128, "patch_size": 8, "out_chans": 32,
             "global_attn_indexes": (1,)},
        parser={"embed_dim": 32, "depth": 1, "num_heads": 2}, unet=NARROW,
        vae={"block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4,
             "up_block_types": ("UpDecoderBlock2D",) * 4, "norm_num_groups": 4},
        seen={"conditioning_embedding_out_channels": (4, 4, 8, 8)},
    ),
}  # fmt: skip


PLACES = ((0.39, 0.47, 0.05), (0.61, 0.47, 0.05), (0.5, 0.58, 0.05), (0.5, 0.71, 0.07))
"""Discs (x, y, radius) where most aligned faces have eyes, nose and mouth, as fractions of the frame."""
SURE = 30.0
"""Logit of what is drawn: with random weights alone, a parser finds nothing."""


def drawn_face(side: int) -> list[list[list[float]]]:
    """19×side×side logits of a face that lies as most do: skin within ``CORE``, eyes, nose and mouth."""
    labels = cv2.fillPoly(
        np.zeros((side, side), np.uint8), [(CORE * side).round().astype(np.int32)], CELEBM.ids(CELEBM.skin)[0]
    )
    parts = (*CELEBM.eyes, CELEBM.nose, CELEBM.mouth)
    for part, (x, y, radius) in zip(parts, PLACES, strict=True):
        cv2.circle(labels, (round(x * side), round(y * side)), round(radius * side), CELEBM.ids(part)[0], -1)
    logits: list[list[list[float]]] = (SURE * (labels == np.arange(len(CELEBM.classes))[:, None, None])).tolist()
    return logits


class Parser(nn.Module):
    """A ViT with 16-pixel patches over 448 pixels, and one layer to the classes: B×3×448×448 → B×19×448×448.

    A face is drawn over what it says, so that all that comes after has one.
    """

    def __init__(self, shape: dict[str, Any]) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.backbone = VisionTransformer(
            img_size=PARSED, patch_size=16, num_classes=0, class_token=False, global_pool="", **shape
        )
        self.head = nn.Linear(shape["embed_dim"], len(CELEBM.classes))
        self.register_buffer("face", torch.tensor(drawn_face(PARSED // 16)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and something else, as in FaRL's release."""
        small = self.head(self.backbone(images)).transpose(1, 2).unflatten(2, (PARSED // 16, PARSED // 16)) + self.face
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


def write_segmenter(size: Size, folder: Path, device: str = "cpu") -> None:
    """SAM in half precision; its relative positions are 0 where nothing has been learnt, and would test nothing."""
    with torch.device(device):
        sam = build_vit_sam(**size.sam)
        for name, weights in sam.image_encoder.named_parameters():
            if "rel_pos" in name:
                nn.init.normal_(weights, std=0.1)
    state = {name: one.half() if one.is_floating_point() else one for name, one in sam.state_dict().items()}
    save_file(state, folder / "sam.safetensors")


def write_parser(size: Size, folder: Path, device: str = "cpu") -> None:
    """The parser as TorchScript, traced on the processor, so that it names no device."""
    with torch.device(device):
        parser = Parser(size.parser)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what FaRL's release is
        seen = torch.zeros(2, 3, PARSED, PARSED)
        traced = torch.jit.trace(parser.cpu().eval(), seen, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(folder / "parser.pt"))


def write_inpainter(size: Size, folder: Path, device: str = "cpu") -> None:
    """Stable Diffusion and a ControlNet as a folder in diffusers' format."""
    with torch.device(device):
        parts = Generator.of(size)
    parts.save(folder / "inpainter")


WRITERS = {"segmenter": write_segmenter, "parser": write_parser, "inpainter": write_inpainter}
"""By part: each writes a file of its format. Weights are drawn on the device, which takes a processor's core long."""


def write(size: Size, folder: Path) -> None:
    """Parser, inpainter and segmenter of a size, as files of their formats."""
    torch.manual_seed(0)
    for writer in WRITERS.values():
        writer(size, folder)


class Unfilled(TorchFunctionMode):
    """While it is entered, new networks draw no random weights: those of a file follow, and 2 G of them take 20 s."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Leave a tensor as it is where it would be drawn."""
        if function in (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def profile(size: Size, folder: Path, way: Literal["published", "exact", "half"]) -> Profile:
    """The paper profile over what :func:`write` has written.

    Args:
        size: what was written.
        folder: where.
        way: ``published`` and ``exact`` are float32, and the former has ``segment_anything``'s own attention.
    """
    half = way == "half"
    parts = {
        "parser": ("parser.pt", "float16", ()),
        "inpainter": ("inpainter", "float16", (("size", size.drawn), ("condition", "inpaint"))),
        "segmenter": ("sam.safetensors", "bfloat16", (*size.sam.items(), ("fused", way != "published"))),
    }
    specs: dict[str, Any] = {
        part: replace(
            PAPER.part(part), weights=str(folder / file), sha256="", dtype=dtype if half else "float32", options=options
        )
        for part, (file, dtype, options) in parts.items()
    }
    return replace(PAPER, name=f"{size.name}, {way}", settings=size.settings, **specs)
