"""Procedural things to hide a face with: drawn shapes filled with drawn textures, no cut-outs and no annotation.

Recipes paste these on clean faces, so that a network can be asked for what lies underneath.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Alpha = NDArray[np.float32]


@dataclass(frozen=True)
class Occluded:
    """A photo with something pasted on it: ``image`` S×S×3 uint8 and the pasted thing's ``alpha`` S×S in 0..1."""

    image: Image
    alpha: Alpha


@dataclass(frozen=True)
class Body:
    """A shape as it is lit: ``alpha`` S×S in 0..1 and ``light`` S×S×3 float32, a factor for the texture."""

    alpha: Alpha
    light: NDArray[np.float32]


def occlude(rng: np.random.Generator, face: Image, donor: Image, landmarks: NDArray[np.float32]) -> Occluded:
    """Paste one or two random occluders on ``face``.

    Args:
        rng: the only source of randomness.
        face: S×S×3 uint8, an aligned face.
        donor: S×S×3 uint8, another photo, whose pixels may fill a shape.
        landmarks: 5×2 (x, y) in the face's pixels, for things that sit on a face.
    """
    image, alpha = face, np.zeros(face.shape[:2], np.float32)
    for _ in range(1 if rng.random() < 0.75 else 2):
        if rng.random() < 0.33:
            body = _hand(rng, face.shape[0])
            texture = _texture(rng, face, donor, landmarks, of_skin=0.85)
        elif rng.random() < 0.3:
            body = _plain_body(rng, _glasses(rng, face.shape[0], landmarks))
            of_its_own = rng.random() < 0.65
            texture = _frame_colour(rng, face.shape[0]) if of_its_own else _texture(
                rng, face, donor, landmarks, of_skin=0.1
            )  # fmt: skip
        else:
            body = _plain_body(rng, _shape(rng, face.shape[0], landmarks))
            texture = _texture(rng, face, donor, landmarks, of_skin=0.3)
        shape, texture = body.alpha, _shade(rng, texture, body.light)
        thin = shape.sum() < 0.03 * shape.size  # a blurred frame of one pixel would be hardly there
        blurred = cv2.GaussianBlur(shape, (0, 0), float(rng.uniform(0.3, 0.6) if thin else rng.uniform(0.4, 1.2)))
        blurred *= np.float32(rng.choice([1.0, 1.0, 0.92]))
        if rng.random() < 0.4:  # a soft shadow beside the thing
            shadow = cv2.GaussianBlur(np.roll(shape, rng.integers(-4, 5, 2), (0, 1)), (0, 0), 3.0)
            image = (image * (1 - 0.45 * shadow[..., None] * rng.random())).astype(np.uint8)
        image = (image * (1 - blurred[..., None]) + texture * blurred[..., None]).astype(np.uint8)
        alpha = np.maximum(alpha, blurred)
    return Occluded(image, alpha)


def _shape(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    shapes = (_blob, _bar, _lower_cover, _upper_cover, _cup)
    draw = shapes[int(rng.choice(len(shapes), p=[0.34, 0.16, 0.27, 0.12, 0.11]))]
    return np.asarray(draw(rng, size, landmarks), np.float32)


def _canvas(size: int) -> Image:
    return np.zeros((size, size), np.uint8)


def _anywhere(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.normal([0.5, 0.58], [0.17, 0.19]) * size


def _blob(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    del landmarks
    centre, radius = _anywhere(rng, size), size * rng.uniform(0.07, 0.3)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ripple = 1 + sum(rng.normal(0, 0.28 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 7))
    stretch = np.array([np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.25))])
    outline = (
        centre + np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * np.clip(ripple, 0.2, 2))[:, None] * stretch
    )
    return _filled(size, outline)


def _filled(size: int, outline: NDArray[np.floating]) -> Alpha:
    canvas = _canvas(size * 4)
    cv2.fillPoly(canvas, [np.round(outline * 4).astype(np.int32)], 255)
    return _shrunk(canvas, size)


