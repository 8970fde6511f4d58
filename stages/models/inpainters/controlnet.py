"""The inpainter that generates references: ControlNet-conditioned latent diffusion through diffusers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.utils import logging
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.compiling import BatchSizes
from s3pot_batch.stages.models.inpainters._batched import BatchedPipeline, on_host
from s3pot_batch.stages.models.inpainters._conditions import CONDITIONS, Shown, checked
from s3pot_batch.stages.models.protocols import GREY, Inpainting
from s3pot_batch.stages.settings import ReferenceSettings

SCHEDULERS: dict[str, tuple[str, dict[str, object]]] = {
    "ddim": ("DDIMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "lcm": ("LCMScheduler", {}),  # for weights that were distilled to few steps
}
"""diffusers' classes by the name that the setting gives them, each configured as the pipeline's own scheduler is."""
ADAPTER = "ip_adapter"
"""The folder in a pipeline's own that holds an IP-Adapter's file and the ``image_encoder`` that belongs to it."""
LORA = "lora"
"""The folder in there that holds a LoRA's file."""


@dataclass(frozen=True)
class Pipeline:
    """How a pipeline was trained: what a profile says of it under ``options``."""

    size: int = 512
    """Side of the square that it works at."""
    condition: str | tuple[str, ...] = "parse"
    """What its ControlNet is shown, one of ``CONDITIONS``; several names for several ControlNets (``controlnet``,
    ``controlnet_1`` …)."""
    residual: bool = False
    """What is denoised is the change of the photo's latents, and a blind pass declares nothing as missing (ours); else
    the latents themselves, and the hole is always missing (published)."""
    ip_adapter: str = ""
    """An IP-Adapter's file in the pipeline's folder ``ip_adapter`` (Ye et al., arXiv 2308.06721); empty is none."""
    lora: str = ""
    """A LoRA's file in the pipeline's folder ``lora``, which is added to the UNet's weights when they are loaded (Hu et
    al., arXiv 2106.09685): LCM-LoRA draws in few steps (Luo et al., arXiv 2311.05556); empty is none."""
    compiled: bool = False
    """UNet, ControlNets and VAE by ``torch.compile``, which takes minutes first; never on a CPU."""


