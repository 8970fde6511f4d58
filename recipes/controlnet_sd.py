"""Recipe of a six-channel ControlNet for Stable Diffusion: parse map and photo, so that the visible face is kept.

    python -m recipes.controlnet_sd --data DIR --work DIR --out DIR --pipeline DIR/sd15-inpaint-controlnet

The published ControlNets never see what is in the hole, and the hole of a blind pass is the whole face: they draw
somebody else's. This one sees the photo there, with what hides the face, and learns to give back the face without it.
Stable Diffusion itself stays frozen. The profile then says ``condition = "parse+photo"`` of the folder that is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetInpaintPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.batches import as_pixels, batches
from recipes.faces import SIZE, complete_parsing, load_faces
from recipes.inpainter import ReferenceSamples
from recipes.recipe import Batch, Measured, Minutes, Rate, Recipe, Seed, command_line
from recipes.schedule import fit, mixed
from s3pot_batch.stages.models.checkpoints import EMBEDDED
from s3pot_batch.stages.settings import ReferenceSettings

MARGIN = round(ReferenceSettings().dilation * SIZE)
"""What the hole of a blind pass reaches beyond the region, in pixels of a sample."""


@dataclass(frozen=True, kw_only=True)
class ControlNetSdRecipe(Recipe):
    """How the ControlNet is trained. The defaults were tried at a tiny size only."""

    minutes: Minutes = 600.0
    batch: Batch = 8
    seed: Seed = 5
    rate: Rate = 1e-5
    measured: Measured = 64
    pipeline: Annotated[Path, typer.Option(help="Stable Diffusion inpainting, in diffusers' format.")]
    out: Annotated[Path, typer.Option(help="Where the pipeline with its new ControlNet goes.")]
    side: Annotated[int, typer.Option(help="Pixels at which it is trained; samples are enlarged to that.")] = 512
    parser: Annotated[Path, typer.Option(help="A parser's file, which labels what nobody annotated.")] = (
        EMBEDDED / "parser.pt"
    )


@dataclass(frozen=True)
class Frozen:
    """The parts of Stable Diffusion that stay as they are, on one device."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    """It only adds noise here: every scheduler of a pipeline shares its training noise."""
    prompt: Tensor
    """1×N×C, the prompt that the settings have."""

    @classmethod
    def of(cls, folder: Path, device: str) -> "Frozen":
        """Of a pipeline's folder."""
        text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        words = tokenizer(
            ReferenceSettings().prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            prompt = text(words.input_ids)[0].to(device)
        whole = {"local_files_only": True, "low_cpu_mem_usage": False}
        vae, unet = (
            kind.from_pretrained(folder / name, **whole).to(device).requires_grad_(requires_grad=False).eval()
            for kind, name in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"))
        )
        return cls(vae, unet, DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True), prompt)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """B×3×S×S in −1..1 → latents, B×4×S/8×S/8."""
        return self.vae.encode(pixels).latent_dist.mean.float() * self.vae.config.scaling_factor  # type: ignore[no-any-return]


def start(unet: UNet2DConditionModel) -> ControlNetModel:
    """A six-channel ControlNet that changes nothing yet: a copy of the UNet's encoder behind zero convolutions.

    An inpainting UNet has nine channels, the hole and the masked latents among them; a ControlNet sees four, the noisy
    latents, and knows the rest from its condition.
    """
    wide = ControlNetModel.from_unet(unet, conditioning_channels=6)
    net: ControlNetModel = ControlNetModel.from_config({**wide.config, "in_channels": 4})
    state = wide.state_dict()
    state["conv_in.weight"] = state["conv_in.weight"][:, :4]
    net.load_state_dict(state)
    return net