def _shrunk(canvas: Image, size: int) -> Alpha:
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _hand(rng: np.random.Generator, size: int) -> Body:
    """A palm, a wrist and two to five fingers, stretched out or folded to a fist, each lit as a round body."""
    palm, width = _anywhere(rng, size * 2), size * 2 * rng.uniform(0.03, 0.065)
    heading = rng.uniform(0, 2 * np.pi)
    folded = rng.random() < 0.4
    spread = 0.0 if folded else rng.uniform(0.0, 0.28)
    across = np.array([-np.sin(heading), np.cos(heading)])
    along = np.array([np.cos(heading), np.sin(heading)])
    layers = []
    if rng.random() < 0.85:
        canvas = _canvas(size * 2)
        centre = palm - along * width * 2.2
        cv2.ellipse(canvas, (tuple(centre.tolist()), (width * 5.8, width * 7.2), float(np.rad2deg(heading))), 255, -1)
        wrist = np.round([centre, centre - along * size * 2.5]).astype(np.int32)
        cv2.polylines(canvas, [wrist], False, 255, int(width * rng.uniform(3.5, 5)), cv2.LINE_AA)
        layers.append(_shrunk(canvas, size))
    pointing = int(rng.integers(-4, 5))  # one finger of some fists is stretched out
    for finger in range(int(rng.integers(2, 6))):
        canvas = _canvas(size * 2)
        base = palm + across * (finger - 1.5) * width * 1.9
        direction = heading + (finger - 1.5) * spread + rng.normal(0, 0.06)
        bend = rng.normal(0, 0.25)
        length = width * (rng.uniform(0.3, 0.8) if folded and finger != pointing else rng.uniform(2.0, 3.2))
        joint = base + length * np.array([np.cos(direction), np.sin(direction)])
        tip = joint + length * 0.9 * np.array([np.cos(direction + bend), np.sin(direction + bend)])
        line = np.round([base - along * width, joint, tip]).astype(np.int32)
        cv2.polylines(canvas, [line], False, 255, int(width * rng.uniform(1.5, 2.1)), cv2.LINE_AA)
        layers.append(_shrunk(canvas, size))
    return _lit(rng, layers, relief=rng.uniform(0.1, 0.6), crease=rng.uniform(0.0, 0.5))


def _plain_body(rng: np.random.Generator, shape: Alpha) -> Body:
    if rng.random() < 0.7:
        return Body(shape, np.ones((*shape.shape, 3), np.float32))
    return _lit(rng, [shape], relief=rng.uniform(0.1, 0.5), crease=rng.uniform(0.0, 0.3))


