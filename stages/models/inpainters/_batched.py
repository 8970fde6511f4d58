"""diffusers' inpainting pipeline, whose VAE encodes a batch as one."""

from typing import cast

import torch
from diffusers import StableDiffusionControlNetInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


class BatchedPipeline(StableDiffusionControlNetInpaintPipeline):  # type: ignore[misc]  # diffusers is untyped there
    """``StableDiffusionControlNetInpaintPipeline``, which encodes photo after photo if each has a generator."""

    placed: torch.device
    """Where its models are. diffusers looks for that through all of their modules, dozens of times a call."""
    encoded: DiagonalGaussianDistribution
    """The latents of the pictures that were encoded last: the photos, without what is missing of them."""

    @property
    def _execution_device(self) -> torch.device:
        return self.placed

    def _encode_vae_image(self, image: Tensor, generator: torch.Generator | list[torch.Generator]) -> Tensor:
        """B×3×s×s in −1..1 → B×4×s/8×s/8, every photo's latents drawn by its own generator as diffusers draws them."""
        if not isinstance(generator, list):
            return cast("Tensor", super()._encode_vae_image(image, generator))
        self.encoded = self.vae.encode(image).latent_dist
        each = zip(self.encoded.parameters, generator, strict=True)
        drawn = [DiagonalGaussianDistribution(one[None]).sample(own) for one, own in each]
        return cast("Tensor", self.vae.config.scaling_factor * torch.cat(drawn))
