"""Recipe of the embedded face detector: faces of all sizes pasted into drawn scenes, many of them partly covered.

python -m recipes.detector --data DIR --work DIR --minutes 8
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.batches import as_pixels, batches
from recipes.faces import Faces, load_faces, relight
from recipes.occluders import backdrop, occlude
from recipes.recipe import Batch, Measured, Minutes, Rate, Seed, ShippedRecipe, command_line
from recipes.schedule import fit
from recipes.shipping import half, write_weights
from s3pot_batch.stages.method.alignment import moved_landmarks
from s3pot_batch.stages.models.detectors.heatmap import STRIDE, UNIT, DetectionNet

SIZE = 192
CELLS = SIZE // STRIDE


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe(ShippedRecipe):
    """How the detector is trained."""

    minutes: Minutes = 8.0
    batch: Batch = 16
    seed: Seed = 4
    rate: Rate = 2e-3
    measured: Measured = 192


class Scene:
    """A scene of side S that faces are pasted on, and what the detector should say of it on the S/4 grid."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = image
        self.taken = np.zeros((SIZE, SIZE), bool)
        self.heat = np.zeros((CELLS, CELLS), np.float32)
        self.near = np.zeros((CELLS, CELLS), np.float32)
        self.distances = np.zeros((14, CELLS, CELLS), np.float32)

    def paste(
        self, photo: NDArray[np.uint8], frame: NDArray[np.float32], outline: NDArray[np.int64],
        landmarks: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Paste a face, unless little of it is in the scene or another face is in its place.

        Args:
            photo: S×S×3, drawn where the face is to be.
            frame: S×S, the photo's opacity.
            outline: N×2 (x, y), the pixels of the face.
            landmarks: 5×2.
        """
        solid = frame > 0.3
        if len(outline) < 60 or self.taken[solid].mean() > 0.1:
            return
        self.image = (self.image * (1 - frame[..., None]) + photo * frame[..., None]).astype(np.uint8)
        self.taken |= solid
        (x0, y0), (x1, y1) = outline.min(0).tolist(), outline.max(0).tolist()
        centre = np.array([x0 + x1, y0 + y1]) / 2
        spread = max((x1 - x0) * 0.08, 2.0) / STRIDE
        y, x = np.mgrid[:CELLS, :CELLS]
        distance = ((x + 0.5 - centre[0] / STRIDE) ** 2 + (y + 0.5 - centre[1] / STRIDE) ** 2) / (2 * spread**2)
        self.heat[:] = np.maximum(self.heat, np.exp(-distance))
        here = distance < 1
        cell = (np.stack([x, y]) + 0.5) * STRIDE
        sides = np.stack([cell[0] - x0, cell[1] - y0, x1 - cell[0], y1 - cell[1]])
        offsets = (landmarks[:, :, None, None] - cell).reshape(10, CELLS, CELLS)
        self.distances[:, here] = (np.concatenate([sides, offsets]) / UNIT)[:, here]
        self.near[here] = UNIT / max(x1 - x0, 8)


class Scenes:
    """Draws a scene with up to four faces; targets on the S/4 grid."""

    def __init__(self, faces: Faces, *, held_out: bool = False) -> None:
        self.faces = faces
        self.indices = np.flatnonzero(faces.held_out == held_out)

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``image`` S×S×3 uint8, ``heat`` S/4×S/4, ``distances`` 14×S/4×S/4, ``near`` S/4×S/4 float32."""
        behind = rng.choice(self.indices)
        scene = Scene(backdrop(rng, self.faces.images[behind], self.faces.landmarks[behind], SIZE))
        count = int(rng.choice([0, 1, 2, 4], p=[0.06, 0.6, 0.2, 0.14]))
        for _ in range(count):
            self._paste(rng, scene, largest=1.9 if count == 1 else 0.75)
        image = relight(rng, scene.image)
        return {"image": image, "heat": scene.heat, "distances": scene.distances, "near": scene.near}

    def _paste(self, rng: np.random.Generator, scene: Scene, *, largest: float) -> None:
        """Paste a face with up to two things on it, turned, mirrored and scaled to at most ``largest`` of the scene."""
        n, donor = rng.choice(self.indices, 2)
        photo, side = self.faces.images[n], self.faces.images.shape[1]
        for _ in range(int(rng.choice(3, p=[0.35, 0.4, 0.25]))):
            photo = occlude(rng, photo, self.faces.images[donor], self.faces.landmarks[n]).image
        scale = SIZE / side * float(np.exp(rng.uniform(np.log(0.22), np.log(largest))))
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.normal(0, 11)), scale)
        reach = max(SIZE - side * scale, 0) / 2 + 0.08 * SIZE
        turn[:, 2] += SIZE / 2 - side / 2 + rng.uniform(-reach, reach, 2)
        if rng.random() < 0.5:
            turn = turn @ np.array([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]])
        outline = np.argwhere(cv2.warpAffine(self.faces.ovals[n], turn, (SIZE, SIZE)) > 0)[:, ::-1]
        scene.paste(
            np.asarray(cv2.warpAffine(photo, turn, (SIZE, SIZE), flags=cv2.INTER_AREA), np.uint8),
            np.asarray(cv2.warpAffine(_frame(rng, side), turn, (SIZE, SIZE)), np.float32),
            outline, moved_landmarks(self.faces.landmarks[n], turn),
        )  # fmt: skip


