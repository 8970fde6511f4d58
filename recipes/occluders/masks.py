"""Face masks: medical or of cloth, plain or printed, with folds, a nose wire, hems and straps."""

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import Alpha, Image, Pose, Thing, canvas, filled, pose, smooth, stroke, thing
from recipes.occluders.textures import elsewhere, folds, plain_texture, shade

Points = NDArray[np.float64]
CLOTHS = (
    (238, 240, 242), (150, 196, 222), (120, 180, 200), (24, 24, 26), (60, 62, 66), (225, 170, 180), (200, 205, 200),
    (40, 60, 110), (150, 200, 180), (180, 30, 40),
)  # fmt: skip
"""White, blue, turquoise, black, grey, pink … RGB."""


def mask(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """A mask over mouth and chin, now and then pulled below the nose or the mouth."""
    size, face = donor.shape[0], pose(landmarks)
    top, outline = _outline(rng, face)
    shape = filled(size, outline)
    light = _creases(rng, size, face, outline, top)
    surface = cv2.multiply(_cloth(rng, size, donor).astype(np.float32), light)
    paint = shade(rng, np.asarray(surface.clip(0, 255), np.uint8))
    if rng.random() < 0.6:
        straps = _straps(rng, size, face, outline)
        ribbon = np.asarray(rng.uniform(15, 60) if rng.random() < 0.4 else rng.uniform(190, 250), np.float32)
        beyond = (straps * (1 - shape))[..., None]
        paint = np.asarray(paint * (1 - beyond) + ribbon * beyond, np.uint8)
        shape = np.maximum(shape, straps)
    return thing(shape, paint)


def _outline(rng: np.random.Generator, face: Pose) -> tuple[Points, Points]:
    """The upper edge, from left to right, and the whole outline of a mask, in pixels."""
    ridge = rng.uniform(0.05, 0.55)
    if rng.random() < 0.14:
        ridge = rng.uniform(0.6, 1.25)  # worn too low
    cheek = ridge + rng.uniform(0.0, 0.4)
    wide, chin = rng.uniform(0.88, 1.3), max(rng.uniform(1.45, 2.1), ridge + 0.4)
    jaw = wide * rng.uniform(0.75, 1.0)
    lean = rng.normal(0, 0.06)
    top = np.array([(-wide, cheek), (-0.5 * wide, 0.45 * cheek + 0.55 * ridge), (0, ridge - rng.uniform(0, 0.08)),
                    (0.5 * wide, 0.45 * cheek + 0.55 * ridge), (wide, cheek)])  # fmt: skip
    low = np.array([(jaw, 0.5 * (cheek + chin)), (0.6 * jaw, 0.2 * cheek + 0.8 * chin), (0, chin),
                    (-0.6 * jaw, 0.2 * cheek + 0.8 * chin), (-jaw, 0.5 * (cheek + chin))])  # fmt: skip
    turn = rng.normal(0, 0.18)  # a turned face's ridge is off its middle
    shift = np.array([turn, lean])
    top[1:4] += shift * (1, 0)
    low[1:4] += shift * (1, 0)
    rounds = int(rng.integers(1, 4))
    edge = face.at(smooth(top, rounds, closed=False))
    return edge, face.at(np.vstack([smooth(top, rounds, closed=False), smooth(low, rounds, closed=False)]))


def _cloth(rng: np.random.Generator, size: int, donor: Image) -> Image:
    kind = rng.choice(["plain", "print", "stripes", "noise", "photo"], p=[0.6, 0.18, 0.07, 0.07, 0.08])
    if kind == "photo":
        return elsewhere(rng, donor)
    if kind != "plain":
        return plain_texture(rng, size, str(kind))
    plain = np.array(CLOTHS[int(rng.choice(len(CLOTHS), p=_SHARES))]) + rng.normal(0, 14) + rng.normal(0, 6, 3)
    return np.broadcast_to(plain.clip(0, 255), (size, size, 3)).astype(np.uint8)


_SHARES = (0.2, 0.2, 0.1, 0.17, 0.08, 0.05, 0.05, 0.05, 0.05, 0.05)


def _creases(rng: np.random.Generator, size: int, face: Pose, outline: Points, top: Points) -> NDArray[np.float32]:
    """Light on the mask, S×S×3, a factor: pleats or a seam, the wire, the hem, and the cheeks' roundness."""
    light = np.ones((size, size), np.float32)
    angle = float(np.arctan2(face.across[1], face.across[0]))
    if rng.random() < 0.55:  # pleats from cheek to cheek
        light *= folds(rng, size, angle + rng.normal(0, 0.08), int(rng.integers(2, 7)))[..., 0]
    if rng.random() < 0.4:  # wrinkles
        light *= folds(rng, size, float(rng.uniform(0, np.pi)), int(rng.integers(1, 6)))[..., 0]
    lines = canvas(size)
    if rng.random() < 0.3:  # the seam of a folded cloth
        seam = face.at(smooth(np.array([(0, 0), (rng.normal(0, 0.05), 0.9), (0, 2.0)]), closed=False))
        stroke(lines, seam, face.unit * 0.03)
    if rng.random() < 0.5:  # hem
        inner = outline.mean(0) + (outline - outline.mean(0)) * rng.uniform(0.86, 0.96)
        stroke(lines, np.vstack([inner, inner[:1]]), face.unit * rng.uniform(0.01, 0.05))
    if rng.random() < 0.4:  # nose wire
        wire = top[len(top) // 3 : -len(top) // 3] + face.down * face.unit * 0.08
        stroke(lines, wire, face.unit * rng.uniform(0.03, 0.08))
    soft = cv2.GaussianBlur(lines, (0, 0), size * 0.005).astype(np.float32) / np.float32(255)
    light *= 1 + soft * np.float32(rng.uniform(-0.5, 0.25))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    aside = ((x - face.origin[0]) * face.across[0] + (y - face.origin[1]) * face.across[1]) / face.unit
    light *= 1 - rng.uniform(0.0, 0.3) * (aside - rng.normal(0, 0.3)) ** 2
    return np.asarray(cv2.merge([light.clip(0.25, 1.6).astype(np.float32)] * 3), np.float32)


def _straps(rng: np.random.Generator, size: int, face: Pose, outline: Points) -> Alpha:
    """Ear loops from the corners, or bands round the head."""
    drawn = canvas(size)
    width = face.unit * rng.uniform(0.015, 0.06)
    for sign in (-1, 1):
        ear = face.at([sign * rng.uniform(1.15, 1.5), rng.uniform(-0.1, 0.3)])
        side = outline[((outline - face.origin) @ face.across * sign).argsort()[-6:]]
        upper, lower = side[side[:, 1].argmin()], side[side[:, 1].argmax()]
        sag = face.down * face.unit * rng.uniform(0, 0.15)
        stroke(drawn, smooth(np.stack([upper, (upper + ear) / 2 + sag, ear]), closed=False), width)
        if rng.random() < 0.7:
            stroke(drawn, smooth(np.stack([lower, (lower + ear) / 2 + sag, ear]), closed=False), width)
    return drawn.astype(np.float32) / np.float32(255)
