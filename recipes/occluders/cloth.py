"""What is worn round a face: veils and nets, hoods and hats, scarves, and strands of hair."""

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import NAMELESS, Alpha, Image, Thing, canvas, filled, pose, smooth, stroke, thing
from recipes.occluders.textures import colour, elsewhere, folds, plain_texture, shade
from s3pot_batch.stages.models.taxonomy import CELEBM

HAIR, HAT = CELEBM.ids(("hair", "hat"))


def veil(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """A net, a gauze or a clear visor over all of the face or a part of it."""
    size, face = donor.shape[0], pose(landmarks)
    low = rng.uniform(0.2, 2.2)
    high = -1.6 if rng.random() < 0.6 else rng.uniform(-1.2, min(low - 0.5, 0.6))
    wide = rng.uniform(1.0, 2.0)
    corners = np.array([(-wide, high), (0, high - 0.1), (wide, high), (wide * 0.95, low), (0, low + rng.normal(0, 0.2)),
                        (-wide * 0.95, low)])  # fmt: skip
    extent = filled(size, face.at(smooth(corners, int(rng.integers(0, 3)))))
    kind = rng.choice(["net", "gauze", "visor"], p=[0.5, 0.3, 0.2])
    tone = colour(rng)
    paint = np.broadcast_to(tone.clip(0, 255), (size, size, 3)).astype(np.uint8)
    if kind == "net":
        mesh = _mesh(rng, size, face.unit)
        ground = np.float32(rng.choice([0.0, 0.0, rng.uniform(0, 0.35)]))
        return thing(_seen(extent, mesh, ground), paint, opacity=extent * np.maximum(mesh, ground))
    if kind == "gauze":
        hanging = folds(rng, size, np.pi / 2 + rng.normal(0, 0.3), int(rng.integers(2, 9)))[..., 0]
        opacity = extent * (rng.uniform(0.25, 0.75) * hanging).clip(0, 1)
        return thing(extent, paint, opacity=np.asarray(opacity, np.float32))
    blurred = cv2.GaussianBlur(elsewhere(rng, donor), (0, 0), size * 0.03)
    streaks = cv2.resize(rng.random((6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    edge = cv2.morphologyEx((extent > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    opacity = extent * np.maximum(((streaks - rng.uniform(0.3, 0.8)) * 1.5).clip(0, 0.7), 0.8 * edge)
    glass = np.maximum(blurred, np.uint8(rng.uniform(120, 230)))
    return Thing(np.asarray(opacity, np.float32), np.asarray(opacity, np.float32), np.asarray(glass, np.uint8),
                 np.full((size, size), NAMELESS, np.uint8))  # fmt: skip


def _seen(extent: Alpha, mesh: Alpha, ground: np.float32) -> Alpha:
    """A wide net is its threads, a fine one, or one on gauze, all that it covers."""
    if ground > 0.15 or mesh.mean() > 0.3:
        return extent
    return np.asarray(extent * mesh, np.float32)


def _mesh(rng: np.random.Generator, size: int, unit: float) -> Alpha:
    """Threads of a warped grid, S×S in 0..1."""
    drawn = canvas(size)
    step, width = unit * np.exp(rng.uniform(np.log(0.07), np.log(0.4))), unit * rng.uniform(0.008, 0.03)
    turn = np.pi / 4 if rng.random() < 0.6 else rng.uniform(0, np.pi)
    reach = np.arange(-0.8 * size, 0.8 * size, step)
    along = np.linspace(-0.8, 0.8, 9) * size
    bow = rng.normal(0, 0.25) / size
    for heading in (turn, turn + np.pi / 2 + rng.normal(0, 0.15)):
        one, other = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        for offset in reach:
            line = size / 2 + along[:, None] * one + (offset + bow * along**2)[:, None] * other
            stroke(drawn, line, width)
    if rng.random() < 0.3:  # knots
        for x, y in rng.uniform(0, size, (int(rng.integers(5, 60)), 2)):
            cv2.circle(drawn, (round(x), round(y)), max(round(unit * 0.03), 1), 255, -1, cv2.LINE_AA)
    return drawn.astype(np.float32) / np.float32(255)


def headwear(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """The edge of a hat from above, or a hood or a headscarf all round; it has a name above the brows only."""
    size, face = donor.shape[0], pose(landmarks)
    if rng.random() < 0.5:
        level, arch = rng.uniform(-0.75, 0.2), rng.uniform(-0.35, 0.25)
        edge = np.array([(-2.6, level + arch), (-1.1, level + 0.5 * arch), (rng.normal(0, 0.2), level),
                         (1.1, level + 0.5 * arch), (2.6, level + arch)])  # fmt: skip
        outline = np.vstack([smooth(edge, closed=False), [(2.6, -4), (-2.6, -4)]])
        extent = filled(size, face.at(outline))
    else:
        level, wide = rng.uniform(-0.9, -0.2), rng.uniform(0.8, 1.25)
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        middle = 0.5 * (level + (low := rng.uniform(1.5, 2.6)))
        opening = np.stack([np.cos(angles) * wide, middle + np.sin(angles) * (low - level) / 2], 1)
        opening += rng.normal(0, 0.03, opening.shape)
        extent = 1 - filled(size, face.at(smooth(opening, 2)))
        extent *= 1 - filled(size, face.at([(-4, low - 0.3), (4, low - 0.3), (4, 6), (-4, 6)])) * (rng.random() < 0.5)
    paint = _woven(rng, size, donor, float(rng.uniform(0, np.pi)))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    height = ((x - face.origin[0]) * face.down[0] + (y - face.origin[1]) * face.down[1]) / face.unit
    names = np.where((extent > 0.5) & (height < -0.3), np.uint8(HAT), np.uint8(NAMELESS))
    extent = np.asarray(extent, np.float32)
    return Thing(extent, extent, paint, names)


def scarf(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """A scarf or a collar from below, up to the chin, the mouth or the nose."""
    size, face = donor.shape[0], pose(landmarks)
    level, slope = rng.uniform(0.35, 1.75), rng.normal(0, 0.12)
    places = np.linspace(-2.6, 2.6, 9)
    heights = level + slope * places + rng.normal(0, 0.07, 9) + rng.uniform(-0.25, 0.1) * np.abs(places)
    outline = np.vstack([smooth(np.stack([places, heights], 1), closed=False), [(2.6, 6), (-2.6, 6)]])
    return thing(filled(size, face.at(outline)), _woven(rng, size, donor, rng.normal(0, 0.35)))


def _woven(rng: np.random.Generator, size: int, donor: Image, heading: float) -> Image:
    """Cloth with folds along ``heading``."""
    kind = rng.choice(["flat", "noise", "stripes", "print", "photo"], p=[0.4, 0.17, 0.15, 0.18, 0.1])
    surface = elsewhere(rng, donor) if kind == "photo" else plain_texture(rng, size, str(kind))
    lit = surface * folds(rng, size, heading, int(rng.integers(0, 9)))
    if rng.random() < 0.3:  # knitted
        y, x = np.mgrid[:size, :size].astype(np.float32)
        period = rng.uniform(2.5, 6) * size / 128
        lit = lit * (1 + 0.25 * np.sin(2 * np.pi * (x + 0.6 * np.abs(y % period - period / 2)) / period))[..., None]
    return shade(rng, np.asarray(lit.clip(0, 255), np.uint8))


def strands(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """Strands of hair over the face, from above or a side: a few, or a lock of many."""
    size, face = donor.shape[0], pose(landmarks)
    drawn, tone = canvas(size), np.zeros((size, size), np.uint8)
    root = np.array([rng.normal(0, 0.9), rng.uniform(-1.5, -0.7)])
    if rng.random() < 0.3:
        root = np.array([rng.choice([-1, 1]) * rng.uniform(1.0, 1.5), rng.uniform(-0.8, 1.0)])
    tip = np.array([rng.normal(0, 0.8), rng.uniform(-0.2, 2.0)])
    middle = (root + tip) / 2 + rng.normal(0, 0.35, 2)
    lock = rng.random() < 0.5
    count, spread = (int(rng.integers(25, 70)), rng.uniform(0.08, 0.25)) if lock else (int(rng.integers(1, 14)), 0.4)
    for _ in range(count):
        ends = np.stack([root, middle, tip]) + rng.normal(0, spread, (3, 2)) * [[1.0], [0.8], [0.5]]
        line, width = face.at(smooth(ends, 3, closed=False)), face.unit * rng.uniform(0.01, 0.05)
        stroke(drawn, line, width)
        stroke(tone, line, float(rng.uniform(0.5, 1)))
    shades = ((25, 20, 18), (60, 40, 28), (110, 75, 45), (190, 155, 105), (140, 60, 35), (150, 148, 146))
    hair = np.array(shades[int(rng.integers(len(shades)))]) * rng.uniform(0.7, 1.3)
    paint = (hair * (0.35 + 0.85 * tone[..., None] / 255)).clip(0, 255).astype(np.uint8)
    return thing(drawn.astype(np.float32) / np.float32(255), shade(rng, paint), name=HAIR)


def upper_cover(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    """All above a wavy line through the eyes or the forehead."""
    bottom = landmarks[:2].mean(0)[1] + size * rng.uniform(-0.12, 0.12)
    wave = np.linspace(0, size, 12)
    edge = np.stack([wave, bottom + rng.normal(0, 0.012 * size, 12).cumsum()], 1)
    return filled(size, np.vstack([edge, [[size, 0], [0, 0]]]))
