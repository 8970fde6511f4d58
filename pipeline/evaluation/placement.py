"""Laying a cut-out over a face so that it looks as if it had been there: place, skin tone, light, sharpness, shadow."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Portrait:
    """A photo: ``image`` H×W×3 uint8 RGB, ``landmarks`` 5×2 and the amodal outline ``oval`` K×2, (x, y) in pixels."""

    image: Picture
    landmarks: Points
    oval: Points | None = None

    @property
    def outline(self) -> Points:
        """K×2: the oval, or an ellipse by the landmarks."""
        if self.oval is not None:
            return self.oval
        eyes, mouth = self.landmarks[:2].mean(0), self.landmarks[3:].mean(0)
        down = mouth - eyes
        side = np.array([down[1], -down[0]])
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)[:, None]
        return np.asarray(eyes + 0.45 * down + 1.05 * side * np.cos(angles) + 1.4 * down * np.sin(angles), float)

    @property
    def region(self) -> NDArray[np.bool_]:
        """H×W, inside the outline."""
        filled = np.zeros(self.image.shape[:2], np.uint8)
        cv2.fillPoly(filled, [np.round(self.outline).astype(np.int32)], 1)
        return filled.astype(bool)


@dataclass(frozen=True)
class Placed:
    """A composed photo: ``image`` H×W×3 uint8 and ``hidden`` H×W bool, the covered part of the face."""

    image: Picture
    hidden: NDArray[np.bool_]


def tight(rng: np.random.Generator, face: Portrait) -> Portrait:
    """The photo cut to about the face's outline, as people crop portraits: each side up to a tenth in or out."""
    low, high = face.outline.min(0), face.outline.max(0)
    width, height = (high - low).tolist()
    jitter = rng.uniform(-0.1, 0.1, 4) * (width, height, width, height)
    corners = np.round(np.array([*low, *high]) + jitter).astype(int)
    x0, y0 = np.maximum(corners[:2], 0)
    image = np.ascontiguousarray(face.image[y0 : corners[3], x0 : corners[2]])
    oval = None if face.oval is None else face.oval - (x0, y0)
    return Portrait(image, face.landmarks - (x0, y0), oval)


