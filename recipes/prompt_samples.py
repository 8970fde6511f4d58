"""What the embedded segmenter learns from: photos, masks in them, and prompts that err as a matching errs."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.faces import SIZE, Faces, bare_faces, crop, jitter, outside_is_grey, relight, seen, worsened
from recipes.occluders import occlude
from s3pot_batch.stages.method.alignment import moved_landmarks
from s3pot_batch.stages.models.taxonomy import CELEBM

FINE = 2 * SIZE
"""Side at which samples are drawn and masks are judged: that of SAM's masks, so that edges and thin frames count."""
PROMPTS = 3
POINTS = 24
GRID = 64
DENSE = 128
"""Most points of a prompt that covers a face; a face has about ten times as many tokens, and attention is dear."""
PARTS = (
    ("hair",), ("eyeg",), ("nose",), CELEBM.mouth, ("rb", "lb"), ("re", "le"), ("neck",), ("cloth",), ("llip",),
    ("ulip",), ("rb",), ("lb",), ("re",), ("le",), ("rr", "lr"),
)  # fmt: skip
"""What is asked for beside the face and things."""


class PromptSamples:
    """Draws a photo, ``PROMPTS`` masks in it, and points and a box for each."""

    def __init__(
        self, faces: Faces, parsing: NDArray[np.uint8], *, held_out: bool = False, single: bool = False,
        dense: float = 0.5,
    ) -> None:  # fmt: skip
        self.faces = faces
        self.parsing = parsing
        self.indices = bare_faces(faces, parsing, held_out=held_out)
        self.single = single
        self.dense = 0.0 if single else dense

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample of K prompts with P points each.

        ``image``, ``reference`` S×S×3 uint8; ``same`` T×T, 1 where both show the same, 0 where they do not, −1 on the
        border; ``parsing``, ``thing`` S×S; ``masks`` K×2S×2S; ``points`` K×P×2 (x, y) and ``boxes`` K×4 in the image's
        pixels; ``labels`` K×P (−1 pads); ``hints`` K×T×T, how surely each token of the face is wanted, −1..1, or zeros.
        """
        n, donor = rng.choice(self.indices, 2)
        matrix = jitter(rng, self.faces.images.shape[1], FINE)
        clean, parts = crop(self.faces.images[n], self.parsing[n], matrix, FINE)
        other, _ = crop(self.faces.images[donor], self.parsing[donor], matrix, FINE)
        points = moved_landmarks(self.faces.landmarks[n], matrix).astype(np.float32)
        inside = seen(rng, self.faces.valid[n], matrix, FINE, points)
        parts = np.where(inside > 0.5, parts, np.uint8(0)).astype(np.uint8)
        thing = np.zeros((FINE, FINE), bool)
        image = clean
        if rng.random() < 0.9:
            occluded = occlude(rng, clean, other, points)
            image, thing = occluded.image, (occluded.alpha > 0.5) & (inside > 0.5)
        masks = self._targets(rng, parts, thing, inside > 0.5)
        hints = np.zeros((PROMPTS, GRID, GRID), np.float32)
        if rng.random() < self.dense:
            cells, hinted = self._cells(parts), rng.random() < 0.7
            prompts = []
            for k, mask in enumerate(masks):
                sure, pointed = self._matched(rng, mask, cells)
                masks[k] = mask if pointed else np.zeros_like(mask)
                prompts.append(dense_prompt(rng, cells, (sure > 0).astype(np.float32), masks[k]))
                if hinted:
                    x, y = cells.astype(int).T // (FINE // GRID)
                    hints[k, y, x] = sure
        else:
            prompts = [self._prompt(rng, mask) for mask in masks]
        lit = relight(rng, np.concatenate([image, clean]))  # one light for both
        image, clean = worsened(rng, lit[:FINE], lit[FINE:])
        reference, differs = regenerated(rng, clean, other), thing
        if rng.random() < 0.4:
            pasted = occlude(rng, reference, other, points)
            reference, differs = pasted.image, differs | ((pasted.alpha > 0.5) & (inside > 0.5))
        image, reference = outside_is_grey(image, inside), outside_is_grey(reference, inside)
        step = FINE // SIZE
        return {"image": shrunk(image), "reference": shrunk(reference), "same": agreement(differs),
                "parsing": np.ascontiguousarray(parts[::step, ::step]), "thing": shrunk(thing.astype(np.float32)) > 0.5,
                "hints": hints, "masks": np.stack(masks).astype(np.float32),
                "points": np.stack([p[0] for p in prompts]) / step, "labels": np.stack([p[1] for p in prompts]),
                "boxes": np.stack([p[2] for p in prompts]) / step}  # fmt: skip

    def _targets(
        self, rng: np.random.Generator, parts: NDArray[np.uint8], thing: NDArray[np.bool_], inside: NDArray[np.bool_]
    ) -> list[NDArray[np.bool_]]:
        within = CELEBM.where(parts, CELEBM.face)
        face = within & ~thing
        choices = [CELEBM.where(parts, names) & ~thing for names in PARTS]
        choices = [mask for mask in choices if mask.sum() > 120] or [inside & ~thing]
        face = face if face.sum() > 240 else ~thing & inside
        targets = [thing if thing.sum() > 80 else face]
        if self.single or rng.random() < 0.5:
            targets.append(face)
        while len(targets) < PROMPTS:
            covering = thing & within  # what of a thing lies in the face is a thing of its own
            pick = int(rng.integers(len(choices) + 2))
            targets.append(choices[pick] if pick < len(choices) else covering if covering.sum() > 80 else targets[0])
        return targets

    def _prompt(
        self, rng: np.random.Generator, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        points, labels = np.zeros((DENSE, 2), np.float32), np.full(DENSE, -1, np.float32)
        wanted = refused = 1
        if not self.single and rng.random() < 0.5:
            wanted = int(np.exp(rng.uniform(0, np.log(POINTS * 0.6))))
            refused = int(rng.integers(0, POINTS - wanted + 1) if rng.random() < 0.3 else rng.integers(0, 4))
        edge = cv2.dilate(mask.astype(np.uint8), np.ones((31, 31), np.uint8)).astype(bool) & ~mask
        outside = edge if rng.random() < 0.7 and edge.any() else ~mask
        at = 0
        for area, count, label in ((mask, wanted, 1), (outside, refused, 0)):
            cells = np.argwhere(area)
            if len(cells) and count:
                chosen = cells[rng.integers(len(cells), size=count)]
                points[at : at + count], labels[at : at + count] = chosen[:, ::-1] + 0.5, label
                at += count
        if not self.single and wanted + refused > 6 and rng.random() < 0.5:  # a matching is never all right
            wrong = rng.random(DENSE) < 0.06
            labels = np.where(wrong & (labels >= 0), 1 - labels, labels).astype(np.float32)
        return points, labels, bounds(mask)

    def _cells(self, parts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P×2 (x, y) centres of the grid's cells inside the face."""
        stride = FINE // GRID
        sampled = parts[stride // 2 :: stride, stride // 2 :: stride]
        rows, columns = np.nonzero(CELEBM.where(sampled, CELEBM.face))
        return (np.stack([columns, rows], 1).astype(np.float32) + np.float32(0.5)) * stride

    def _matched(
        self, rng: np.random.Generator, mask: NDArray[np.bool_], cells: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool]:
        """How surely each of P cells is wanted, −1..1, as a matching would say, and whether it points at the mask."""
        moved = np.roll(mask, rng.integers(-4, 5, 2), (0, 1)) if rng.random() < 0.5 else mask
        share = cv2.resize(moved.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
        x, y = cells.astype(int).T // (FINE // GRID)
        threshold = rng.uniform(0.1, 0.8)
        sure = np.tanh(rng.uniform(2.5, 8) * (share[y, x] - threshold))
        pointed = bool((share[y, x] > threshold).any())
        for _ in range(int(rng.integers(0, 4))):  # matching errs in patches
            centre = cells[rng.integers(len(cells))]
            patch = np.hypot(*(cells - centre).T) < FINE * rng.uniform(0.02, 0.1)
            sure = np.where(patch, rng.uniform(-1, 1), sure)
        flipped = rng.random(len(sure)) < rng.choice([0.0, 0.03, 0.12])
        sure = np.where(flipped, -sure * rng.random(len(sure)), sure)
        sure += rng.normal(0, rng.choice([0.0, 0.1, 0.3]), len(sure))
        return sure.clip(-1, 1).astype(np.float32), pointed


def dense_prompt(
    rng: np.random.Generator, cells: NDArray[np.float32], labels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Many of the cells as points, padded, and the mask's box."""
    points, padded = np.zeros((DENSE, 2), np.float32), np.full(DENSE, -1, np.float32)
    chosen = rng.permutation(len(cells))[:DENSE]
    points[: len(chosen)], padded[: len(chosen)] = cells[chosen], labels[chosen]
    return points, padded, bounds(mask)


def bounds(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The box (x0, y0, x1, y1) around a mask; nothing's is all zeros."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def regenerated(rng: np.random.Generator, photo: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo as a small generator gives it back: softer, a bit like somebody else, of another tone and place."""
    size = photo.shape[0]
    drift = cv2.resize(rng.normal(0, 7, (4, 4, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    drawn = cv2.addWeighted(photo, 1 - (share := rng.uniform(0, 0.3)), other, share, 0)
    soft = cv2.GaussianBlur(drawn, (0, 0), float(rng.uniform(0.8, 6.0))).astype(np.float32) + drift
    shift = np.array([[1, 0, rng.normal(0, 1)], [0, 1, rng.normal(0, 1)]])
    moved = cv2.warpAffine(soft, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved.clip(0, 255), np.uint8)


def shrunk(picture: NDArray[Any]) -> NDArray[Any]:
    """2S×2S as drawn → S×S as the network sees it."""
    return np.asarray(cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def agreement(differs: NDArray[np.bool_]) -> NDArray[np.int8]:
    """S×S bool → T×T: 1 where next to no pixel differs; 0 where a third does, as under a thin frame; −1 in between."""
    share = cv2.resize(differs.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.where(share < 0.08, 1, np.where(share > 0.33, 0, -1)).astype(np.int8)
