"""Recipe of the embedded inpainter, which draws references: a small VAE, then an inpainting UNet and its ControlNet.

    python -m recipes.inpainter vae --data DIR --work DIR --minutes 6
    python -m recipes.inpainter controlnet --data DIR --work DIR --minutes 30

The ControlNet sees the parse map and the photo. Most of the samples are *blind*: nothing is known to be missing, the
hole is empty, and the network has to find what does not belong and keep the rest. The others are *filled*: the hole is
a known part, grey in the photo. The UNet sees the photo outside the hole, and what it denoises is the change of the
photo's latents: a network of this size otherwise spends its capacity on giving back what it was shown.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetInpaintPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.batches import as_pixels, batches
from recipes.faces import (
    SIZE,
    Faces,
    bare_faces,
    complete_parsing,
    crop,
    jitter,
    load_faces,
    outside_is_grey,
    relight,
    seen,
    worsened,
)
from recipes.occluders import NAMELESS, Occluded, occlude
from recipes.recipe import Batch, Measured, Minutes, Rate, Recipe, Seed, ShippedRecipe, command_line
from recipes.schedule import fit, mixed
from recipes.shipping import write_report
from s3pot_batch.stages.method.alignment import moved_landmarks
from s3pot_batch.stages.method.region import disc
from s3pot_batch.stages.models.checkpoints import EMBEDDED
from s3pot_batch.stages.models.protocols import GREY
from s3pot_batch.stages.models.taxonomy import CELEBM

BLIND = 0.75
"""Share of the samples whose occluder the network has to find by itself, which is the harder half."""
[SKIN] = CELEBM.ids(("face",))
"""What the parse map says of a face where nothing more is known, and what glasses are drawn as."""
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class VaeRecipe(Recipe):
    """How the VAE is trained, which waits in ``work`` for its ControlNet."""

    minutes: Minutes = 12.0
    batch: Batch = 4
    seed: Seed = 2
    rate: Rate = 2e-3
    measured: Measured = 192


@dataclass(frozen=True, kw_only=True)
class ControlNetRecipe(ShippedRecipe):
    """How UNet and ControlNet are trained."""

    minutes: Minutes = 30.0
    batch: Batch = 8
    seed: Seed = 3
    rate: Rate = 1.5e-3
    measured: Measured = 192
    parser: Annotated[Path, typer.Option(help="A parser's file, which labels what nobody annotated.")] = (
        EMBEDDED / "parser.pt"
    )


def build_vae() -> AutoencoderKL:
    """A factor-2 VAE with four latent channels: 3×128×128 → 4×64×64."""
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 48), layers_per_block=1, latent_channels=4, norm_num_groups=1, sample_size=SIZE,
        mid_block_add_attention=False,
    )  # fmt: skip
    keep_scale([*net.encoder.down_blocks[-1].resnets, *net.encoder.mid_block.resnets], net.encoder.conv_norm_out)
    keep_scale(net.decoder.up_blocks[-1].resnets, net.decoder.conv_norm_out)
    return net


def build_unet() -> UNet2DConditionModel:
    """A 9-channel inpainting UNet on 64×64 latents, without text."""
    net = UNet2DConditionModel(
        sample_size=SIZE // 2, in_channels=9, out_channels=4, down_block_types=("DownBlock2D",) * 4,
        mid_block_type="UNetMidBlock2D", up_block_types=("UpBlock2D",) * 4, block_out_channels=(32, 64, 96, 128),
        layers_per_block=1, cross_attention_dim=8, norm_num_groups=1, attention_head_dim=8,
    )  # fmt: skip
    keep_scale(net.up_blocks[-1].resnets, net.conv_norm_out)
    return net


def build_controlnet() -> ControlNetModel:
    """The ControlNet of :func:`build_unet`: its condition is the parse map in RGB and the photo, six channels."""
    return ControlNetModel(
        in_channels=4, conditioning_channels=6, down_block_types=("DownBlock2D",) * 4,
        mid_block_type="UNetMidBlock2D", block_out_channels=(32, 64, 96, 128), layers_per_block=1,
        cross_attention_dim=8, norm_num_groups=1, attention_head_dim=8,
        conditioning_embedding_out_channels=(16, 32),
    )  # fmt: skip


@torch.no_grad()
def keep_scale(resnets: Iterable[nn.Module], norm: nn.Module, level: float = 16.0) -> None:
    """Start with the last channel of a residual stream at a constant, so that the norm that ends it keeps brightness.

    A group norm divides by the spread of the whole picture; what is bright or dull as a whole is lost. Beside a
    channel that is always ``level``, the spread hardly depends on the picture.
    """
    for resnet in resnets:
        blocks: Any = resnet
        blocks.conv2.weight[-1] = 0
        blocks.conv2.bias[-1] = 0
        if blocks.conv_shortcut is not None:
            blocks.conv_shortcut.weight[-1] = 0
            blocks.conv_shortcut.bias[-1] = level
    stream: Any = norm
    stream.weight.mul_(level / len(stream.weight) ** 0.5)


def build_scheduler() -> DDIMScheduler:
    """DDIM that predicts the clean sample, from pure noise in one step on."""
    return DDIMScheduler(
        prediction_type="sample", timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
    )  # fmt: skip


class ReferenceSamples:
    """Draws a face without glasses or hat, the same with something pasted, its parse map and the hole to fill."""

    def __init__(
        self, faces: Faces, parsing: NDArray[np.uint8], *, held_out: bool = False, occluded: float = 0.85
    ) -> None:
        self.faces = faces
        self.parsing = parsing
        self.indices = bare_faces(faces, parsing, held_out=held_out)
        self.occluded = occluded

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``clean``, ``photo``, ``parse`` S×S×3 uint8; ``hole``, ``alpha``, ``region``, ``inside`` S×S float32.

        Outside the photo all three pictures show nothing: ``inside`` is 0 there.
        """
        n, donor = rng.choice(self.indices, 2)
        matrix = jitter(rng, self.faces.images.shape[1], SIZE)
        clean, labels = crop(self.faces.images[n], self.parsing[n], matrix, SIZE)
        other, _ = crop(self.faces.images[donor], self.parsing[donor], matrix, SIZE)
        points = moved_landmarks(self.faces.landmarks[n], matrix).astype(np.float32)
        inside = seen(rng, self.faces.valid[n], matrix, SIZE, points)
        within = inside > 0.5
        occluded = occlude(rng, clean, other, points)
        region = (CELEBM.where(labels, CELEBM.face) & within).astype(np.uint8)
        blind = rng.random() < BLIND
        photo, alpha, hole = clean, np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.uint8)
        if not blind or rng.random() < self.occluded:
            photo, alpha = occluded.image, occluded.alpha * inside
            labels = misread(rng, labels, occluded)
        lit = relight(rng, np.concatenate([photo, clean]))  # one light for both
        photo, clean = (outside_is_grey(one, inside) for one in worsened(rng, lit[:SIZE], lit[SIZE:]))
        if not blind:  # filled: the hole is known, and hidden from the network
            part = (alpha > 0.1).astype(np.uint8)
            hole = cv2.dilate(part, disc(int(rng.integers(1, 5)))) & cv2.dilate(region, disc(3)) & within
            photo, alpha = grey_inside(photo, hole), hole.astype(np.float32)
        parse = CELEBM.colourise(np.where(within, labels, np.uint8(0)))
        return {"clean": clean, "photo": photo, "parse": parse, "hole": hole.astype(np.float32),
                "alpha": alpha, "region": region.astype(np.float32), "inside": inside}  # fmt: skip


