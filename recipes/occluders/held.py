"""Things held at the mouth or before the face: bottles, cups, microphones, spoons, telephones."""

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import Alpha, Image, Thing, canvas, filled, pose, shrunk, smooth, thing
from recipes.occluders.textures import colour, plain_texture, shade

Points = NDArray[np.float64]


def held(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """A long thing that comes from below or from a side and ends at the mouth, round as a cylinder or a ball."""
    size, face = donor.shape[0], pose(landmarks)
    turn = rng.normal(0, 0.7)  # from straight below to a side
    along = face.down * np.cos(turn) + face.across * np.sin(turn)
    across = np.array([-along[1], along[0]])
    end = face.at([rng.normal(0, 0.2), 1.05 + rng.normal(0, 0.2)])
    profile, head = _profile(rng)
    unit = face.unit * np.exp(rng.normal(0, 0.15))
    left, right = (end + unit * (profile[:, :1] * along + side * profile[:, 1:] * across) for side in (-1, 1))
    shape = filled(size, np.vstack([left, right[::-1]]))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    away = ((x - end[0]) * along[0] + (y - end[1]) * along[1]) / np.float32(unit)
    half = np.interp(away, profile[:, 0], profile[:, 1]).clip(0.05)
    aside = ((x - end[0]) * across[0] + (y - end[1]) * across[1]) / np.float32(unit) / half
    light = _gloss(rng, aside)
    paint = _bands(rng, size, away, head) * light[..., None]
    return thing(shape, shade(rng, np.asarray(paint.clip(0, 255), np.uint8)))


def _profile(rng: np.random.Generator) -> tuple[Points, float]:
    """Half widths along the axis, K×2 (away from the mouth, half width), and where the head or neck ends."""
    kind = rng.choice(["bottle", "microphone", "stick", "box", "jug"], p=[0.32, 0.28, 0.14, 0.14, 0.12])
    if kind == "bottle":
        neck, body, length = rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.75), rng.uniform(0.15, 0.6)
        shoulder = length + rng.uniform(0.1, 0.5)
        outline = [(0, neck * 0.9), (0.05, neck), (length, neck), (shoulder, body), (5, body)]
        return np.array(outline), length * rng.uniform(0.5, 1)
    if kind == "microphone":
        ball, handle = rng.uniform(0.2, 0.5), rng.uniform(0.12, 0.25)
        angles = np.linspace(0, 2.6, 10)
        points = np.stack([ball * (1 - np.cos(angles)), ball * np.sin(angles) + 0.01], 1)
        return np.vstack([points, [(2.4 * ball, handle), (5, handle * 0.7)]]), 1.7 * ball
    if kind == "stick":
        head, rod = rng.uniform(0.05, 0.25), rng.uniform(0.02, 0.08)
        angles = np.linspace(0, 3.0, 10)
        points = np.stack([head * (1 - np.cos(angles)), head * np.sin(angles) + rod * 0.5], 1)
        return np.vstack([points, [(5, rod)]]), 2 * head
    if kind == "box":
        half, length = rng.uniform(0.2, 0.6), rng.uniform(0.8, 4)
        return np.array([(0, half * 0.8), (0.06, half), (length - 0.06, half), (length, half * 0.8)]), 0.1
    rim, base = rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.7)
    return np.array([(0, rim), (rng.uniform(0.8, 4), base)]), rng.uniform(0.02, 0.3)