class ControlNetInpainter:
    """``StableDiffusionControlNetInpaintPipeline`` from a local folder in diffusers' format.

    Args:
        weights: the pipeline's folder.
        device: where it runs.
        dtype: name of a torch dtype.
        how: how it was trained.

    Raises:
        TypeError: the conditions do not fit the ControlNets.
    """

    def __init__(self, weights: Path, device: str, dtype: str = "float32", how: Pipeline = Pipeline()) -> None:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        text = (weights / "text_encoder").is_dir()
        absent = {} if text else {"text_encoder": None, "tokenizer": None}
        self.pipeline = BatchedPipeline.from_pretrained(
            weights, dtype=getattr(torch, dtype), safety_checker=None, feature_extractor=None,
            local_files_only=True, low_cpu_mem_usage=False, **absent,
        ).to(device)  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)
        if how.lora:
            self._fuse(weights / LORA / how.lora)
        for net in (self.pipeline.vae, self.pipeline.unet, self.pipeline.controlnet):
            net.to(memory_format=torch.channels_last)  # a fifth quicker on a processor
        if how.ip_adapter:
            self.pipeline.load_ip_adapter(
                str(weights), subfolder=ADAPTER, weight_name=how.ip_adapter, local_files_only=True,
                low_cpu_mem_usage=False,
            )  # fmt: skip
        nets = getattr(self.pipeline.controlnet, "nets", [self.pipeline.controlnet])
        self.conditions = checked(how.condition, [net.config.conditioning_channels for net in nets])
        self.device = self.pipeline.placed = torch.device(device)
        self.how = how
        self.text = text
        self._own_scheduler = self.pipeline.scheduler
        self._drawing = Lock()  # a pipeline's scheduler counts its steps, and a worker with a card has two shards
        self._told: dict[tuple[str, str, bool], tuple[Tensor, Tensor | None]] = {}
        self.sizes = BatchSizes(compiled=False)
        if self.device.type != "cpu":
            self._settle_on_a_card()

    def _fuse(self, file: Path) -> None:
        """Add a LoRA's products of two thin matrices to the UNet's weights.

        Raises:
            ConfigError: the file is not there, or is none of the UNet's.
        """
        if not file.is_file():
            raise ConfigError(f"{file}: no LoRA there; fetch it with: s3pot-batch models pull")
        self.pipeline.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
        if not self.pipeline.get_list_adapters().get("unet"):
            raise ConfigError(f"{file}: holds no LoRA of a UNet")
        self.pipeline.fuse_lora(components=["unet"], safe_fusing=True)
        self.pipeline.unload_lora_weights()  # the sums stay

    def _settle_on_a_card(self) -> None:
        """What makes it quicker and rounds otherwise; a CPU gives the same bits without."""
        torch.backends.cudnn.benchmark = True  # all batches but a stage's last have one size
        if not self.how.ip_adapter:  # it has attention of its own
            self.pipeline.fuse_qkv_projections()
        self.pipeline.embed_once()
        if self.how.compiled:
            self.compile()

    def compile(self, backend: str | Callable[..., object] = "inductor") -> None:
        """Have UNet, ControlNets and VAE compiled for every size of batch that they see, and batches filled up."""
        controls = getattr(self.pipeline.controlnet, "nets", [self.pipeline.controlnet])
        for net in (self.pipeline.unet, *controls, self.pipeline.vae.encoder, self.pipeline.vae.decoder):
            net.to(memory_format=torch.channels_last).compile(backend=backend, dynamic=False)
        self.sizes = BatchSizes()

    @torch.inference_mode()
    def inpaint(
        self, asked: Inpainting, settings: ReferenceSettings, seeds: Sequence[torch.Generator]
    ) -> NDArray[np.uint8]:
        """Fill the holes.

        Args:
            asked: photos, parse maps and holes.
            settings: how the diffusion goes.
            seeds: one seeded CPU generator per photo.

        Returns:
            B×S×S×3 uint8 RGB; outside the holes exactly the photo's pixels.

        Raises:
            ConfigError: the settings ask for what the pipeline's folder does not hold.
        """
        self._check(settings)
        with self._drawing:
            drawn = self._batches(asked, settings, list(seeds))
        return self._pasted(asked, drawn, settings)

    def _batches(self, asked: Inpainting, settings: ReferenceSettings, seeds: list[torch.Generator]) -> Tensor:
        """B×3×s×s in 0..1, whole pictures, drawn in batches of the sizes that the networks take."""
        self.pipeline.scheduler = self._scheduler(settings.scheduler)
        groups = [(asked, seeds)]
        if self.how.ip_adapter:
            # diffusers takes a list of pictures for several of one face, so every face has a call of its own
            self.pipeline.set_ip_adapter_scale(settings.identity)
            groups = [(_chosen(asked, [n]), [seed]) for n, seed in enumerate(seeds)]
        drawn = []
        for some, own in groups:
            with self.sizes.filled(len(own)) as size:
                more = [torch.Generator() for _ in range(size - len(own))]  # of their own, or they shift a face's noise
                every = _chosen(some, [*range(len(own)), *[-1] * len(more)]) if more else some
                drawn.append(self._drawn(Shown.at(every, self.how.size, self.device), settings, own + more)[: len(own)])
        return torch.cat(drawn)

    def _check(self, settings: ReferenceSettings) -> None:
        if self.how.residual and settings.strength < 1:
            raise ConfigError("these weights generate from pure noise only; set references.strength = 1")
        if int(settings.steps * settings.strength) < 1:
            raise ConfigError("references.steps times references.strength is less than one step")
        if settings.identity and not self.how.ip_adapter:
            raise ConfigError("references.identity needs an IP-Adapter; name its file in the inpainter's ip_adapter")

    def _scheduler(self, name: str) -> Any:  # noqa: ANN401  (diffusers' own)
        import diffusers

        if name == "own":
            return self._own_scheduler
        kind, changes = SCHEDULERS[name]
        found = getattr(diffusers, kind)
        return (on_host(found) if name == "lcm" else found).from_config(self._own_scheduler.config, **changes)

    def _drawn(self, shown: Shown, settings: ReferenceSettings, seeds: list[torch.Generator]) -> Tensor:
        """B×3×s×s in 0..1, whole pictures."""
        photo, hole = shown.photo, shown.hole
        # where the photo is the starting point, a blind pass shows the UNet all of it, to find what has to change
        missing = torch.zeros_like(hole) if self.how.residual and not shown.asked.hide else hole
        seen = [CONDITIONS[name](shown) for name in self.conditions]
        result = self.pipeline(
            image=photo, mask_image=missing, control_image=seen if len(seen) > 1 else seen[0],
            height=shown.size, width=shown.size, num_inference_steps=settings.steps, strength=settings.strength,
            guidance_scale=settings.guidance_scale, controlnet_conditioning_scale=settings.conditioning_scale,
            generator=seeds, output_type="latent" if self.how.residual else "pt",
            **self._text(len(photo), settings), **self._face(shown),
        ).images  # fmt: skip
        if self.how.residual:
            result = self._changed(result)
        return result  # type: ignore[no-any-return]

    def _pasted(self, asked: Inpainting, result: Tensor, settings: ReferenceSettings) -> NDArray[np.uint8]:
        """B×3×s×s in 0..1 at the photos' size, inside the holes."""
        side = asked.photos.shape[1]
        photos, holes = (torch.from_numpy(one).to(self.device) for one in (asked.photos, asked.holes))
        filled = F.interpolate(result.float(), (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(
            0, 1
        )
        generated = (filled * 255).round().byte().permute(0, 2, 3, 1)
        if settings.softness:
            shares = np.stack([softened(hole, settings.softness * side) for hole in asked.holes])
            share = torch.from_numpy(shares).to(self.device)[..., None]
            generated = (share * generated + (1 - share) * photos).round().byte()
        return torch.where(holes[..., None], generated, photos).cpu().numpy()

    def _changed(self, change: Tensor) -> Tensor:
        """The change of the latents of the photos that were encoded last → B×3×S×S, the changed photos, in 0..1."""
        vae = self.pipeline.vae
        latents = self.pipeline.encoded.mean + change / vae.config.scaling_factor
        return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

    def _text(self, count: int, settings: ReferenceSettings) -> dict[str, object]:
        if self.text:
            key = settings.prompt, settings.negative_prompt, settings.guidance_scale > 1
            if key not in self._told:  # the same for every face of a run
                prompt, negative, guided = key
                self._told = {key: self.pipeline.encode_prompt(prompt, self.device, 1, guided, negative)}
            told = [None if one is None else one.expand(count, -1, -1) for one in self._told[key]]
            return {"prompt_embeds": told[0], "negative_prompt_embeds": told[1]}
        width = self.pipeline.unet.config.cross_attention_dim
        nothing = torch.zeros(count, 1, width, dtype=self.pipeline.unet.dtype, device=self.device)
        return {"prompt_embeds": nothing, "negative_prompt_embeds": nothing}

    def _face(self, shown: Shown) -> dict[str, object]:
        """Whose face it is, for the IP-Adapter: the photo, without what is known to hide it."""
        if not self.how.ip_adapter:
            return {}
        seen = torch.where(shown.hole > 0, torch.tensor(GREY / 255), shown.photo) if shown.asked.hide else shown.photo
        pixels = (seen[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return {"ip_adapter_image": Image.fromarray(pixels)}


def _chosen(asked: Inpainting, which: list[int]) -> Inpainting:
    """Some of several photos."""
    return replace(asked, photos=asked.photos[which], parsing=asked.parsing[which], holes=asked.holes[which])


def softened(hole: NDArray[np.bool_], width: float) -> NDArray[np.float32]:
    """S×S, how much of what was generated a pixel shows: 0 at the hole's edge, 1 from ``width`` pixels inside on."""
    inside = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.clip(inside / max(width, 1e-6), 0, 1), np.float32)


def build(weights: Path, device: str, dtype: str = "float32", **options: Any) -> ControlNetInpainter:  # noqa: ANN401
    """The inpainter from a pipeline's folder; ``options`` are :class:`Pipeline`'s fields."""
    return ControlNetInpainter(weights, device, dtype, Pipeline(**options))
