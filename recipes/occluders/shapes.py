"""What all drawn things are made of: smooth outlines, where a face is, and the light on a round body."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Alpha = NDArray[np.float32]
Points = NDArray[np.floating]
NAMELESS = 255
"""Parse id of what has no class of its own: the label stays that of the part beneath."""


@dataclass(frozen=True)
class Body:
    """A shape as it is lit: ``alpha`` S×S in 0..1 and ``light`` S×S×3 float32, a factor for the texture."""

    alpha: Alpha
    light: NDArray[np.float32]


@dataclass(frozen=True)
class Thing:
    """A drawn thing with colours of its own.

    ``extent`` S×S in 0..1 is where it is; ``opacity`` S×S how much of the face it hides there (a veil: some);
    ``paint`` S×S×3 uint8; ``names`` S×S uint8, the parse ids of glasses, hats and hair, 255 elsewhere.
    """

    extent: Alpha
    opacity: Alpha
    paint: Image
    names: NDArray[np.uint8]


def thing(extent: Alpha, paint: Image, *, opacity: Alpha | None = None, name: int = NAMELESS) -> Thing:
    """A thing of one parse class; it hides all that it covers unless its ``opacity`` says otherwise."""
    names = np.where(extent > 0.5, np.uint8(name), np.uint8(NAMELESS))
    return Thing(extent, extent if opacity is None else opacity, paint, names)


@dataclass(frozen=True)
class Pose:
    """Where a face is, from its landmarks: points are placed in units of the eyes' distance, from between the eyes."""

    origin: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    unit: float

    def at(self, points: object) -> NDArray[np.float64]:
        """…×2 (across, down) → …×2 (x, y) pixels; the face's oval is ±1.1 wide and goes from −0.8 to 1.7."""
        placed = np.asarray(points, np.float64)
        return self.origin + self.unit * (placed[..., :1] * self.across + placed[..., 1:] * self.down)


def pose(landmarks: NDArray[np.float32]) -> Pose:
    """The pose of a face; of a turned one, whose eyes are near each other, the eyes' distance seen from the front."""
    eyes, mouth = landmarks[:2].mean(0).astype(float), landmarks[3:].mean(0)
    along = (landmarks[1] - landmarks[0]).astype(float)
    gap = float(np.linalg.norm(along))
    across = along / max(gap, 1e-6) if gap > 1 else np.array([1.0, 0.0])
    unit = max(gap, 0.9 * float(np.linalg.norm(mouth - eyes)), 1.0)
    return Pose(eyes, across, np.array([-across[1], across[0]]), unit)


def canvas(size: int) -> Image:
    """A black S×S picture to draw on."""
    return np.zeros((size, size), np.uint8)


def anywhere(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A point of an aligned S×S frame, most likely in the face."""
    return rng.normal([0.5, 0.58], [0.17, 0.19]) * size


def filled(size: int, outline: Points) -> Alpha:
    """A polygon, K×2 (x, y) pixels, with a smooth edge."""
    drawn = canvas(size)
    cv2.fillPoly(drawn, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return drawn.astype(np.float32) / np.float32(255)


def stroke(drawn: Image, line: Points, width: float) -> None:
    """Draw a line, K×2 (x, y) pixels, as opaque as its ``width`` is to one pixel if it is thinner than that."""
    level = round(255 * float(np.clip(width, 0.25, 1)))
    corners = [np.round(line * 16).astype(np.int32)]
    cv2.polylines(drawn, corners, isClosed=False, color=level, thickness=max(round(width), 1), lineType=cv2.LINE_AA,
                  shift=4)  # fmt: skip


def smooth(outline: Points, rounds: int = 3, *, closed: bool = True) -> NDArray[np.float64]:
    """Cut the corners of a polygon or a line (Chaikin)."""
    points = np.asarray(outline, np.float64)
    for _ in range(rounds):
        after = np.roll(points, -1, 0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], 1).reshape(-1, 2)
        points = cut if closed else np.vstack([points[:1], cut, points[-1:]])
    return points


def shrunk(drawn: Image, size: int) -> Alpha:
    """A picture drawn larger, at S×S and in 0..1."""
    return np.asarray(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def blob(rng: np.random.Generator, size: int, centre: NDArray[np.float64], radius: float) -> Alpha:
    """A rippled, stretched disc."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ripple = 1 + sum(rng.normal(0, 0.28 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 7))
    stretch = np.array([np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.25))])
    round_about = np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * np.clip(ripple, 0.2, 2))[:, None]
    return filled(size, centre + round_about * stretch)


def bar(rng: np.random.Generator, size: int) -> Alpha:
    """A straight strip; half of them enter from one side."""
    centre, heading = anywhere(rng, size), rng.uniform(0, np.pi)
    along = np.array([np.cos(heading), np.sin(heading)]) * size * rng.uniform(0.15, 1.2)
    across = np.array([-np.sin(heading), np.cos(heading)]) * size * rng.uniform(0.015, 0.09)
    if rng.random() < 0.5:
        centre = centre + along
    corners = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    return filled(size, np.stack(corners))


def plain_body(rng: np.random.Generator, shape: Alpha) -> Body:
    """A shape as a flat or a round body."""
    if rng.random() < 0.7:
        return Body(shape, np.ones((*shape.shape, 3), np.float32))
    return lit(rng, [shape], relief=rng.uniform(0.1, 0.5), crease=rng.uniform(0.0, 0.3))


def lit(rng: np.random.Generator, layers: list[Alpha], *, relief: float, crease: float) -> Body:
    """Layers, the rearmost first, as round bodies under one light: bright towards it, dark where one ends."""
    alpha = np.zeros(layers[0].shape, np.float32)
    light = np.ones((*alpha.shape, 3), np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    for layer in layers:
        x, y, wide, high = cv2.boundingRect((layer > 0).astype(np.uint8))
        here = slice(max(y - 2, 0), y + high + 2), slice(max(x - 2, 0), x + wide + 2)
        share = layer[here][..., None]
        if not share.size:
            continue
        solid = cv2.copyMakeBorder((layer[here] > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)
        radius = max(float(depth.max()), 1.0)
        height = cv2.GaussianBlur(radius * np.sqrt(1 - (1 - depth / radius) ** 2), (0, 0), 1.0)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
        bright = 1 + relief * (slope[0] * np.cos(angle) + slope[1] * np.sin(angle)) - crease * np.exp(-depth / 1.5)
        tint = np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
        tinted = bright[1:-1, 1:-1].clip(0.3, 1.6)[..., None].astype(np.float32) * tint
        light[here] = light[here] * (1 - share) + tinted * share
        alpha = np.maximum(alpha, layer)
    return Body(alpha, light)
