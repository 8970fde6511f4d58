"""What the embedded refiner learns from: the pipeline's own view of faces with drawn things in front, and their truth.

    python -m recipes.refiner_samples --data DIR --work DIR --out DIR --count 1000 --seed 1

Detector aside, each sample goes the way of a photo: it is parsed, its reference is drawn, and the segmenter decodes it.
Samples of several seeds may be drawn side by side into one folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from recipes.faces import (
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
from recipes.occluders import occlude
from recipes.recipe import Data, Device, Seed, Work, command_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.stages.method.alignment import AlignedFace, Alignment, moved_landmarks
from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.masks import decode_pairs
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.stage_one import StageOne
from s3pot_batch.stages.models.checkpoints import EMBEDDED as WEIGHTS
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.protocols import Detection
from s3pot_batch.stages.models.registry import Models

FRAME = 256
SOURCE = 288
"""Side of the cached faces: a frame and its margin, so that faces are as sharp as the things before them."""
BARE = 0.25
"""Share of the samples with nothing in front."""
TOGETHER = 20
"""Samples in one file, which go through the models as one batch."""


@dataclass(frozen=True)
class Drawn:
    """A face in its frame of side S, ``landmarks`` 5×2 in it, and ``alpha`` S×S in 0..1, where a thing is."""

    image: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    landmarks: NDArray[np.float64]
    alpha: NDArray[np.float32]


class OccludedFaces:
    """Draws faces with things in front, turned, moved, mirrored, lit anew, and as worse cameras give them."""

    def __init__(self, faces: Faces, indices: NDArray[np.intp]) -> None:
        self.faces = faces
        self.indices = indices

    def __call__(self, rng: np.random.Generator) -> Drawn:
        """One of them."""
        faces, side = self.faces, self.faces.images.shape[1]
        n, donor = rng.choice(self.indices, 2)
        matrix = jitter(rng, side, FRAME, 0.7)
        image, _ = crop(faces.images[n], faces.parsing[n], matrix, FRAME)
        points = moved_landmarks(faces.landmarks[n], matrix)
        inside = seen(rng, faces.valid[n], matrix, FRAME, points.astype(np.float32))
        alpha = np.zeros((FRAME, FRAME), np.float32)
        if rng.random() >= BARE:
            other, _ = crop(faces.images[donor], faces.parsing[donor], matrix, FRAME)
            occluded = occlude(rng, image, other, points.astype(np.float32))
            image, alpha = occluded.image, occluded.alpha
        [image] = worsened(rng, relight(rng, image))
        return Drawn(outside_is_grey(image, inside), inside > 0.99, points, alpha)


class Pipeline:
    """The embedded profile from an aligned face on."""

    def __init__(self, device: str = "cpu") -> None:
        models = Models(EMBEDDED, device)
        self.stage_one = StageOne(models, EMBEDDED.settings)
        self.network = S3POT(models.segmenter, models.adapter, EMBEDDED.settings.segments)

    def __call__(self, drawn: Sequence[Drawn], first: int) -> list[dict[str, np.ndarray]]:
        """A sample of each, numbered from ``first`` on.

        ``photo`` and ``reference`` S×S×3; ``region`` S×S; ``occlusion`` and ``alpha``, what was decoded and what is
        true, S×S in 0..255.
        """
        identity = Alignment(np.eye(2, 3), FRAME)
        faces = [
            AlignedFace(Detection((0.0, 0.0, FRAME, FRAME), 1.0, one.landmarks), identity, one.image, one.inside)
            for one in drawn
        ]
        seen = [
            ParsedFace(face, parsed) for face, parsed in zip(faces, self.stage_one.parser.parse(faces), strict=True)
        ]
        found = self.stage_one.refer(seen, [("sample", first + n) for n in range(len(seen))])
        decoded = decode_pairs(self.network, [one.pair for one in found])
        return [
            {"photo": one.image, "reference": face.reference, "region": face.parsed.region,
             "occlusion": as_bytes(answer.occlusion), "alpha": as_bytes(one.alpha)}
            for one, face, answer in zip(drawn, found, decoded, strict=True)
        ]  # fmt: skip


def as_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 → 0..255."""
    return np.asarray((values * 255).round().clip(0, 255), np.uint8)


def write_samples(path: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Write samples to one file, as arrays of all of them."""
    with replacing(path) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{name: np.stack([one[name] for one in samples]) for name in samples[0]})


@dataclass(frozen=True, kw_only=True)
class SamplesRecipe:
    """What samples are drawn."""

    data: Data
    work: Work
    out: Annotated[Path, typer.Option(help="Where the samples go.")]
    count: Annotated[int, typer.Option(help="How many, a multiple of 20.")] = 1000
    seed: Seed = 1
    device: Device = "cpu"
    held_out: Annotated[bool, typer.Option(help="Of the faces that nothing is trained on.")] = False


def draw(recipe: SamplesRecipe) -> None:
    """Write samples, many to a file; those of this seed that are there are kept."""
    torch.set_num_threads(1)
    coarse = load_faces(recipe.data, recipe.work)
    parsing = complete_parsing(coarse, WEIGHTS / "parser.pt", recipe.work)
    bare = bare_faces(coarse, parsing, held_out=recipe.held_out)
    one, pipeline = OccludedFaces(load_faces(recipe.data, recipe.work, SOURCE), bare), Pipeline(recipe.device)
    for start in range(0, recipe.count, TOGETHER):
        path = recipe.out / f"{'held' if recipe.held_out else 'train'}-{recipe.seed}-{start:05d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([recipe.seed, start])
        write_samples(path, pipeline([one(rng) for _ in range(TOGETHER)], start))
        print(path, flush=True)


if __name__ == "__main__":
    command_line(draw)()
