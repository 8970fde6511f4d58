"""diffusers' inpainting pipeline, which does for a batch, and once, what it does face by face, and in every step."""

from functools import cache
from typing import Any, cast

import torch
from diffusers import StableDiffusionControlNetInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn


@cache
def on_host(kind: Any) -> Any:  # noqa: ANN401  (diffusers' classes)
    """A scheduler of diffusers that looks up its steps by the host's own numbers.

    Those of a device would have the host wait in every step until the device has done all that it was given.
    """

    class OnHost(kind):  # type: ignore[misc]  # of a class that the caller names
        def set_timesteps(self, count: int, device: object = None, **kwargs: object) -> None:
            del device
            super().set_timesteps(count, **kwargs)

        def step(
            self, output: Tensor, time: Tensor, sample: Tensor, generator: object = None, **kwargs: object
        ) -> object:  # a pipeline gives a generator to steps that name one
            del time  # the same, on the device
            at = self.begin_index if self.step_index is None else self.step_index
            return super().step(output, self.timesteps[at], sample, generator=generator, **kwargs)

    return OnHost


class BatchedPipeline(StableDiffusionControlNetInpaintPipeline):  # type: ignore[misc]  # diffusers is untyped there
    """``StableDiffusionControlNetInpaintPipeline``, which encodes photo after photo if each has a generator."""

    placed: torch.device
    """Where its models are. diffusers looks for that through all of their modules, dozens of times a call."""
    encoded: DiagonalGaussianDistribution
    """The latents of the pictures that were encoded last: the photos, without what is missing of them."""
    _embedding: nn.Module | None = None
    """Of the condition, where it is not the ControlNet's own part any more."""

    @property
    def _execution_device(self) -> torch.device:
        return self.placed

    def embed_once(self) -> None:
        """Embed the condition once for all steps: each of them shows the ControlNet the same pictures."""
        net = self.controlnet
        if hasattr(net, "nets") or net.config.controlnet_conditioning_channel_order != "rgb":
            return  # of several, it is not told which one's picture is prepared; and it may turn colours round
        self._embedding, net.controlnet_cond_embedding = net.controlnet_cond_embedding, nn.Identity()

    def prepare_control_image(self, *args: object, **kwargs: Any) -> Tensor:  # noqa: ANN401  (diffusers' own)
        """What the ControlNet is given in every step: B×(3 or 6)×s×s pictures, or B×C×s/8×s/8 once embedded."""
        pictures = cast("Tensor", super().prepare_control_image(*args, **kwargs))
        return pictures if self._embedding is None else cast("Tensor", self._embedding(pictures))

    def get_timesteps(self, num_inference_steps: int, strength: float, device: torch.device) -> tuple[Tensor, int]:
        """The steps' times for the networks, on their device; a scheduler may keep its own elsewhere."""
        times, count = super().get_timesteps(num_inference_steps, strength, device)
        return times.to(device), count

    def _encode_vae_image(self, image: Tensor, generator: torch.Generator | list[torch.Generator]) -> Tensor:
        """B×3×s×s in −1..1 → B×4×s/8×s/8, every photo's latents drawn by its own generator as diffusers draws them."""
        if not isinstance(generator, list):
            return cast("Tensor", super()._encode_vae_image(image, generator))
        self.encoded = self.vae.encode(image).latent_dist
        each = zip(self.encoded.parameters, generator, strict=True)
        drawn = [DiagonalGaussianDistribution(one[None]).sample(own) for one, own in each]
        return cast("Tensor", self.vae.config.scaling_factor * torch.cat(drawn))