def _lit(rng: np.random.Generator, layers: list[Alpha], *, relief: float, crease: float) -> Body:
    """Layers, the rearmost first, as round bodies under one light: bright towards it, dark where one ends."""
    alpha = np.zeros(layers[0].shape, np.float32)
    light = np.ones((*alpha.shape, 3), np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    for layer in layers:
        depth = cv2.distanceTransform((layer > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
        radius = max(float(depth.max()), 1.0)
        height = cv2.GaussianBlur(radius * np.sqrt(1 - (1 - depth / radius) ** 2), (0, 0), 1.0)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
        lit = 1 + relief * (slope[0] * np.cos(angle) + slope[1] * np.sin(angle)) - crease * np.exp(-depth / 1.5)
        tinted = lit.clip(0.3, 1.6)[..., None] * np.exp(rng.normal(0, 0.04, 3))
        light = light * (1 - layer[..., None]) + np.asarray(tinted, np.float32) * layer[..., None]
        alpha = np.maximum(alpha, layer)
    return Body(alpha, light)


def _bar(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    del landmarks
    centre, heading = _anywhere(rng, size), rng.uniform(0, np.pi)
    along = np.array([np.cos(heading), np.sin(heading)]) * size * rng.uniform(0.15, 1.2)
    across = np.array([-np.sin(heading), np.cos(heading)]) * size * rng.uniform(0.015, 0.09)
    if rng.random() < 0.5:
        centre = centre + along  # it enters from one side
    return _filled(
        size,
        np.stack(
            [
                centre - along - across,
                centre + along - across,
                centre + along + across,
                centre - along + across,
            ]
        ),
    )


def _lower_cover(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    eyes, nose, mouth = landmarks[:2].mean(0), landmarks[2], landmarks[3:].mean(0)
    down = (mouth - eyes) / max(np.linalg.norm(mouth - eyes), 1)
    side = np.array([down[1], -down[0]])
    reach = float(np.linalg.norm(mouth - eyes))
    top = nose + down * reach * rng.uniform(-0.55, 0.25)
    half, depth = reach * rng.uniform(0.8, 1.5), reach * rng.uniform(0.9, 1.9)
    outline = [top - side * half * rng.uniform(0.9, 1.1), top - down * reach * rng.uniform(-0.1, 0.3),
               top + side * half * rng.uniform(0.9, 1.1), top + side * half * 0.85 + down * depth * 0.55,
               top + side * half * 0.4 + down * depth, top - side * half * 0.4 + down * depth,
               top - side * half * 0.85 + down * depth * 0.55]  # fmt: skip
    mask = _filled(size, np.asarray(outline))
    if rng.random() < 0.5:  # ear loops
        canvas = (mask * 255).astype(np.uint8)
        for sign in (-1, 1):
            start = top + sign * side * half * 0.95
            end = eyes + sign * side * reach * 1.6
            cv2.line(
                canvas,
                np.round(start).astype(int).tolist(),
                np.round(end).astype(int).tolist(),
                255,
                1,
                cv2.LINE_AA,
            )
        mask = canvas.astype(np.float32) / np.float32(255)
    return mask


def _upper_cover(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    eyes = landmarks[:2].mean(0)
    bottom = eyes[1] + size * rng.uniform(-0.12, 0.12)
    wave = np.linspace(0, size, 12)
    edge = np.stack([wave, bottom + rng.normal(0, 0.012 * size, 12).cumsum()], 1)
    return _filled(size, np.vstack([edge, [[size, 0], [0, 0]]]))


def _glasses(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    """Spectacles from the front: rims from a hair's breadth to a finger's, a bridge, arms, now and then lenses.

    Measures are in units of the eyes' distance; a pair is about twice as wide.
    """
    canvas = _canvas(size * 4)
    across = (landmarks[1] - landmarks[0]).astype(float) * 4
    gap = max(float(np.linalg.norm(across)), 1.0)
    along, down = across / gap, np.array([-across[1], across[0]]) / gap
    middle = landmarks[:2].mean(0) * 4 + down * gap * rng.uniform(-0.05, 0.14)
    wide = rng.uniform(0.62, 1.0)
    high = min(wide * rng.uniform(0.45, 1.0), 0.9)
    apart = np.clip(wide + rng.uniform(0.1, 0.35), 0.9, 1.25)
    rim = float(np.exp(rng.uniform(np.log(0.014), np.log(0.11))))
    filled, browline = rng.random() < 0.3, rng.random() < 0.35
    squareness, taper = rng.uniform(2, 6), rng.uniform(-0.05, 0.3)

    def line(
        points: list[NDArray[np.float64]] | NDArray[np.float64], thickness: float, *, closed: bool = False
    ) -> None:
        placed = [middle + gap * (x * along + y * down) for x, y in points]
        corners = np.round(placed).astype(np.int32)
        cv2.polylines(canvas, [corners], closed, 255, max(round(thickness * gap), 2), cv2.LINE_AA)
        if closed and filled:
            cv2.fillPoly(canvas, [corners], 255)

    reach, hinge, arm = (
        apart / 2 + wide / 2,
        high * rng.uniform(-0.45, -0.1),
        rng.choice([0.0, 0.05, rng.uniform(0.1, 0.6)]),
    )
    for sign in (-1, 1):
        outline = _lens(squareness, sign * taper) * (wide / 2, high / 2) + (sign * apart / 2, 0)
        line(outline, rim, closed=True)
        if browline:  # the upper half is heavier
            upper = outline[24:]
            line(upper, rim * rng.uniform(1.3, 2.5))
        if arm:
            start, end = np.array([sign * reach * 0.97, hinge]), np.array([sign * (reach + arm), hinge])
            line([start, end], rim * rng.uniform(0.8, 1.5))
    inner = apart / 2 - wide / 2
    for level in (rng.uniform(-0.35, 0.05), -0.5)[: 1 if rng.random() < 0.85 else 2]:
        sag = rng.uniform(-0.12, 0.02) if level > -0.5 else 0.0
        ends = inner + 0.06 if level > -0.5 else apart / 2
        line(
            [np.array([-ends, level * high]), np.array([0.0, level * high + sag]), np.array([ends, level * high])], rim
        )
    return _shrunk(canvas, size)


def _frame_colour(rng: np.random.Generator, size: int) -> Image:
    """What most spectacles are made of: black, grey, brown or metal, of one colour or with a tortoise's spots."""
    black, brown, metal = rng.uniform(5, 60) * np.ones(3), np.array([96, 58, 36]), np.array([190, 170, 140])
    colour = (black, brown * rng.uniform(0.3, 1.3), metal * rng.uniform(0.4, 1.3))[
        int(rng.choice(3, p=[0.6, 0.2, 0.2]))
    ]
    spots = cv2.resize(rng.random((24, 24)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    spotted = 1 - rng.choice([0.0, 0.0, 0.6]) * spots[..., None]
    return np.asarray((colour * spotted).clip(0, 255), np.uint8)


def _lens(squareness: float, taper: float) -> NDArray[np.float64]:
    """A superellipse of radius 1, from a circle (2) to a rounded square, narrower below on the side of ``taper``."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = (np.sign(f) * np.abs(f) ** (2 / squareness) for f in (np.cos(angles), np.sin(angles)))
    return np.stack([x + taper * y, y], 1)


def _cup(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    mouth = landmarks[3:].mean(0)
    centre = mouth + rng.normal(0, 0.04, 2) * size + [0, 0.08 * size]
    if rng.random() < 0.5:
        canvas = _canvas(size * 4)
        axes = (size * 4 * rng.uniform(0.08, 0.24), size * 4 * rng.uniform(0.08, 0.24))
        cv2.ellipse(canvas, (tuple((centre * 4).tolist()), axes, float(rng.uniform(0, 180))), 255, -1)
        return _shrunk(canvas, size)
    half, height = size * rng.uniform(0.08, 0.2), size * rng.uniform(0.15, 0.4)
    taper = rng.uniform(0.7, 1.0)
    outline = np.array([[-half, 0], [half, 0], [half * taper, height], [-half * taper, height]])
    turn = rng.normal(0, 0.35)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return _filled(size, outline @ rotation.T + centre)


def _texture(
    rng: np.random.Generator, face: Image, donor: Image, landmarks: NDArray[np.float32], *, of_skin: float
) -> Image:
    size = face.shape[0]
    if rng.random() < of_skin:
        return _skin(rng, face if rng.random() < 0.6 else donor, landmarks)
    kind = rng.choice(["flat", "noise", "donor", "stripes"], p=[0.32, 0.22, 0.3, 0.16])
    if kind == "donor":
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), float(rng.uniform(0, 360)), float(rng.uniform(1.0, 2.5)))
        return np.asarray(cv2.warpAffine(donor, turn, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
    return _plain_texture(rng, size, str(kind))


def _plain_texture(rng: np.random.Generator, size: int, kind: str = "noise") -> Image:
    base = (
        rng.uniform(0, 255, 3)
        if rng.random() < 0.4
        else np.repeat(rng.choice([15, 30, 45, 128, 235, 250]), 3).astype(float)
    )
    if kind == "flat":
        return np.broadcast_to(np.clip(base, 0, 255), (size, size, 3)).astype(np.uint8)
    other = rng.uniform(0, 255, 3)
    if kind == "stripes":
        y, x = np.mgrid[:size, :size]
        turn, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
        wave = np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period) * rng.uniform(1, 6)
        blend = 1 / (1 + np.exp(-wave))
        if rng.random() < 0.4:
            blend = blend * (1 / (1 + np.exp(-np.sin(2 * np.pi * (y * np.cos(turn) - x * np.sin(turn)) / period) * 4)))
    else:
        blend = np.zeros((size, size))
        for cells in (4, 11, 32, size):
            grid = rng.random((cells, cells)).astype(np.float32)
            blend += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * rng.random()
        blend = (blend - blend.min()) / max(np.ptp(blend), 1e-6)
    blended = base * (1 - blend[..., None]) + other * blend[..., None]
    return np.asarray(blended.clip(0, 255), np.uint8)


def _skin(rng: np.random.Generator, photo: Image, landmarks: NDArray[np.float32]) -> Image:
    """Skin-like filling: a cheek patch of a photo, stretched, with new low-frequency shading."""
    size = photo.shape[0]
    eye, corner = (landmarks[0], landmarks[3]) if rng.random() < 0.5 else (landmarks[1], landmarks[4])
    cheek = eye * 0.45 + corner * 0.55 + rng.normal(0, 0.01 * size, 2)
    reach = max(int(size * rng.uniform(0.04, 0.09)), 4)
    x, y = np.clip(np.round(cheek).astype(int), reach, size - reach - 1)
    patch = photo[y - reach : y + reach, x - reach : x + reach]
    skin = cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    coarse = cv2.resize(rng.normal(1, 0.16, (5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    tone = np.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.03, 3))
    shaded = skin * coarse[..., None] * tone + rng.normal(0, 4, (size, size, 1))
    return np.asarray(shaded.clip(0, 255), np.uint8)


def _shade(rng: np.random.Generator, texture: Image, light: NDArray[np.float32]) -> Image:
    size = texture.shape[0]
    room = cv2.resize(rng.normal(1, 0.2, (3, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray((texture * light * room[..., None]).clip(0, 255), np.uint8)
