"""Recipe of the embedded face parser: amodal, because the label under a pasted thing stays the face's own.

    python -m recipes.parser --data DIR --work DIR --minutes 15

With a ``--teacher``, the faces that nobody annotated are learnt from as well: their labels are what an earlier parser
says of the clean photo, while the net sees it under an occluder (self-training with a noisy student; Xie et al., arXiv
1911.04252).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.batches import as_pixels, batches
from recipes.faces import (
    SIZE,
    UNLABELLED,
    Faces,
    complete_parsing,
    crop,
    jitter,
    load_faces,
    outside_is_grey,
    relight,
    seen,
    worsened,
)
from recipes.occluders import NAMELESS, occlude
from recipes.parsing_net import ParsingNet
from recipes.recipe import Batch, Measured, Minutes, Rate, Seed, ShippedRecipe, command_line
from recipes.schedule import fit, mixed
from recipes.shipping import parser_script, write_weights
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.alignment import moved_landmarks
from s3pot_batch.stages.models.taxonomy import CELEBM

REGION = CELEBM.ids(CELEBM.face)
PARTS = [c for c in REGION if c not in CELEBM.ids(CELEBM.worn)]
"""Of the face itself."""


@dataclass(frozen=True, kw_only=True)
class ParserRecipe(ShippedRecipe):
    """How the parser is trained."""

    minutes: Minutes = 15.0
    batch: Batch = 16
    seed: Seed = 1
    rate: Rate = 2e-3
    measured: Measured = 256
    teacher: Annotated[
        Path | None, typer.Option(help="A parser's file, whose word on clean photos labels what nobody annotated.")
    ] = None


class ParserSamples:
    """Draws an annotated face with something pasted on most of them; the label is what lies underneath.

    Raises:
        ConfigError: no face of the training, or none that is held out, has been annotated.
    """

    def __init__(self, faces: Faces, *, held_out: bool = False, occluded: float = 0.85) -> None:
        labelled = (faces.parsing != UNLABELLED).all(axis=(1, 2))
        self.faces = faces
        self.indices = np.flatnonzero(labelled & (faces.held_out == held_out))
        if not len(self.indices):
            raise ConfigError("no annotated face to learn from; a --teacher labels the others")
        self.donors = np.flatnonzero(faces.held_out == held_out)
        self.occluded = occluded

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample: ``image`` S×S×3 uint8, ``labels`` S×S uint8, ``alpha`` S×S float32.

        A parser should see through what is pasted, but know glasses, hats and hair as what they are.
        """
        n, donor = rng.choice(self.indices), rng.choice(self.donors)
        matrix = jitter(rng, self.faces.images.shape[1], SIZE, amount=1.6)
        image, labels = crop(self.faces.images[n], self.faces.parsing[n], matrix, SIZE)
        points = moved_landmarks(self.faces.landmarks[n], matrix).astype(np.float32)
        inside = seen(rng, self.faces.valid[n], matrix, SIZE, points)
        alpha = np.zeros((SIZE, SIZE), np.float32)
        if rng.random() < self.occluded:
            other, _ = crop(self.faces.images[donor], self.faces.parsing[donor], matrix, SIZE)
            occluded = occlude(rng, image, other, points)
            image, alpha = occluded.image, occluded.alpha * inside
            labels = np.where(occluded.names == NAMELESS, labels, occluded.names)
        [image] = worsened(rng, relight(rng, image))
        labels = np.where(inside > 0.5, labels, np.uint8(0)).astype(np.uint8)
        return {"image": outside_is_grey(image, inside), "labels": labels, "alpha": alpha}


def parsing_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, the classes' soft Dice and M's soft IoU, of B×19×h×w logits against B×S×S labels."""
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    target = F.one_hot(labels.long(), len(CELEBM.classes)).permute(0, 3, 1, 2).float()
    probabilities = logits.softmax(1)
    overlap = (probabilities * target).sum((0, 2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum((0, 2, 3)) + target.sum((0, 2, 3)) + 1)
    face, true_face = (of_class[:, REGION].sum(1) for of_class in (probabilities, target))
    both = (face * true_face).sum((1, 2))
    region = 1 - both / ((face + true_face).sum((1, 2)) - both).clamp(min=1)
    return {
        "entropy": F.cross_entropy(logits, labels.long()), "dice": 0.5 * dice.mean(), "region": region.mean(),
    }  # fmt: skip


@torch.no_grad()
def measure(net: ParsingNet, faces: Faces, *, occluded: float, samples: int) -> dict[str, float]:
    """Mean F1 over the face's parts and IoU of the face region, on held-out faces."""
    draw, rng = ParserSamples(faces, held_out=True, occluded=occluded), np.random.default_rng(7)
    counts = np.zeros((len(CELEBM.classes), 3))
    region = np.zeros(2)
    for _ in range(samples):
        sample = draw(rng)
        predicted, _ = net(torch.from_numpy(sample["image"]).permute(2, 0, 1)[None] / 255)
        found, truth = predicted.argmax(1)[0].numpy(), sample["labels"]
        for c in PARTS:
            counts[c] += [(found == c)[truth == c].sum(), (found == c).sum(), (truth == c).sum()]
        inside = CELEBM.where(found, CELEBM.face), CELEBM.where(truth, CELEBM.face)
        region += [(inside[0] & inside[1]).sum(), (inside[0] | inside[1]).sum()]
    return {"mean_f1": mean_f1(counts), "region_iou": float(region[0] / region[1])}


def mean_f1(counts: NDArray[np.float64]) -> float:
    """Mean F1 of the face's parts from 19×3 pixel counts: right, found, true; a part that nobody drew has none."""
    parts = counts[[c for c in PARTS if counts[c, 1:].any()]]
    return float((2 * parts[:, 0] / parts[:, 1:].sum(1)).mean())


def train(recipe: ParserRecipe) -> None:
    """Train the parser, from an earlier training's checkpoint if given, and write its TorchScript file and metrics."""
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    taught = faces
    if recipe.teacher:
        taught = replace(faces, parsing=complete_parsing(faces, recipe.teacher, recipe.work))
    net = ParsingNet().to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    models = nn.ModuleDict({"parser": net})
    samples = batches(ParserSamples(taught), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        with mixed(recipe.device):
            logits = net.logits(as_pixels(sample["image"].to(recipe.device)))
        return parsing_loss(logits, sample["labels"].to(recipe.device))

    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.rate, weight_decay=1e-2)
    best = fit(models, loss, samples, optimizer, recipe, "parser")["parser"].to("cpu")
    assert isinstance(best, ParsingNet)
    metrics = {
        "clean": measure(best, faces, occluded=0.0, samples=recipe.measured),
        "occluded": measure(best, faces, occluded=1.0, samples=recipe.measured),
    }
    report = recipe.report(taught=recipe.teacher is not None)
    write_weights("parser", parser_script(best), metrics, report, recipe.out)


if __name__ == "__main__":
    command_line(train)()
