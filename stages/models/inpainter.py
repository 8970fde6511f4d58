"""The reference generator: ControlNet-conditioned latent diffusion inpainting through diffusers."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stages.errors import ConfigError
from stages.models.palette import colourise
from stages.settings import ReferenceSettings


class Inpainter(Protocol):
    """Fills a hole of a face photo with the face that its parse map describes."""

    def inpaint(
        self, frames: NDArray[np.uint8], parsing: NDArray[np.uint8], holes: NDArray[np.bool_], *, hide: bool,
        settings: ReferenceSettings, generators: list[torch.Generator],
    ) -> NDArray[np.uint8]:  # fmt: skip
        """B×S×S×3 photos, B×S×S class ids, B×S×S holes → B×S×S×3; pixels outside the holes are the photo's."""


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
        prompt: for pipelines with a text encoder.
    """

    def __init__(
        self, weights: Path, device: str, dtype: str = "float32", *, size: int = 512, six_channels: bool = False,
        residual: bool = False, prompt: str = "a photo of a face, nothing in front of it",
    ) -> None:  # fmt: skip
        from diffusers import StableDiffusionControlNetInpaintPipeline
        from diffusers.utils import logging

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
        self.prompt = prompt if text else None

    @torch.inference_mode()
    def inpaint(
        self, frames: NDArray[np.uint8], parsing: NDArray[np.uint8], holes: NDArray[np.bool_], *, hide: bool,
        settings: ReferenceSettings, generators: list[torch.Generator],
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Fill the holes.

        Args:
            frames: B×S×S×3 uint8 RGB aligned photos.
            parsing: B×S×S uint8 class ids.
            holes: B×S×S bool, what is generated anew.
            hide: paint the holes grey in the ControlNet's photo, so that it cannot copy what it replaces.
            settings: steps, strength, guidance and conditioning scale.
            generators: one seeded CPU generator per photo.

        Returns:
            B×S×S×3 uint8 RGB; outside the holes exactly the photo's pixels.

        Raises:
            ConfigError: a residual pipeline is asked to start from the photo.
        """
        if self.residual and settings.strength < 1:
            raise ConfigError("these weights generate from pure noise only; set references.strength = 1")
        photo = self._resized(torch.from_numpy(frames))
        hole = torch.from_numpy(holes)[:, None].float()
        smaller = self.size < frames.shape[1]  # a cell of the smaller mask is hole if any of its pixels is
        hole = F.adaptive_max_pool2d(hole, self.size) if smaller else F.interpolate(hole, self.size)
        parts = self._resized(torch.from_numpy(colourise(parsing)))
        shown = torch.where(hole > 0, torch.tensor(127 / 255), photo) if hide else photo
        condition = torch.cat([parts, shown], 1) if self.six_channels else parts
        # where the photo is the starting point, a blind pass shows the UNet all of it, to find what has to change
        missing = torch.zeros_like(hole) if self.residual and not hide else hole
        result = self.pipeline(
            image=photo, mask_image=missing, control_image=condition, height=self.size, width=self.size,
            num_inference_steps=settings.steps, strength=settings.strength, guidance_scale=settings.guidance_scale,
            controlnet_conditioning_scale=settings.conditioning_scale, generator=generators,
            output_type="latent" if self.residual else "pt", **self._text(len(frames)),
        ).images  # fmt: skip
        if self.residual:
            result = self._changed(photo * (1 - missing) + missing / 2, result)
        result = result.float().cpu()
        side = frames.shape[1]
        filled = F.interpolate(result, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        generated = (filled * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return np.where(holes[..., None], generated, frames).astype(np.uint8)

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
