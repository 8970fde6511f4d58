"""The inpainter that generates references: ControlNet-conditioned latent diffusion through diffusers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionControlNetInpaintPipeline
from diffusers.utils import logging
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.protocols import GREY, Inpainting
from s3pot_batch.stages.settings import ReferenceSettings

PROMPT = "a photo of a face, nothing in front of it"
"""For pipelines with a text encoder."""


class ControlNetInpainter:
    """``StableDiffusionControlNetInpaintPipeline`` from a local folder in diffusers' format.

    Args:
        weights: the pipeline's folder.
        device: where it runs.
        dtype: name of a torch dtype.
        size: side of the square that the pipeline works at.
        six_channels: the ControlNet's condition is parse map and photo (ours); else the parse map alone (published).
        residual: what is denoised is the change of the photo's latents, and a blind pass declares nothing as missing
            (ours); else the latents themselves, and the hole is always missing (published).
    """

    def __init__(
        self, weights: Path, device: str, dtype: str = "float32", *, size: int = 512, six_channels: bool = False,
        residual: bool = False,
    ) -> None:  # fmt: skip
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        text = (weights / "text_encoder").is_dir()
        absent = {} if text else {"text_encoder": None, "tokenizer": None}
        self.pipeline = StableDiffusionControlNetInpaintPipeline.from_pretrained(
            weights, dtype=getattr(torch, dtype), safety_checker=None, feature_extractor=None,
            local_files_only=True, low_cpu_mem_usage=False, **absent,
        ).to(device)  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = torch.device(device)
        self.size = size
        self.six_channels = six_channels
        self.residual = residual
        self.prompt = PROMPT if text else None

    @torch.inference_mode()
    def inpaint(
        self, asked: Inpainting, settings: ReferenceSettings, seeds: Sequence[torch.Generator]
    ) -> NDArray[np.uint8]:
        """Fill the holes.

        Args:
            asked: photos, parse maps and holes.
            settings: steps, strength, guidance and conditioning scale.
            seeds: one seeded CPU generator per photo.

        Returns:
            B×S×S×3 uint8 RGB; outside the holes exactly the photo's pixels.

        Raises:
            ConfigError: a residual pipeline is asked to start from the photo.
        """
        if self.residual and settings.strength < 1:
            raise ConfigError("these weights generate from pure noise only; set references.strength = 1")
        photo, hole, condition = self._shown(asked)
        # where the photo is the starting point, a blind pass shows the UNet all of it, to find what has to change
        missing = torch.zeros_like(hole) if self.residual and not asked.hide else hole
        result = self.pipeline(
            image=photo, mask_image=missing, control_image=condition, height=self.size, width=self.size,
            num_inference_steps=settings.steps, strength=settings.strength, guidance_scale=settings.guidance_scale,
            controlnet_conditioning_scale=settings.conditioning_scale, generator=list(seeds),
            output_type="latent" if self.residual else "pt", **self._text(len(photo)),
        ).images  # fmt: skip
        if self.residual:
            result = self._changed(photo * (1 - missing) + missing / 2, result)
        return self._pasted(asked, result)

    def _shown(self, asked: Inpainting) -> tuple[Tensor, Tensor, Tensor]:
        """Photo B×3×s×s, hole B×1×s×s and the ControlNet's condition B×(3 or 6)×s×s, s the pipeline's size."""
        photo = self._resized(torch.from_numpy(asked.photos))
        hole = torch.from_numpy(asked.holes)[:, None].float()
        smaller = self.size < asked.photos.shape[1]  # a cell of the smaller mask is hole if any of its pixels is
        hole = F.adaptive_max_pool2d(hole, self.size) if smaller else F.interpolate(hole, self.size)
        parts = self._resized(torch.from_numpy(asked.taxonomy.colourise(asked.parsing)))
        if not self.six_channels:
            return photo, hole, parts
        shown = torch.where(hole > 0, torch.tensor(GREY / 255), photo) if asked.hide else photo
        return photo, hole, torch.cat([parts, shown], 1)

    def _pasted(self, asked: Inpainting, result: Tensor) -> NDArray[np.uint8]:
        """B×3×s×s in 0..1 at the photos' size, inside the holes."""
        side = asked.photos.shape[1]
        filled = F.interpolate(
            result.float().cpu(), (side, side), mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
        generated = (filled * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return np.where(asked.holes[..., None], generated, asked.photos).astype(np.uint8)

    def _changed(self, photo: Tensor, change: Tensor) -> Tensor:
        """B×3×S×S photos in 0..1 and the change of their latents → the changed photos, in 0..1."""
        vae = self.pipeline.vae
        latents = vae.encode((2 * photo - 1).to(change)).latent_dist.mean + change / vae.config.scaling_factor
        return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

    def _resized(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)

    def _text(self, count: int) -> dict[str, object]:
        if self.prompt is not None:
            return {"prompt": [self.prompt] * count}
        width = self.pipeline.unet.config.cross_attention_dim
        return {"prompt_embeds": torch.zeros(count, 1, width, dtype=self.pipeline.unet.dtype, device=self.device)}


def build(
    weights: Path, device: str, dtype: str = "float32", *, size: int = 512, six_channels: bool = False,
    residual: bool = False,
) -> ControlNetInpainter:  # fmt: skip
    """The inpainter from a pipeline's folder."""
    return ControlNetInpainter(weights, device, dtype, size=size, six_channels=six_channels, residual=residual)
