"""Procedural things to hide a face with: drawn shapes filled with drawn textures, no cut-outs and no annotation.

Recipes paste these on clean faces, so that a network can be asked for what lies underneath.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.occluders.cloth import headwear, scarf, strands, upper_cover, veil
from recipes.occluders.glasses import EYEGLASSES, drawn_pair, frame_colour, glasses
from recipes.occluders.hands import hand, hand_at_the_edge
from recipes.occluders.held import beads, cup, held
from recipes.occluders.masks import mask
from recipes.occluders.shapes import (
    NAMELESS,
    Alpha,
    Image,
    Thing,
    anywhere,
    bar,
    blob,
    plain_body,
    thing,
)  # fmt: skip
from recipes.occluders.textures import shade, texture

__all__ = ["KINDS", "NAMELESS", "Occluded", "drawn_thing", "occlude", "paste"]


@dataclass(frozen=True)
class Occluded:
    """A photo with things pasted on it.

    ``image`` S×S×3 uint8; ``alpha`` S×S in 0..1, where the things are; ``names`` S×S uint8, the parse ids of pasted
    glasses, hats and hair, which a parser should know as what they are, 255 elsewhere.
    """

    image: Image
    alpha: Alpha
    names: NDArray[np.uint8]


KINDS = {"hand": 0.24, "glasses": 0.21, "mask": 0.11, "held": 0.08, "veil": 0.05, "beads": 0.03, "headwear": 0.05,
         "scarf": 0.04, "strands": 0.03, "shape": 0.16}  # fmt: skip
"""How often each kind of thing is drawn."""


def occlude(rng: np.random.Generator, face: Image, donor: Image, landmarks: NDArray[np.float32]) -> Occluded:
    """Paste one or two random occluders on ``face``.

    Args:
        rng: the only source of randomness.
        face: S×S×3 uint8, an aligned face.
        donor: S×S×3 uint8, another photo, whose pixels may fill a shape.
        landmarks: 5×2 (x, y) in the face's pixels, for things that sit on a face; image left first.
    """
    image, alpha = face, np.zeros(face.shape[:2], np.float32)
    names = np.full(face.shape[:2], NAMELESS, np.uint8)
    for _ in range(1 if rng.random() < 0.75 else 2):
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        drawn = drawn_thing(rng, kind, face, donor, landmarks)
        image, extent = paste(rng, image, drawn)
        alpha = np.maximum(alpha, extent)
        names = np.where(extent > 0.5, drawn.names, names)
    return Occluded(image, alpha, names)


def paste(rng: np.random.Generator, image: Image, drawn: Thing) -> tuple[Image, Alpha]:
    """The photo with a thing on it, its edge softened as a lens does, and the thing's extent there."""
    thin = drawn.extent.sum() < 0.03 * drawn.extent.size  # a blurred frame of one pixel would be hardly there
    softness = float(rng.uniform(0.3, 0.6) if thin else rng.uniform(0.4, 1.2)) * image.shape[0] / 128
    opacity = cv2.GaussianBlur(drawn.opacity, (0, 0), softness) * np.float32(rng.choice([1.0, 1.0, 0.94]))
    extent = opacity if drawn.extent is drawn.opacity else cv2.GaussianBlur(drawn.extent, (0, 0), softness)
    if rng.random() < 0.4:  # a soft shadow beside the thing
        shadow = cv2.GaussianBlur(np.roll(drawn.opacity, rng.integers(-4, 5, 2), (0, 1)), (0, 0), 3.0)
        image = (image * (1 - 0.45 * shadow[..., None] * np.float32(rng.random()))).astype(np.uint8)
    mixed = image * (1 - opacity[..., None]) + drawn.paint * opacity[..., None]
    return mixed.astype(np.uint8), np.asarray(extent, np.float32)


def drawn_thing(
    rng: np.random.Generator, kind: str, face: Image, donor: Image, landmarks: NDArray[np.float32]
) -> Thing:
    """One thing of a ``kind`` of :data:`KINDS`; the other arguments are those of :func:`occlude`."""
    size = face.shape[0]
    coloured = {"mask": mask, "held": held, "veil": veil, "beads": beads, "headwear": headwear, "scarf": scarf,
                "strands": strands}  # fmt: skip
    if kind in coloured:
        return coloured[kind](rng, donor, landmarks)
    if kind == "glasses":
        if rng.random() < 0.85:
            return glasses(rng, face, donor, landmarks)
        rims = drawn_pair(rng, size, landmarks).rims  # of any stuff
        frame = frame_colour(rng, size) if rng.random() < 0.3 else texture(rng, face, donor, landmarks, of_skin=0.1)
        return thing(rims, shade(rng, frame), name=EYEGLASSES)
    if kind == "hand":
        body = hand(rng, size) if rng.random() < 0.5 else hand_at_the_edge(rng, size, landmarks)
        return thing(body.alpha, shade(rng, texture(rng, face, donor, landmarks, of_skin=0.87), body.light))
    body = plain_body(rng, _shape(rng, size, landmarks))
    return thing(body.alpha, shade(rng, texture(rng, face, donor, landmarks, of_skin=0.3), body.light))


def _shape(rng: np.random.Generator, size: int, landmarks: NDArray[np.float32]) -> Alpha:
    kind = rng.choice(["blob", "edge", "bar", "upper", "cup"], p=[0.38, 0.16, 0.22, 0.1, 0.14])
    if kind == "blob":
        return blob(rng, size, anywhere(rng, size), size * rng.uniform(0.07, 0.3))
    if kind == "edge":  # it enters from outside the frame
        angle = rng.uniform(0, 2 * np.pi)
        outside = size * (0.5 + 0.55 * np.array([np.cos(angle), np.sin(angle)]))
        return blob(rng, size, outside, size * rng.uniform(0.2, 0.42))
    if kind == "bar":
        return bar(rng, size)
    return upper_cover(rng, size, landmarks) if kind == "upper" else cup(rng, size, landmarks)
