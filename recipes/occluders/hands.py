"""Hands, finger by finger: before the face, or at its edge, coming from outside."""

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.shapes import Alpha, Body, anywhere, canvas, lit, pose, shrunk

Vector = NDArray[np.float64]


def hand(rng: np.random.Generator, size: int) -> Body:
    """A palm, a wrist and two to five fingers, stretched out or folded to a fist, each lit as a round body."""
    palm, width = anywhere(rng, size), size * rng.uniform(0.03, 0.065)
    return _hand(rng, size, palm, width, rng.uniform(0, 2 * np.pi), fingers=int(rng.integers(2, 6)))


def hand_at_the_edge(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Body:
    """A hand that comes from outside, one to five of whose fingers lie on cheek, chin or forehead."""
    face = pose(landmarks)
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)])
    edge = face.at(np.array([0, 0.45]) + outward * (1.1, 1.25) * rng.uniform(0.45, 1.15))
    heading = np.arctan2(-outward[1], -outward[0]) + rng.normal(0, 0.55)
    width = face.unit * rng.uniform(0.1, 0.19)
    reach = width * rng.uniform(2.0, 5.5)  # from the fingers' base to their tips
    palm = edge - reach * np.array([np.cos(heading), np.sin(heading)])
    return _hand(rng, size, palm, width, heading, fingers=int(rng.integers(1, 6)))


def _hand(
    rng: np.random.Generator, size: int, palm: Vector, width: float, heading: float, *, fingers: int
) -> Body:  # fmt: skip
    """The fingers start at ``palm`` and point to ``heading``; each is about twice ``width`` thick."""
    scale = 2 if size <= 128 else 1
    palm, width = palm * scale, width * scale
    folded = rng.random() < 0.35
    spread = 0.0 if folded else rng.uniform(0.0, 0.28)
    across = np.array([-np.sin(heading), np.cos(heading)])
    along = np.array([np.cos(heading), np.sin(heading)])
    layers, nails = [], canvas(size * scale)
    if rng.random() < 0.85:
        drawn = canvas(size * scale)
        centre = palm - along * width * 2.2
        cv2.ellipse(drawn, (tuple(centre.tolist()), (width * 5.8, width * 7.2), float(np.rad2deg(heading))), 255, -1)
        wrist = np.round([centre, centre - along * size * scale * 1.3]).astype(np.int32)
        cv2.polylines(drawn, [wrist], False, 255, int(width * rng.uniform(3.5, 5)), cv2.LINE_AA)
        layers.append(shrunk(drawn, size))
    pointing = int(rng.integers(-4, 5))  # one finger of some fists is stretched out
    first = int(rng.integers(0, 6 - fingers))
    for finger in range(first, first + fingers):
        base = palm + across * (finger - 1.5) * width * 1.9
        direction = heading + (finger - 1.5) * spread + rng.normal(0, 0.06)
        length = width * (rng.uniform(0.3, 0.8) if folded and finger != pointing else rng.uniform(2.0, 3.2))
        line = _finger(rng, base, direction, length) - np.vstack([along * width, [[0, 0], [0, 0]]])
        thick = width * rng.uniform(1.5, 2.1)
        layers.append(shrunk(_stroked(size * scale, line, thick), size))
        _nail(nails, line, thick)
    body = lit(rng, layers, relief=rng.uniform(0.1, 0.6), crease=rng.uniform(0.0, 0.5))
    return _with_nails(rng, body, shrunk(nails, size)) if rng.random() < 0.4 and not folded else body


def _finger(rng: np.random.Generator, base: Vector, direction: float, length: float) -> NDArray[np.float64]:
    """Base, joint and tip, 3×2."""
    bend = rng.normal(0, 0.25)
    joint = base + length * np.array([np.cos(direction), np.sin(direction)])
    tip = joint + length * 0.9 * np.array([np.cos(direction + bend), np.sin(direction + bend)])
    return np.stack([base, joint, tip])


def _stroked(side: int, line: NDArray[np.float64], thick: float) -> NDArray[np.uint8]:
    drawn = canvas(side)
    cv2.polylines(drawn, [np.round(line).astype(np.int32)], False, 255, max(int(thick), 1), cv2.LINE_AA)
    return drawn


def _nail(drawn: NDArray[np.uint8], line: NDArray[np.float64], thick: float) -> None:
    towards = line[2] - line[1]
    towards = towards / max(float(np.linalg.norm(towards)), 1e-6)
    centre = line[2] + towards * thick * 0.12
    turn = float(np.rad2deg(np.arctan2(towards[1], towards[0])))
    cv2.ellipse(drawn, (tuple(centre.tolist()), (thick * 0.75, thick * 0.55), turn), 255, -1, cv2.LINE_AA)


def _with_nails(rng: np.random.Generator, body: Body, nails: Alpha) -> Body:
    """The hand with nails that are a bit brighter than the skin, or varnished."""
    varnish = np.exp(rng.normal(0, 0.5, 3)) * rng.uniform(0.3, 1.1)
    tint = (np.array([1.15, 1.08, 1.1]) if rng.random() < 0.6 else varnish).astype(np.float32)
    nails = (nails * body.alpha)[..., None]
    return Body(body.alpha, body.light * (1 - nails) + body.light * tint * nails)