def noise_error(net: nn.Module, frozen: Frozen, sample: dict[str, Tensor], side: int) -> Tensor:
    """B, how far the predicted noise (or velocity, or sample) of clean faces is off, where they are drawn anew."""
    clean, photo, parse = (_enlarged(as_pixels(sample[name]), side) for name in ("clean", "photo", "parse"))
    blind = sample["hole"].flatten(1).amax(1) == 0
    region = F.max_pool2d(sample["region"][:, None], 2 * MARGIN + 1, 1, MARGIN)
    hole = F.interpolate(torch.where(blind[:, None, None, None], region, sample["hole"][:, None]), side)
    latents, masked = frozen.encode(clean), frozen.encode(photo * (1 - hole))
    noise = torch.randn_like(latents)
    t = torch.randint(frozen.scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
    noisy = frozen.scheduler.add_noise(latents, noise, t)
    condition = torch.cat([parse + 1, photo + 1], 1) / 2
    prompt = frozen.prompt.expand(len(clean), -1, -1)
    down, middle = net(noisy, t, prompt, controlnet_cond=condition, return_dict=False)
    small = F.interpolate(hole, latents.shape[-2:])
    nine = frozen.unet.config.in_channels == 9
    predicted = frozen.unet(
        torch.cat([noisy, small, masked], 1) if nine else noisy, t, prompt, down_block_additional_residuals=down,
        mid_block_additional_residual=middle, return_dict=False,
    )[0].float()  # fmt: skip
    kind = frozen.scheduler.config.prediction_type
    wanted = {"epsilon": noise, "sample": latents}.get(kind)
    wanted = frozen.scheduler.get_velocity(latents, noise, t) if wanted is None else wanted
    weight = 0.1 + small  # what is not in the hole is replaced by the photo
    error: Tensor = (weight * (predicted - wanted).square()).flatten(1).mean(1)
    return error


def train(recipe: ControlNetSdRecipe) -> None:
    """Train the ControlNet, and write the whole pipeline with it."""
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    parsing = complete_parsing(faces, recipe.parser, recipe.work)
    frozen = Frozen.of(recipe.pipeline, recipe.device)
    models = nn.ModuleDict({"controlnet": start(frozen.unet).to(recipe.device)})
    samples = batches(ReferenceSamples(faces, parsing), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        sample = {name: value.to(recipe.device) for name, value in sample.items()}
        with mixed(recipe.device):
            return {"noise": noise_error(models["controlnet"], frozen, sample, recipe.side).mean()}

    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.rate, weight_decay=1e-2)
    averaged: Any = fit(models, loss, samples, optimizer, recipe, "controlnet_sd")["controlnet"]
    held_out = batches(ReferenceSamples(faces, parsing, held_out=True), size=recipe.batch, seed=7, workers=0)
    drawn = [next(held_out) for _ in range(-(-recipe.measured // recipe.batch))]
    print({"error_before": measure(start(frozen.unet).to(recipe.device).eval(), frozen, drawn, recipe),
           "error": measure(averaged, frozen, drawn, recipe)}, flush=True)  # fmt: skip
    save(averaged, recipe.pipeline, recipe.out)


@torch.no_grad()
def measure(net: nn.Module, frozen: Frozen, drawn: Sequence[dict[str, Tensor]], recipe: ControlNetSdRecipe) -> float:
    """The mean error on held-out faces, with the same noise every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        errors = [
            noise_error(net, frozen, {name: value.to(recipe.device) for name, value in sample.items()}, recipe.side)
            for sample in drawn
        ]
    return float(torch.cat(errors).mean())


def save(net: ControlNetModel, pipeline: Path, out: Path) -> None:
    """Write a pipeline's folder with another ControlNet, in half precision."""
    whole = StableDiffusionControlNetInpaintPipeline.from_pretrained(
        pipeline, controlnet=net.to("cpu"), safety_checker=None, feature_extractor=None, image_encoder=None,
        local_files_only=True, low_cpu_mem_usage=False,
    )  # fmt: skip
    whole.to(torch.float16).save_pretrained(out, safe_serialization=True)


def _enlarged(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)


if __name__ == "__main__":
    command_line(train)()
