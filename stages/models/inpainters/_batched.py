"""diffusers' inpainting pipeline, whose VAE encodes a batch as one."""

from typing import cast

import torch
from diffusers import StableDiffusionControlNetInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


class BatchedPipeline(StableDiffusionControlNetInpaintPipeline):  # type: ignore[misc]  # diffusers is untyped there
    """``StableDiffusionControlNetInpaintPipeline``, which encodes photo after photo if each has a generator."""

    def _encode_vae_image(self, image: Tensor, generator: torch.Generator | list[torch.Generator]) -> Tensor:
        """B×3×s×s in −1..1 → B×4×s/8×s/8, every photo's latents drawn by its own generator as diffusers draws them."""
        if not isinstance(generator, list):
            return cast("Tensor", super()._encode_vae_image(image, generator))
        found = self.vae.encode(image).latent_dist.parameters
        drawn = [DiagonalGaussianDistribution(one[None]).sample(own) for one, own in zip(found, generator, strict=True)]
        return cast("Tensor", self.vae.config.scaling_factor * torch.cat(drawn))