def _gloss(rng: np.random.Generator, aside: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light on a cylinder across its axis, −1..1: dark towards the edges, a bright line or two."""
    light = 1 - rng.uniform(0.1, 0.6) * aside.clip(-1, 1) ** 2 + rng.uniform(-0.3, 0.3) * aside
    for _ in range(int(rng.integers(0, 3))):
        light += rng.uniform(0.1, 0.9) * np.exp(-(((aside - rng.uniform(-0.8, 0.8)) / rng.uniform(0.04, 0.2)) ** 2))
    return np.asarray(light.clip(0.2, 2.2), np.float32)


def _bands(rng: np.random.Generator, size: int, away: NDArray[np.float32], head: float) -> NDArray[np.float32]:
    """A head of one surface, a body of another, and now and then a label, S×S×3 in 0..255."""
    kinds = ["flat", "flat", "flat", "noise", "print", "stripes"]
    paint = plain_texture(rng, size, str(rng.choice(kinds))).astype(np.float32)
    if rng.random() < 0.4:  # a label
        start = head + rng.uniform(0.1, 0.8)
        inside = (away > start) & (away < start + rng.uniform(0.2, 1.0))
        paint = np.where(inside[..., None], plain_texture(rng, size, str(rng.choice(kinds))), paint)
    if rng.random() < 0.7:
        top = plain_texture(rng, size, "flat").astype(np.float32)
        if rng.random() < 0.4:  # wire mesh
            y, x = np.mgrid[:size, :size].astype(np.float32)
            step = rng.uniform(2, 5) * size / 128
            top *= (1 + 0.35 * np.sin(2 * np.pi * (x + y) / step) * np.sin(2 * np.pi * (x - y) / step))[..., None]
        paint = np.where((away < head)[..., None], top, paint)
    return paint


def cup(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    """A disc or a beaker before the mouth."""
    mouth = landmarks[3:].mean(0)
    centre = mouth + rng.normal(0, 0.04, 2) * size + [0, 0.08 * size]
    if rng.random() < 0.5:
        drawn = canvas(size * 2)
        axes = (size * 2 * rng.uniform(0.08, 0.24), size * 2 * rng.uniform(0.08, 0.24))
        cv2.ellipse(drawn, (tuple((centre * 2).tolist()), axes, float(rng.uniform(0, 180))), 255, -1)
        return shrunk(drawn, size)
    half, height = size * rng.uniform(0.08, 0.2), size * rng.uniform(0.15, 0.4)
    taper = rng.uniform(0.7, 1.0)
    outline = np.array([[-half, 0], [half, 0], [half * taper, height], [-half * taper, height]])
    turn = rng.normal(0, 0.35)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return filled(size, outline @ rotation.T + centre)


def beads(rng: np.random.Generator, donor: Image, landmarks: NDArray[np.float32]) -> Thing:
    """Strings of pearls, or chains, that hang or lie across the face."""
    size, face = donor.shape[0], pose(landmarks)
    drawn, light = canvas(size * 2), np.ones((size * 2, size * 2), np.float32)
    radius = face.unit * rng.uniform(0.025, 0.1)
    for _ in range(int(rng.integers(1, 5))):
        start, end = ([rng.uniform(-1.4, 1.4), rng.uniform(-1.2, 1.9)] for _ in range(2))
        sag = [(start[0] + end[0]) / 2 + rng.normal(0, 0.3), (start[1] + end[1]) / 2 + rng.uniform(-0.2, 0.8)]
        line = face.at(smooth(np.array([start, sag, end]), 4, closed=False))
        steps = np.hypot(*np.diff(line, axis=0).T)
        places = np.arange(0, steps.sum(), radius * rng.choice([2.0, 2.0, 2.6]))
        reach = np.concatenate([[0], steps.cumsum()])
        for x, y in np.stack([np.interp(places, reach, line[:, k]) for k in (0, 1)], 1) * 2:
            r, bright = 2 * radius, rng.uniform(0.85, 1.1)
            cv2.circle(drawn, (round(x), round(y)), max(round(r), 1), 255, -1, cv2.LINE_AA)
            cv2.circle(light, (round(x), round(y)), max(round(r), 1), 0.6 * bright, -1)
            cv2.circle(light, (round(x - 0.15 * r), round(y - 0.2 * r)), max(round(0.7 * r), 1), bright, -1)
            cv2.circle(light, (round(x - 0.3 * r), round(y - 0.35 * r)), max(round(0.25 * r), 1), 1.5 * bright, -1)
    nacre = np.array([(225, 218, 205), (190, 170, 110), (180, 182, 188)])[int(rng.integers(3))]
    tone = nacre + rng.normal(0, 12, 3) if rng.random() < 0.75 else colour(rng)
    shaded = cv2.resize(light, (size, size), interpolation=cv2.INTER_AREA)[..., None] * tone
    return thing(shrunk(drawn, size), shade(rng, np.asarray(shaded.clip(0, 255), np.uint8)))