def place(rng: np.random.Generator, face: Portrait, kind: str, thing: Picture, *, entering: bool = False) -> Placed:
    """Lay h×w×4 uint8 RGBA over a face, the way of its kind; an unknown kind is put somewhere on the lower face.

    What is ``entering`` reaches in from the photo's border, whatever its kind.
    """
    thing = _cropped(thing)
    pose = _entering if entering else _pose
    matrix = pose(rng, face, kind, thing)
    height, width = face.image.shape[:2]
    flags = cv2.INTER_AREA if np.sqrt(abs(np.linalg.det(matrix[:, :2]))) < 1 else cv2.INTER_LINEAR
    warped = cv2.warpAffine(_shrunk(thing, matrix), _for_shrunk(thing, matrix), (width, height), flags=flags)
    alpha = warped[..., 3].astype(np.float32) / np.float32(255)
    colour = warped[..., :3].astype(np.float32) / np.maximum(alpha, np.float32(0.05))[..., None]  # premultiplied
    colour = colour.clip(0, 255)
    if kind == "hands":
        colour = skin_toned(colour, alpha > 0.5, face)
    colour = as_sharp_as(as_light_as(colour, alpha > 0.5, face, 0.25), face.image)
    shadow = cv2.GaussianBlur(np.roll(alpha, (height // 90, width // 120), (0, 1)), (0, 0), max(width / 90, 1))
    ground = face.image * (1 - float(rng.uniform(0, 0.35)) * (shadow * (1 - alpha)))[..., None]
    image = ground * (1 - alpha[..., None]) + colour * alpha[..., None]
    return Placed(np.asarray(image.clip(0, 255), np.uint8), (alpha > 0.5) & face.region)


def _cropped(thing: Picture) -> Picture:
    rows, columns = np.nonzero(thing[..., 3] > 20)
    cut = thing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)
    cut[..., :3] *= cut[..., 3:] / 255  # premultiplied, so that what is transparent does not bleed in
    return np.asarray(cut.round(), np.uint8)


def _shrunk(thing: Picture, matrix: Points) -> Picture:
    """The thing made smaller beforehand, where the pose would make it much smaller: warping alone would alias."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale >= 0.6:
        return thing
    size = (max(round(thing.shape[1] * scale), 1), max(round(thing.shape[0] * scale), 1))
    return np.asarray(cv2.resize(thing, size, interpolation=cv2.INTER_AREA), np.uint8)


def _for_shrunk(thing: Picture, matrix: Points) -> Points:
    small = _shrunk(thing, matrix)
    return np.asarray(matrix @ np.diag([thing.shape[1] / small.shape[1], thing.shape[0] / small.shape[0], 1.0]), float)


def _entering(rng: np.random.Generator, face: Portrait, kind: str, thing: Picture) -> Points:
    """2×3: a thing's cut-off side lies on the photo's border, mostly below the face, and its other end on the face.

    Where the border is so far away that the thing would be larger than the face, it ends before it.
    """
    del kind  # what reaches in does so in the same way
    height, width = thing.shape[:2]
    solid = thing[..., 3] > 127
    edges = np.array([solid[-1].mean(), solid[:, 0].mean(), solid[0].mean(), solid[:, -1].mean()])
    quarter = int(edges.argmax())  # a cut-out was cut off where most of its edge is opaque: below, left, above, right
    long, thick = (height, width) if quarter % 2 == 0 else (width, height)
    span = np.ptp(face.outline, axis=0)
    bounds = np.array(face.image.shape[1::-1], float)
    tip = (face.outline.mean(0) + rng.normal(0, 0.18, 2) * span).clip(0, bounds)
    angle = rng.normal(np.pi / 2, 0.9)  # π/2 is downwards
    way = np.array([np.cos(angle), np.sin(angle)])
    reach = float((np.where(way > 0, bounds - tip, -tip) / way).min()) + 0.03 * float(span.max())
    scale = min(reach / long, 1.2 * float(span.max()) / thick, 1.6 * float(span.max()) / long)
    turn = angle - (quarter + 1) * np.pi / 2
    return _similarity(scale, turn, tip + way * scale * long / 2, width, height)


def _pose(rng: np.random.Generator, face: Portrait, kind: str, thing: Picture) -> Points:
    """2×3: where a thing's pixels go."""
    height, width = thing.shape[:2]
    marks, outline = face.landmarks, face.outline
    across, centre = marks[1] - marks[0], outline.mean(0)
    eyes, mouth = marks[:2].mean(0), marks[3:].mean(0)
    gap, turn = float(np.linalg.norm(across)), float(np.arctan2(across[1], across[0]))
    right = across / max(gap, 1e-6)
    wide = float(np.ptp(outline @ right))
    long = float(np.ptp(outline @ np.array([-right[1], right[0]])))
    if kind == "hands":
        spot = centre + rng.normal(0, 0.2, 2) * (wide, long) + (0, 0.12 * long)
        return _similarity(rng.uniform(0.75, 1.15) * long / max(width, height), rng.uniform(-np.pi, np.pi), spot,
                           width, height)  # fmt: skip
    if kind == "medical_masks":
        chin = outline[(outline @ np.array([-right[1], right[0]])).argmax()]
        return _similarity(1.03 * wide / width, turn, 0.5 * (marks[2] + chin), width, height)
    if kind in {"glasses", "sunglasses"}:
        return _similarity(2.15 * gap / width, turn, eyes + 0.06 * (mouth - eyes), width, height)
    if kind == "scarves":  # from somewhere on the nose downwards, however long it is
        scale, top = 1.3 * wide / width, eyes + rng.uniform(0.2, 0.65) * (mouth - eyes)
        return _similarity(scale, turn, top + np.array([-right[1], right[0]]) * scale * height / 2, width, height)
    reach = rng.uniform(0.35, 0.75) * wide
    spot = mouth + rng.normal(0, 0.16, 2) * (wide, long) - rng.uniform(0, 0.5) * (mouth - eyes)
    return _similarity(reach / max(width, height), turn + rng.normal(0, 0.35), spot, width, height)


def _similarity(scale: float, turn: float, spot: Points, width: int, height: int) -> Points:
    """Scale, turn, and put the thing's centre at ``spot``; 2×3."""
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([linear, (spot - linear @ (width / 2, height / 2))[:, None]])


def random_shape(rng: np.random.Generator, texture: Picture) -> Picture:
    """An h×w×4 smooth blob filled with a texture (RandOcc)."""
    side = min(texture.shape[:2])
    filling = texture[:side, :side].copy()
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    ripple = 1 + sum(rng.normal(0, 0.3 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    radius = 0.48 * side * ripple / np.max(ripple)
    stretch = np.exp(rng.normal(0, 0.25))
    points = np.stack([np.cos(angles) * radius * min(stretch, 1), np.sin(angles) * radius / max(stretch, 1)], 1)
    alpha = np.zeros((side, side), np.uint8)
    cv2.fillPoly(alpha, [np.round(points + side / 2).astype(np.int32)], 255, cv2.LINE_AA)
    filling[..., 3] = alpha
    return filling


def cheeks(face: Portrait) -> Picture:
    """N×3 RGB pixels of both cheeks."""
    gap = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
    reach = max(round(0.09 * gap), 2)
    patches = []
    for eye, corner in ((0, 3), (1, 4)):
        x, y = np.round(0.45 * face.landmarks[eye] + 0.55 * face.landmarks[corner]).astype(int)
        patch = face.image[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
        patches.append(patch.reshape(-1, 3))
    found = np.concatenate(patches)
    return found if len(found) else face.image.reshape(-1, 3)


def skin_toned(colour: NDArray[np.float32], inside: NDArray[np.bool_], face: Portrait) -> NDArray[np.float32]:
    """Move a hand's mean colour to the cheeks', in CIE Lab (Reinhard et al., 2001), and most of its lightness."""
    if not inside.any():
        return colour
    lab = cv2.cvtColor(colour / np.float32(255), cv2.COLOR_RGB2LAB)
    skin = cv2.cvtColor(cheeks(face)[None].astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)[0]
    lab += (skin.mean(0) - lab[inside].mean(0)) * np.array([0.85, 1, 1], np.float32)
    return np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB).clip(0, 1) * 255, np.float32)


def as_light_as(
    colour: NDArray[np.float32], inside: NDArray[np.bool_], face: Portrait, share: float
) -> NDArray[np.float32]:
    """Bring a thing's mean lightness a ``share`` of the way to the face's; its own colour stays."""
    if not inside.any():
        return colour
    ratio = float(cheeks(face).mean()) / max(float(colour[inside].mean()), 1.0)
    return np.asarray(colour * np.clip(ratio, 0.4, 2.0) ** share, np.float32)


def as_sharp_as(colour: NDArray[np.float32], photo: Picture) -> NDArray[np.float32]:
    """Blur a thing until it is no sharper than the photo, by the spread of the Laplacian."""
    wanted = float(np.abs(cv2.Laplacian(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32), -1)).mean())
    for sigma in (0.0, 0.5, 0.8, 1.2):
        soft = cv2.GaussianBlur(colour, (0, 0), sigma) if sigma else colour
        grey = cv2.cvtColor(soft, cv2.COLOR_RGB2GRAY)
        if float(np.abs(cv2.Laplacian(grey, -1)).mean()) <= 2 * wanted:
            break
    return np.asarray(soft, np.float32)
