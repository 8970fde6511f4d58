"""Recipe of the embedded refiner: which pixels of M are hidden, by photo, reference and the decoder's answer.

    python -m recipes.refiner --data DIR --work DIR --samples DIR --minutes 60

Samples are those of ``recipes.refiner_samples``: drawn things before training faces, and what the embedded profile
makes of them. No mask of a real occlusion is among them. The decoder's answer is blurred, weakened and patched over now
and then, so that the network does not lean on it where the pictures say otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.batches import batches
from recipes.faces import relight
from recipes.recipe import Batch, Measured, Minutes, Rate, Seed, ShippedRecipe, command_line
from recipes.refiner_samples import FRAME
from recipes.schedule import fit, mixed
from recipes.shipping import half, write_report
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.edges import cut_along_edges
from s3pot_batch.stages.models.protocols import Decision
from s3pot_batch.stages.models.refiners.unet import as_input, logits, untrained

PIECE = (176, 144)
"""Rows and columns of what it sees of a face at a time: M is about so large, and what lies outside teaches nothing."""


@dataclass(frozen=True, kw_only=True)
class RefinerRecipe(ShippedRecipe):
    """How the refiner is trained."""

    minutes: Minutes = 60.0
    batch: Batch = 8
    seed: Seed = 9
    rate: Rate = 1e-3
    measured: Measured = 100
    samples: Annotated[Path, typer.Option(help="The folder that recipes.refiner_samples wrote.")]


class Samples:
    """What lies in the files of a folder, all in memory."""

    def __init__(self, folder: Path, *, held_out: bool = False) -> None:
        paths = sorted(folder.glob("held-*.npz" if held_out else "train-*.npz"))
        if not paths:
            raise ConfigError(f"{folder}: no samples; draw them with: python -m recipes.refiner_samples")
        stored = [np.load(path) for path in paths]
        self.arrays = {name: np.concatenate([one[name] for one in stored]) for name in stored[0].files}

    def __len__(self) -> int:
        return len(self.arrays["alpha"])

    def decision(self, n: int) -> Decision:
        """The n-th face, as the pipeline sees it."""
        photo, reference, region, occlusion = (
            self.arrays[name][n] for name in ("photo", "reference", "region", "occlusion")
        )
        return Decision(photo, reference, region, occlusion / np.float32(255))

    def truth(self, n: int) -> NDArray[np.float32]:
        """S×S in 0..1, where the thing is."""
        return np.asarray(self.arrays["alpha"][n] / np.float32(255), np.float32)

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One of them, changed at random: ``seen`` channels×S×S, ``truth`` and ``region`` S×S."""
        n, flip = int(rng.integers(len(self))), rng.random() < 0.5
        rows, columns = piece(rng, self.arrays["region"][n])
        photo, reference, region, occlusion, alpha = (
            self.arrays[name][n][rows, columns][:, :: -1 if flip else 1]
            for name in ("photo", "reference", "region", "occlusion", "alpha")
        )
        if rng.random() < 0.5:
            photo, reference = np.split(relight(rng, np.concatenate([photo, reference])), 2)
        seen = as_input(Decision(photo, reference, region, doubted(rng, occlusion / np.float32(255), region)))
        return {"seen": seen, "truth": alpha / np.float32(255), "region": region.astype(np.float32)}


def piece(rng: np.random.Generator, region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a window of ``PIECE`` that lies over M: as much of it as there is room for."""
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))

    def laid(first: int, covered: int, length: int) -> slice:
        low, high = sorted((first, first + covered - length))
        start = int(np.clip(rng.integers(low, high + 1), 0, FRAME - length))
        return slice(start, start + length)

    return laid(y, height, PIECE[0]), laid(x, width, PIECE[1])


def doubted(rng: np.random.Generator, occlusion: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A decoder's answer, S×S, at times less sure or more, and at times wrong in patches."""
    p = occlusion.clip(1e-4, 1 - 1e-4)
    if rng.random() < 0.5:
        p = 1 / (1 + np.exp(-np.log(p / (1 - p)) * np.exp(rng.normal(0, 0.4)) - rng.normal(0, 0.5)))
    if rng.random() < 0.3:
        centre, radius = rng.uniform(0, 1, 2) * p.shape, FRAME * rng.uniform(0.03, 0.12)
        y, x = np.mgrid[: p.shape[0], : p.shape[1]]
        patch = np.hypot(y - centre[0], x - centre[1]) < radius
        blended = np.where(patch, rng.uniform(0, 1), p)
        p = cv2.GaussianBlur(blended.astype(np.float32), (0, 0), 3.0)
    return np.asarray(p * region, np.float32)


def refiner_loss(found: Tensor, truth: Tensor, region: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and soft IoU of B×S×S logits, inside M alone."""
    entropy = F.binary_cross_entropy_with_logits(found, truth, reduction="none")
    p, there = found.sigmoid() * region, truth * region
    both = (p * there).sum((1, 2))
    overlap = (both + 20) / (p.sum((1, 2)) + there.sum((1, 2)) - both + 20)
    return {"entropy": 3 * (entropy * region).sum() / region.sum().clamp(min=1), "overlap": (1 - overlap).mean()}


@torch.no_grad()
def measure(net: nn.Module, samples: Samples, count: int) -> dict[str, float]:
    """Mean IoU inside M on held-out faces, of refiner, decoder and GrabCut, and what each marks of bare ones."""
    scores: dict[str, list[float]] = {}
    for n in range(min(count, len(samples))):
        one, truth = samples.decision(n), samples.truth(n) > 0.5
        seen = torch.from_numpy(as_input(one))[None]
        masks = {
            "refiner": logits(net, seen)[0].numpy() > 0,
            "decoder": one.occlusion > 0.5,
            "grabcut": cut_along_edges(one.photo, one.reference, one.region, one.occlusion, 0.5) > 0.5,
        }
        there = truth & one.region
        for name, mask in masks.items():
            hidden = mask & one.region
            if there.any():
                value = (hidden & there).sum() / (hidden | there).sum()
                scores.setdefault(f"iou_{name}", []).append(float(value))
            elif one.region.any():
                scores.setdefault(f"bare_marked_{name}", []).append(float(hidden.sum() / one.region.sum()))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def train(recipe: RefinerRecipe) -> None:
    """Train the refiner and write its folder and its report."""
    torch.manual_seed(recipe.seed)
    samples = Samples(recipe.samples)
    net = untrained().to(recipe.device, memory_format=torch.channels_last)
    models = nn.ModuleDict({"refiner": net})

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        on_device = {name: value.to(recipe.device) for name, value in sample.items()}
        with mixed(recipe.device):
            found = logits(net, on_device["seen"])
        return refiner_loss(found.float(), on_device["truth"], on_device["region"])

    drawn = batches(samples, size=recipe.batch, seed=recipe.seed, workers=recipe.workers)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-3)
    best = fit(models, loss, drawn, optimizer, recipe, "refiner")["refiner"].to("cpu")
    best.load_state_dict(half(best))
    metrics = measure(best, Samples(recipe.samples, held_out=True), recipe.measured)
    best.half().save_pretrained(recipe.out / "refiner")  # type: ignore[operator]
    write_report("refiner", metrics, recipe.report(samples=len(samples)), recipe.out)


if __name__ == "__main__":
    command_line(train)()