def misread(rng: np.random.Generator, labels: NDArray[np.uint8], occluded: Occluded) -> NDArray[np.uint8]:
    """The parse map as it is drawn for the ControlNet: what is worn before the face is skin, now and then all of it.

    A parser knows glasses, hats and hair, and none of them is to be drawn; what is under other things it has to guess.
    The face region stays as large as it was.
    """
    face = CELEBM.where(labels, CELEBM.face)
    read = np.where(occluded.names == NAMELESS, labels, occluded.names)
    read = np.where(CELEBM.where(read, CELEBM.worn) | ((read != labels) & face), SKIN, read)
    if rng.random() < 0.25:
        covered = cv2.erode((occluded.alpha > 0.5).astype(np.uint8), disc(int(rng.integers(0, 4)))) > 0
        read = np.where(covered & face, SKIN, read)
    return np.asarray(read, np.uint8)


def grey_inside(photo: NDArray[np.uint8], hole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo with the hole painted mid-grey: a filled pass must not see what it replaces."""
    return np.where(hole[..., None] > 0, np.uint8(GREY), photo).astype(np.uint8)


def pieces(pixels: Tensor, side: int) -> Tensor:
    """B×3×S×S → 4B×3×side×side: four random windows, the same ones of every photo."""
    corners = torch.randint(pixels.shape[-1] - side + 1, (4, 2)).tolist()
    windows = [pixels[:, :, y : y + side, x : x + side] for y, x in corners]
    return torch.cat(windows).contiguous(memory_format=torch.channels_last)


def vae(recipe: VaeRecipe) -> None:
    """Train the VAE on four pieces of each photo, which is all that a factor of 2 looks at, and keep it in ``work``."""
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    net = build_vae().to(recipe.device, memory_format=torch.channels_last)
    models = nn.ModuleDict({"vae": net})
    unused = np.full_like(faces.parsing, SKIN)  # the VAE needs pixels only
    samples = batches(ReferenceSamples(faces, unused), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = pieces(as_pixels(sample["photo"].to(recipe.device)), SIZE // 2)
        with mixed(recipe.device):
            posterior = net.encode(pixels).latent_dist
            decoded = net.decode(posterior.sample()).sample.float()
        tone, target = F.avg_pool2d(decoded, 4), F.avg_pool2d(pixels, 4)
        return {
            "pixels": F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels),
            "tone": 4 * F.l1_loss(tone, target),  # four channels would rather hold edges than colour
            "kl": 1e-5 * posterior.kl().mean() / 4096,
        }

    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.rate, weight_decay=0.0)
    trained: Any = fit(models, loss, samples, optimizer, recipe, "vae")["vae"].to("cpu")
    held_out = ReferenceSamples(faces, unused, held_out=True)
    sample = next(batches(held_out, size=min(recipe.measured, 64), seed=7, workers=0))
    with torch.no_grad():
        pixels = as_pixels(sample["clean"])
        latents = trained.encode(pixels).latent_dist.mean
        error = F.mse_loss(trained.decode(latents).sample.clamp(-1, 1), pixels)
    trained.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    metrics = {"psnr_db": float(10 * torch.log10(4 / error)), "scaling_factor": trained.config.scaling_factor}
    print(metrics, flush=True)
    trained.save_pretrained(recipe.work / "vae")


def controlnet(recipe: ControlNetRecipe) -> None:
    """Train UNet and ControlNet together, and write the whole pipeline in diffusers' format."""
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    parsing = complete_parsing(faces, recipe.parser, recipe.work)
    autoencoder = AutoencoderKL.from_pretrained(recipe.work / "vae").to(recipe.device).requires_grad_(False).eval()
    models = nn.ModuleDict({"unet": build_unet(), "controlnet": build_controlnet()})
    models.to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scheduler = build_scheduler()
    samples = batches(ReferenceSamples(faces, parsing), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)

    def encode(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return autoencoder.encode(pixels).latent_dist.mean.float() * autoencoder.config.scaling_factor  # type: ignore[no-any-return]

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        sample = {name: value.to(recipe.device) for name, value in sample.items()}
        with mixed(recipe.device):
            predicted, clean = predict(models, scheduler, encode, sample)
        return change_loss(predicted.float(), clean, sample)

    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.rate, weight_decay=1e-3)
    averaged = fit(models, loss, samples, optimizer, recipe, "controlnet").to("cpu")
    metrics = measure(averaged, scheduler, autoencoder.to("cpu"), faces, parsing, recipe.measured)
    save(averaged, scheduler, autoencoder, recipe.out / "inpainter")
    write_report("inpainter", metrics, recipe.report(size=SIZE), recipe.out)


def change_loss(predicted: Tensor, clean: Tensor, sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """Error of B×4×S/2×S/2 latents, heaviest where a face is covered, and of their tone over larger areas."""
    covered = sample["alpha"] * sample["region"]
    thin = (0.1 / covered.mean(dim=(1, 2), keepdim=True).clamp(min=1e-3)).pow(0.75).clamp(1, 6)  # frames, too
    weight = 0.2 + 0.3 * sample["region"] + 3.0 * thin * covered + 0.3 * sample["alpha"]
    weight = weight * sample["inside"] + 0.02  # outside the photo nothing changes
    weight = F.interpolate(weight[:, None], clean.shape[-2:], mode="area")
    difference = predicted - clean
    tone = F.avg_pool2d(weight, 8) * F.avg_pool2d(difference, 8).abs()  # contrast is read off large areas
    return {"latents": (weight * (difference.abs() + 0.5 * difference.square())).mean(), "tone": tone.mean()}


def predict(
    models: nn.ModuleDict,
    scheduler: DDIMScheduler,
    encode: Encode,
    sample: dict[str, Tensor],
    *,
    last: bool = False,
) -> tuple[Tensor, Tensor]:
    """One denoising step of the whole net → (predicted clean latents, clean latents), B×4×S/2×S/2.

    What is denoised is the *change* of the photo's latents: zero wherever the photo stays as it is.
    """
    clean, hole = as_pixels(sample["clean"]), sample["hole"][:, None]
    photo = as_pixels(sample["photo"])
    latents, masked = encode(clean), encode(photo * (1 - hole))
    steps = scheduler.config.num_train_timesteps
    t = torch.full((len(clean),), steps - 1, device=clean.device)
    if not last:
        t = torch.where(torch.rand(len(clean), device=clean.device) < 0.1, torch.randint_like(t, steps), t)
    noisy = scheduler.add_noise(latents - masked, torch.randn_like(latents), t)
    condition = torch.cat([(as_pixels(sample["parse"]) + 1) / 2, (photo + 1) / 2], dim=1)
    text = latents.new_zeros(len(clean), 1, 8)
    down, middle = models["controlnet"](noisy, t, text, controlnet_cond=condition, return_dict=False)
    small_hole = F.interpolate(hole, latents.shape[-2:], mode="nearest")
    change = models["unet"](
        torch.cat([noisy, small_hole, masked], dim=1), t, text, down_block_additional_residuals=down,
        mid_block_additional_residual=middle, return_dict=False,
    )[0]  # fmt: skip
    return masked + change.float(), latents


@torch.no_grad()
def measure(
    models: nn.ModuleDict,
    scheduler: DDIMScheduler,
    autoencoder: AutoencoderKL,
    faces: Faces,
    parsing: NDArray[np.uint8],
    count: int,
) -> dict[str, float]:
    """Mean absolute error (0..255) on held-out faces under drawn occluders, covered and visible parts apart."""
    size = min(count, 16)
    samples = batches(ReferenceSamples(faces, parsing, held_out=True), size=size, seed=7, workers=0)

    def encode(pixels: Tensor) -> Tensor:
        return autoencoder.encode(pixels).latent_dist.mean * autoencoder.config.scaling_factor  # type: ignore[no-any-return]

    sums = dict.fromkeys(("covered", "covered_before", "visible"), 0.0)
    areas = dict.fromkeys(("covered", "visible"), 1e-6)
    for _ in range(-(-count // size)):
        sample = next(samples)
        predicted, _ = predict(models, scheduler, encode, sample, last=True)
        decoded = autoencoder.decode(predicted / autoencoder.config.scaling_factor).sample.clamp(-1, 1)
        clean = as_pixels(sample["clean"])
        error = (decoded - clean).abs().mean(1) * 127.5
        before = (as_pixels(sample["photo"]) - clean).abs().mean(1) * 127.5
        covered = sample["region"] * (sample["alpha"] > 0.5)
        visible = sample["region"] * (sample["alpha"] < 0.01)
        sums["covered"] += float((error * covered).sum())
        sums["covered_before"] += float((before * covered).sum())
        sums["visible"] += float((error * visible).sum())
        areas["covered"] += float(covered.sum())
        areas["visible"] += float(visible.sum())
    return {
        "error_covered": sums["covered"] / areas["covered"],
        "error_covered_before": sums["covered_before"] / areas["covered"],
        "error_visible": sums["visible"] / areas["visible"],
    }


def save(models: nn.ModuleDict, scheduler: DDIMScheduler, autoencoder: AutoencoderKL, folder: Path) -> None:
    """Write the pipeline in diffusers' folder format, float16 safetensors."""
    autoencoder.register_to_config(_name_or_path="vae")  # else it names the folder that it was read from
    pipeline = StableDiffusionControlNetInpaintPipeline(
        vae=autoencoder, text_encoder=None, tokenizer=None, unet=models["unet"], controlnet=models["controlnet"],
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    command_line(vae, controlnet)()
