"""Spectacles from the front: clear, dark or mirrored, of every shape, with rims from a hair's breadth to a finger's."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import Alpha, Image, Points, Pose, Thing, canvas, pose, shrunk, thing
from recipes.occluders.textures import elsewhere, plain_texture
from s3pot_batch.stages.models.taxonomy import CELEBM

[EYEGLASSES] = CELEBM.ids(CELEBM.worn)


@dataclass(frozen=True)
class Pair:
    """The drawn parts of a pair, S×S in 0..1."""

    rims: Alpha
    lenses: Alpha


def glasses(rng: np.random.Generator, face: Image, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """A pair on a face; what counts as the thing is its rims, and the lenses where they hide what lies behind."""
    size = face.shape[0]
    kind = rng.choice(["clear", "dark", "mirror"], p=[0.42, 0.44, 0.14])
    pair = drawn_pair(rng, size, landmarks, dark=kind != "clear")
    opacity = _opacity(rng, pose(landmarks), size, str(kind)) * pair.lenses
    paint = _lens_paint(rng, size, donor, str(kind)).astype(np.float32)
    if rng.random() < 0.55:
        glare = _glare(rng, size) * pair.lenses * np.float32(rng.uniform(0.15, 0.8 if kind == "clear" else 0.9))
        white = np.float32(rng.uniform(190, 255))
        mixed = np.maximum(opacity, glare)
        share = glare / np.maximum(mixed, 1e-3)
        paint = paint * (1 - share[..., None]) + white * share[..., None]
        opacity = mixed
    rims = pair.rims[..., None]
    frame = frame_colour(rng, size) if rng.random() < 0.75 else plain_texture(rng, size, "flat")
    paint = paint * (1 - rims) + frame * rims
    opacity = np.maximum(opacity, pair.rims)
    hidden = np.maximum(pair.rims, (opacity > 0.45).astype(np.float32) * pair.lenses)
    extent = np.maximum(pair.rims, pair.lenses) if kind != "clear" else hidden
    return thing(
        np.asarray(extent, np.float32), paint.astype(np.uint8), opacity=np.asarray(opacity, np.float32), name=EYEGLASSES
    )


def _opacity(rng: np.random.Generator, face: Pose, size: int, kind: str) -> Alpha:
    """How much a lens hides, S×S: a clear one next to nothing; many dark ones less towards the cheeks."""
    if kind == "clear":
        return np.full((size, size), rng.choice([0.0, 0.0, rng.uniform(0, 0.25)]), np.float32)
    above, below = rng.uniform(0.8, 1.0), rng.uniform(0.78, 1.0)
    if rng.random() < 0.35:
        below = rng.uniform(0.3, 0.8)
    y = (np.mgrid[:size, :size][0] - face.origin[1]) / face.unit
    return np.asarray(above + (below - above) * np.clip(y / 0.7 + 0.5, 0, 1), np.float32)


def _lens_paint(rng: np.random.Generator, size: int, donor: Image, kind: str) -> Image:
    """Tinted glass, or what it mirrors."""
    tints = ((20, 20, 22), (45, 30, 20), (30, 36, 28), (25, 30, 48), (70, 30, 60), (95, 60, 30))
    tint = np.array(tints[int(rng.integers(len(tints)))]) * rng.uniform(0.1, 1.2)
    if kind == "clear":
        tint = rng.uniform(120, 255, 3)
    flat = np.broadcast_to(tint, (size, size, 3))
    if kind == "dark" and rng.random() < 0.6:
        return np.asarray(flat.clip(0, 255), np.uint8)
    if kind == "clear":
        return np.asarray(flat, np.uint8)
    scene = elsewhere(rng, donor) if rng.random() < 0.6 else plain_texture(rng, size)
    blurred = cv2.GaussianBlur(scene, (0, 0), size * rng.uniform(0.004, 0.03)).astype(np.float32)
    if kind == "dark":  # a room, faintly
        return np.asarray((flat + rng.uniform(0.08, 0.4) * blurred).clip(0, 255), np.uint8)
    gold = np.array([(1, 1, 1), (1.2, 0.9, 0.4), (0.5, 0.8, 1.2), (1.2, 0.6, 0.6), (0.5, 1.1, 0.8)])
    return np.asarray((blurred * gold[int(rng.integers(len(gold)))] * rng.uniform(0.5, 1.1)).clip(0, 255), np.uint8)


def _glare(rng: np.random.Generator, size: int) -> Alpha:
    """Slanted streaks, or windows, as they are mirrored in both lenses."""
    drawn = canvas(size)
    for _ in range(int(rng.integers(1, 4))):
        centre, axes = rng.normal([0.5, 0.47], [0.17, 0.04]) * size, size * np.exp(rng.normal(-3.3, 0.5, 2))
        if rng.random() < 0.5:
            axes = axes * (0.4, 3.0)
        box = (tuple(centre.tolist()), tuple((2 * axes).tolist()), float(rng.normal(25, 20)))
        if rng.random() < 0.6:
            cv2.ellipse(drawn, box, 255, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(drawn, [np.round(cv2.boxPoints(box)).astype(np.int32)], 255, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(drawn, (0, 0), size * float(rng.uniform(0.003, 0.02)))
    return np.asarray(blurred, np.float32) / np.float32(255)


class _Pen:
    """Draws rims and lenses in a face's own measures: the eyes' distance across and down, from between the lenses."""

    def __init__(self, size: int, landmarks: NDArray[np.float32], drop: float) -> None:
        self.scale = 4 if size <= 128 else 2  # a thin rim is thinner than a pixel
        self.rims, self.lenses = canvas(size * self.scale), canvas(size * self.scale)
        self.face, self.drop = pose(landmarks), drop
        gap = float(np.linalg.norm(landmarks[1] - landmarks[0])) / self.face.unit
        self.stretch = (max(gap, 0.35), 1)  # of a turned face

    def _placed(self, points: Points) -> list[NDArray[np.int32]]:
        pixels = self.scale * self.face.at(np.asarray(points) * self.stretch + (0, self.drop))
        return [np.round(pixels * 16).astype(np.int32)]

    def line(self, points: Points, thickness: float, *, closed: bool = False) -> None:
        """Part of the rims, at least half a pixel wide."""
        width = max(round(thickness * self.face.unit * self.scale), 2)
        cv2.polylines(self.rims, self._placed(points), closed, 255, width, cv2.LINE_AA, 4)

    def lens(self, outline: Points) -> None:
        """The glass within an outline."""
        cv2.fillPoly(self.lenses, self._placed(outline), 255, cv2.LINE_AA, 4)


def drawn_pair(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32], *, dark: bool = False) -> Pair:
    """Rims, bridge and arms, and the lenses within; a pair is about twice as wide as the eyes' distance."""
    pen = _Pen(size, landmarks, drop=rng.uniform(-0.05, 0.2 if dark else 0.14))
    wide = rng.uniform(0.66, 1.1) if dark else rng.uniform(0.62, 1.0)
    high = min(wide * rng.uniform(0.5 if dark else 0.45, 1.0), 0.95)
    apart = float(np.clip(wide + rng.uniform(0.08, 0.35), 0.9, 1.25))
    rim = float(np.exp(rng.uniform(np.log(0.014), np.log(0.11))))
    rimless, browline = rng.random() < 0.06, rng.random() < 0.3
    squareness, taper = rng.uniform(2, 6), rng.uniform(-0.05, 0.35)
    arm = rng.choice([0.0, 0.05, rng.uniform(0.1, 0.6)])
    hinge, reach = high * rng.uniform(-0.45, -0.1), apart / 2 + wide / 2
    if dark and rng.random() < 0.12:  # one lens from ear to ear
        outline = _lens(rng.uniform(2.5, 5), 0) * (reach, high / 2)
        pen.lens(outline)
        pen.line(outline[24:], rim)
    for sign in (-1, 1):
        outline = _lens(squareness, sign * taper) * (wide / 2, high / 2) + (sign * apart / 2, 0)
        pen.lens(outline)
        if not rimless:
            pen.line(outline, rim, closed=True)
        if browline:  # the upper half is heavier
            pen.line(outline[24:], rim * rng.uniform(1.3, 2.5))
        if arm:
            ends = np.array([[sign * reach * 0.97, hinge], [sign * (reach + arm), hinge]])
            pen.line(ends, rim * rng.uniform(0.8, 1.5))
    inner = apart / 2 - wide / 2 + 0.06
    low, sag = high * rng.uniform(-0.35, 0.05), rng.uniform(-0.12, 0.02)
    pen.line(np.array([[-inner, low], [0.0, low + sag], [inner, low]]), rim)
    if rng.random() < 0.2:  # a second bridge along the brows
        pen.line(np.array([[-apart / 2, -high / 2], [apart / 2, -high / 2]]), rim)
    return Pair(shrunk(pen.rims, size), shrunk(pen.lenses, size))


def frame_colour(rng: np.random.Generator, size: int) -> Image:
    """What most spectacles are made of: black, grey, brown or metal, of one colour or with a tortoise's spots."""
    black, brown, metal = rng.uniform(5, 60) * np.ones(3), np.array([96, 58, 36]), np.array([190, 170, 140])
    chosen = (black, brown * rng.uniform(0.3, 1.3), metal * rng.uniform(0.4, 1.3))[
        int(rng.choice(3, p=[0.6, 0.2, 0.2]))
    ]
    spots = cv2.resize(rng.random((24, 24)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    spotted = 1 - rng.choice([0.0, 0.0, 0.6]) * spots[..., None]
    return np.asarray((chosen * spotted).clip(0, 255), np.uint8)


def _lens(squareness: float, taper: float) -> NDArray[np.float64]:
    """A superellipse of radius 1, from a circle (2) to a rounded square, narrower below on the side of ``taper``."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = (np.sign(f) * np.abs(f) ** (2 / squareness) for f in (np.cos(angles), np.sin(angles)))
    return np.stack([x + taper * y, y], 1)
