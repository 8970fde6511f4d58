"""Drawn surfaces: flat colours, noise, stripes, prints, folds, skin, other photos, and the light of a room."""

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import Image


def texture(
    rng: np.random.Generator, face: Image, donor: Image, landmarks: NDArray[np.float32], *, of_skin: float
) -> Image:
    """Any surface; with a chance of ``of_skin``, the face's or the donor's skin."""
    size = face.shape[0]
    if rng.random() < of_skin:
        return skin(rng, face if rng.random() < 0.6 else donor, landmarks)
    kind = rng.choice(["flat", "noise", "donor", "stripes", "print"], p=[0.3, 0.18, 0.28, 0.12, 0.12])
    return elsewhere(rng, donor) if kind == "donor" else plain_texture(rng, size, str(kind))


def elsewhere(rng: np.random.Generator, donor: Image) -> Image:
    """Another photo, turned and enlarged."""
    size = donor.shape[0]
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), float(rng.uniform(0, 360)), float(rng.uniform(1.0, 2.5)))
    return np.asarray(cv2.warpAffine(donor, turn, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """RGB in 0..255; most things are black, white or grey."""
    if rng.random() < 0.4:
        return rng.uniform(0, 255, 3)
    return np.repeat(rng.choice([15, 30, 45, 128, 235, 250]), 3).astype(float)


def plain_texture(rng: np.random.Generator, size: int, kind: str = "noise") -> Image:
    """One colour (``flat``), two that melt (``noise``) or take turns (``stripes``), or a ``print`` of some."""
    if kind == "print":
        return printed(rng, size)
    base = colour(rng)
    if kind == "flat":
        return np.broadcast_to(np.clip(base, 0, 255), (size, size, 3)).astype(np.uint8)
    other = rng.uniform(0, 255, 3)
    if kind == "stripes":
        y, x = np.mgrid[:size, :size].astype(np.float32)
        turn, period = rng.uniform(0, np.pi), rng.uniform(4, 24) * size / 128
        wave = np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period) * rng.uniform(1, 6)
        blend = 1 / (1 + np.exp(-wave))
        if rng.random() < 0.4:
            blend = blend * (1 / (1 + np.exp(-np.sin(2 * np.pi * (y * np.cos(turn) - x * np.sin(turn)) / period) * 4)))
    else:
        blend = np.zeros((size, size), np.float32)
        for cells in (4, 11, 32, size):
            grid = rng.random((cells, cells)).astype(np.float32)
            blend += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * np.float32(rng.random())
        blend = (blend - blend.min()) / max(float(np.ptp(blend)), 1e-6)
    blended = base * (1 - blend[..., None]) + other * blend[..., None]
    return np.asarray(blended.clip(0, 255), np.uint8)


def printed(rng: np.random.Generator, size: int) -> Image:
    """Cloth with a print: patches of two to five colours with sharp edges, or dots in rows."""
    colours = np.stack([colour(rng), *rng.uniform(0, 255, (int(rng.integers(1, 5)), 3))]).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        step = size * rng.uniform(0.03, 0.12)
        y, x = np.mgrid[:size, :size].astype(np.float32) / np.float32(step)
        dots = np.hypot(x % 1 - 0.5, (y + 0.5 * (np.floor(x) % 2)) % 1 - 0.5) < rng.uniform(0.12, 0.42)
        return np.asarray(colours[dots.astype(int)], np.uint8)
    cells = int(rng.integers(5, 22))
    grids = rng.random((cells, cells, len(colours))).astype(np.float32)
    grids[..., 0] += rng.uniform(-0.1, 0.3)  # the ground shows most
    return np.asarray(colours[cv2.resize(grids, (size, size), interpolation=cv2.INTER_CUBIC).argmax(2)], np.uint8)


def folds(rng: np.random.Generator, size: int, heading: float, count: int) -> NDArray[np.float32]:
    """Light on folded cloth, S×S×1, a factor: ``count`` soft ridges along ``heading``, each with its shadow."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / np.float32(size) - np.float32(0.5)
    across = y * np.cos(heading) - x * np.sin(heading)
    along = x * np.cos(heading) + y * np.sin(heading)
    light = np.ones((size, size), np.float32)
    for _ in range(count):
        line = rng.uniform(-0.45, 0.45) + rng.normal(0, 0.15) * along + rng.normal(0, 0.5) * along**2
        beside = (across - line) / rng.uniform(0.01, 0.05)
        light += np.asarray(rng.normal(0, 0.22) * beside * np.exp(-(beside**2)), np.float32)
    return light.clip(0.45, 1.5)[..., None]


def skin(rng: np.random.Generator, photo: Image, landmarks: NDArray[np.float32]) -> Image:
    """Skin-like filling: a cheek patch of a photo, stretched, with new low-frequency shading."""
    size = photo.shape[0]
    eye, corner = (landmarks[0], landmarks[3]) if rng.random() < 0.5 else (landmarks[1], landmarks[4])
    cheek = eye * 0.45 + corner * 0.55 + rng.normal(0, 0.01 * size, 2)
    reach = max(int(size * rng.uniform(0.04, 0.09)), 4)
    x, y = np.clip(np.round(cheek).astype(int), reach, size - reach - 1)
    patch = photo[y - reach : y + reach, x - reach : x + reach]
    stretched = cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    coarse = cv2.resize(rng.normal(1, 0.16, (5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    tone = np.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.03, 3))
    grain = rng.normal(0, 4, (size, size, 1)).astype(np.float32)
    shaded = stretched * coarse[..., None] * tone.astype(np.float32) + grain
    return np.asarray(shaded.clip(0, 255), np.uint8)


def shade(rng: np.random.Generator, surface: Image, light: NDArray[np.float32] | None = None) -> Image:
    """A surface under its body's light and that of an uneven room."""
    size = surface.shape[0]
    room = cv2.resize(rng.normal(1, 0.2, (3, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    lit = surface * room[..., None] if light is None else surface * light * room[..., None]
    return np.asarray(lit.clip(0, 255), np.uint8)
