"""Recipe of the embedded face parser: amodal, because the label under a pasted thing stays the face's own.

    python -m stages.embedded.train_parser --data DIR --work DIR --minutes 15

With a ``--teacher``, the faces that nobody annotated are learnt from as well: their labels are what an earlier parser
says of the clean photo, while the net sees it under an occluder (self-training with a noisy student; Xie et al., arXiv
1911.04252).
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stages.commandline import run
from stages.embedded.batches import as_pixels, batches
from stages.embedded.faces import UNLABELLED, Faces, complete_parsing, crop, jitter, load_faces, relight
from stages.embedded.occluders import occlude
from stages.embedded.schedule import fit
from stages.embedded.weights import parser_script, write_weights
from stages.errors import ConfigError
from stages.models.palette import CLASSES
from stages.models.parsing_net import ParsingNet

SIZE = 128
FACE_PARTS = [2, 6, 7, 8, 9, 10, 11, 12, 13]
FACE_REGION = [*FACE_PARTS, 15]


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
        """One sample: ``image`` S×S×3 uint8, ``labels`` S×S uint8, ``alpha`` S×S float32."""
        n, donor = rng.choice(self.indices), rng.choice(self.donors)
        matrix = jitter(rng, self.faces.images.shape[1], SIZE, amount=1.6)
        image, labels = crop(self.faces.images[n], self.faces.parsing[n], matrix, SIZE)
        alpha = np.zeros((SIZE, SIZE), np.float32)
        if rng.random() < self.occluded:
            other, _ = crop(self.faces.images[donor], self.faces.parsing[donor], matrix, SIZE)
            points = (self.faces.landmarks[n] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
            if np.linalg.det(matrix[:, :2]) < 0:
                points = points[[1, 0, 2, 4, 3]]
            occluded = occlude(rng, image, other, points)
            image, alpha = occluded.image, occluded.alpha
        image = relight(rng, image)
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)))
        return {"image": image, "labels": labels, "alpha": alpha}


def parsing_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, the classes' soft Dice and M's soft IoU, of B×19×h×w logits against B×S×S labels."""
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    target = F.one_hot(labels.long(), len(CLASSES)).permute(0, 3, 1, 2).float()
    probabilities = logits.softmax(1)
    overlap = (probabilities * target).sum((0, 2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum((0, 2, 3)) + target.sum((0, 2, 3)) + 1)
    face, true_face = (of_class[:, FACE_REGION].sum(1) for of_class in (probabilities, target))
    both = (face * true_face).sum((1, 2))
    region = 1 - both / ((face + true_face).sum((1, 2)) - both).clamp(min=1)
    return {
        "entropy": F.cross_entropy(logits, labels.long()), "dice": 0.5 * dice.mean(), "region": region.mean(),
    }  # fmt: skip


@torch.no_grad()
def measure(net: ParsingNet, faces: Faces, *, occluded: float, samples: int) -> dict[str, float]:
    """Mean F1 over the face's parts and IoU of the face region, on held-out faces."""
    draw, rng = ParserSamples(faces, held_out=True, occluded=occluded), np.random.default_rng(7)
    counts = np.zeros((len(CLASSES), 3))
    region = np.zeros(2)
    for _ in range(samples):
        sample = draw(rng)
        predicted, _ = net(torch.from_numpy(sample["image"]).permute(2, 0, 1)[None] / 255)
        found, truth = predicted.argmax(1)[0].numpy(), sample["labels"]
        for c in FACE_PARTS:
            counts[c] += [(found == c)[truth == c].sum(), (found == c).sum(), (truth == c).sum()]
        inside = np.isin(found, FACE_REGION), np.isin(truth, FACE_REGION)
        region += [(inside[0] & inside[1]).sum(), (inside[0] | inside[1]).sum()]
    return {"mean_f1": mean_f1(counts), "region_iou": float(region[0] / region[1])}


def mean_f1(counts: NDArray[np.float64]) -> float:
    """Mean F1 of the face's parts from 19×3 pixel counts: right, found, true; a part that nobody drew has none."""
    parts = counts[[c for c in FACE_PARTS if counts[c, 1:].any()]]
    return float((2 * parts[:, 0] / parts[:, 1:].sum(1)).mean())


def main(
    data: Path,
    work: Path,
    out: Path | None = None,
    minutes: float = 15.0,
    steps: int = 100_000,
    batch: int = 16,
    seed: int = 1,
    device: str = "cpu",
    rate: float = 2e-3,
    start: Path | None = None,
    teacher: Path | None = None,
    measured: int = 256,
    workers: int = 1,
) -> None:
    """Train the parser, from an earlier training's checkpoint if given, and write its TorchScript file and metrics."""
    torch.manual_seed(seed)
    faces = load_faces(data, work)
    taught = replace(faces, parsing=complete_parsing(faces, teacher, work)) if teacher else faces
    net = ParsingNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    models = nn.ModuleDict({"parser": net})
    samples = batches(ParserSamples(taught), size=batch, seed=seed, workers=workers)

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(device, torch.bfloat16):
            logits = net.logits(as_pixels(sample["image"].to(device)))
        return parsing_loss(logits, sample["labels"].to(device))

    optimizer = torch.optim.AdamW(models.parameters(), lr=rate, weight_decay=1e-2)
    averaged = fit(
        models, loss, samples, optimizer, minutes=minutes, steps=steps, log=work / "parser.jsonl", start=start
    )
    best = averaged["parser"].to("cpu")
    assert isinstance(best, ParsingNet)
    metrics = {
        "clean": measure(best, faces, occluded=0.0, samples=measured),
        "occluded": measure(best, faces, occluded=1.0, samples=measured),
    }
    recipe = {"seed": seed, "minutes": minutes, "batch": batch, "rate": rate, "taught": teacher is not None}
    write_weights("parser", parser_script(best), metrics, recipe, out)


if __name__ == "__main__":
    run(main)