def _frame(rng: np.random.Generator, side: int) -> np.ndarray:
    """Opacity of a pasted photo: its whole rectangle, or an oval, with a soft edge."""
    frame = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        edge = int(rng.integers(0, side // 10))
        frame[edge : side - edge, edge : side - edge] = 1
    else:
        axes = (int(side * rng.uniform(0.36, 0.5)), int(side * rng.uniform(0.44, 0.5)))
        cv2.ellipse(frame, (side // 2, side // 2), axes, 0, 0, 360, 1, -1)
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), float(rng.uniform(0.5, 5))), np.float32)


def detection_loss(out: Tensor, sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """CenterNet's focal loss of the heat and an L1 loss of the distances, relative to the face's width."""
    logit, heat = out[:, 0], sample["heat"]
    p = logit.sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = (heat > 0.85).float()
    focal = -(peak * (1 - p) ** 2 * p.log() + (1 - peak) * (1 - heat) ** 4 * p**2 * (1 - p).log())
    near = sample["near"][:, None]
    distance = (near * (out[:, 1:] - sample["distances"]).abs()).sum() / (14 * (near > 0).sum().clamp(min=1))
    return {"heat": focal.sum() / peak.sum().clamp(min=1), "distance": 6 * distance}


@torch.no_grad()
def measure(net: DetectionNet, faces: Faces, scenes: int) -> dict[str, float]:
    """Recall at the centres of held-out faces, false peaks per scene, landmark error relative to the eyes' distance."""
    samples = batches(Scenes(faces, held_out=True), size=min(scenes, 32), seed=7, workers=0)
    found = total = false = 0
    errors: list[float] = []
    for _ in range(-(-scenes // 32)):
        sample = next(samples)
        out = net(as_pixels(sample["image"]))
        p = out[:, 0].sigmoid()
        peaks = (p == F.max_pool2d(p[:, None], 5, 1, 2)[:, 0]) & (p > 0.4)
        inside = sample["heat"] > 0.3
        false += int((peaks & ~inside).sum())
        centres = (sample["heat"] == F.max_pool2d(sample["heat"][:, None], 5, 1, 2)[:, 0]) & inside
        total += int(centres.sum())
        for b, y, x in centres.nonzero().tolist():
            window = p[b, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
            if float(window.max()) > 0.4:
                found += 1
                truth = sample["distances"][b, 4:, y, x].reshape(5, 2)
                error = (out[b, 5:, y, x].reshape(5, 2) - truth).norm(dim=1).mean()
                errors.append(float(error / (truth[1] - truth[0]).norm().clamp(min=0.05)))
    metrics = {"recall": found / max(total, 1), "false_per_scene": false / scenes}
    return metrics | ({"landmark_error": float(np.median(errors))} if errors else {})


def train(recipe: DetectorRecipe) -> None:
    """Train the detector, from a checkpoint of an earlier training if given, and write its weights and metrics."""
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    net = DetectionNet().to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    models = nn.ModuleDict({"detector": net})
    samples = batches(Scenes(faces), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(recipe.device, torch.bfloat16):
            out = net(as_pixels(sample["image"].to(recipe.device)))
        return detection_loss(out.float(), {name: value.to(recipe.device) for name, value in sample.items()})

    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.rate, weight_decay=1e-2)
    best = fit(models, loss, samples, optimizer, recipe, "detector")["detector"].to("cpu")
    assert isinstance(best, DetectionNet)
    metrics = measure(best, faces, recipe.measured)
    write_weights("detector", half(best), metrics, recipe.report(), recipe.out)


if __name__ == "__main__":
    command_line(train)()
