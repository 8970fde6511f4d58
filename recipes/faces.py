"""Training faces: aligned crops, parse maps and face outlines in one frame, cached as a NumPy archive.

The recipes read a ``faces.parquet`` with the columns ``image``, ``landmarks`` (5×2), ``face_oval`` (K×2) and
``parse`` (a CelebAMask-HQ annotation map, or null). None of these photos is shipped with the package.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.alignment import Alignment, moved
from s3pot_batch.stages.models.protocols import GREY
from s3pot_batch.stages.models.taxonomy import CELEBM

ANNOTATED = {
    "background": "background", "skin": "face", "nose": "nose", "eye_g": "eyeg", "l_eye": "le", "r_eye": "re",
    "l_brow": "lb", "r_brow": "rb", "l_ear": "lr", "r_ear": "rr", "mouth": "imouth", "u_lip": "ulip", "l_lip": "llip",
    "hair": "hair", "hat": "hat", "ear_r": "earr", "neck_l": "neck_l", "neck": "neck", "cloth": "cloth",
}  # fmt: skip
"""CelebAMask-HQ's names, in the order of its annotation ids → facer's ``celebm/448`` names."""
UNLABELLED = 255


@dataclass(frozen=True)
class Faces:
    """N aligned faces of side S (the frame is drawn with a margin of 10 % for augmentation)."""

    images: NDArray[np.uint8]
    """N×S×S×3 RGB; beyond the photo's border it is mirrored, which a recipe paints over (:func:`outside_is_grey`)."""
    valid: NDArray[np.uint8]
    """N×S×S, 1 where the photo fills the frame."""
    parsing: NDArray[np.uint8]
    """N×S×S ``celebm`` ids, 255 where there is no annotation."""
    ovals: NDArray[np.uint8]
    """N×S×S, 1 inside the amodal face outline."""
    landmarks: NDArray[np.float32]
    """N×5×2 in frame pixels."""
    held_out: NDArray[np.bool_]
    """N, true for the tenth of the faces that no recipe trains on."""


MARGIN = 1.1
GLASSES = 25
"""Pixels of eyeglasses in a 176-pixel face from which on it shows no clean face: what is to be removed is no target."""
COVERED = 0.06
"""Share of a face's oval under a hat, or under what is neither face nor hair, from which on it is no clean face."""
SIZE = 128
"""Side of the frames that parser, inpainter and segmenter see."""


def is_held_out(name: str) -> bool:
    """A tenth of the faces by a hash of the file's name: the same ones for every recipe."""
    return hashlib.sha256(Path(name).stem.encode()).digest()[0] < 26


def load_faces(data: Path, cache: Path, size: int = 176) -> Faces:
    """Align every face of ``data/faces.parquet`` into S×S crops, once; later calls read ``cache``."""
    archive = cache / f"faces-{size}.npz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        np.savez(archive, allow_pickle=False, **_align_all(data, size))
    with np.load(archive) as stored:
        return Faces(**{name: stored[name] for name in stored.files})


def _align_all(data: Path, size: int) -> dict[str, NDArray[np.generic]]:
    rows = [row for row in pq.read_table(data / "faces.parquet").to_pylist() if row["landmarks"] and row["face_oval"]]
    images = np.zeros((len(rows), size, size, 3), np.uint8)
    parsing = np.full((len(rows), size, size), UNLABELLED, np.uint8)
    ovals = np.zeros((len(rows), size, size), np.uint8)
    valid = np.zeros((len(rows), size, size), np.uint8)
    landmarks = np.zeros((len(rows), 5, 2), np.float32)
    for n, row in enumerate(rows):
        photo = cv2.cvtColor(cv2.imread(str(data / row["image"])), cv2.COLOR_BGR2RGB)
        points = np.asarray(row["landmarks"], np.float64)
        matrix = widened(Alignment.by_landmarks(points, size).matrix, size)
        images[n] = cv2.warpAffine(photo, matrix, (size, size), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
        valid[n] = cv2.warpAffine(np.ones(photo.shape[:2], np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
        oval = moved(np.asarray(row["face_oval"], np.float64), matrix)
        cv2.fillPoly(ovals[n], [np.round(oval).astype(np.int32)], 1)
        landmarks[n] = moved(points, matrix)
        if row["parse"]:
            parse = read_annotation(data / row["parse"], photo.shape[:2])
            parsing[n] = cv2.warpAffine(parse, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    held_out = np.array([is_held_out(row["image"]) for row in rows])
    return {
        "images": images,
        "valid": valid,
        "parsing": parsing,
        "ovals": ovals,
        "landmarks": landmarks,
        "held_out": held_out,
    }


def is_bare(faces: Faces, parsing: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """N, true for faces with nothing in front that the parse maps know of: neither glasses, nor a hat, nor a hand."""
    bare = CELEBM.where(parsing, CELEBM.worn).sum(axis=(1, 2)) < GLASSES
    kernel = np.ones((9, 9), np.uint8)  # an oval drawn by landmarks is not exact
    for n in np.flatnonzero(bare):
        oval = (cv2.erode(faces.ovals[n], kernel) & faces.valid[n]) > 0
        strange = ~CELEBM.where(parsing[n], (*CELEBM.face, "hair"))
        bare[n] = (oval & CELEBM.where(parsing[n], ("hat",))).sum() < COVERED / 2 * oval.sum() and (
            (oval & strange).sum() < COVERED * oval.sum()
        )
    return np.asarray(bare, np.bool_)


def bare_faces(faces: Faces, parsing: NDArray[np.uint8], *, held_out: bool) -> NDArray[np.intp]:
    """Indices of the faces that may be a clean target.

    Raises:
        ConfigError: there is none, as when the parse maps are those of a parser that knows nothing yet.
    """
    indices = np.flatnonzero(is_bare(faces, parsing) & (faces.held_out == held_out))
    if not len(indices):
        raise ConfigError("no clean face to learn from: the parse maps show something in front of every one")
    return indices


@torch.no_grad()
def complete_parsing(faces: Faces, parser: Path, work: Path) -> NDArray[np.uint8]:
    """Annotations where there are some; elsewhere what a parser's file says of the clean photo, kept in ``work``."""
    with parser.open("rb") as stream:
        cache = work / f"parsing-{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}.npy"
    if not cache.exists():
        net = torch.jit.load(str(parser)).float().eval()  # type: ignore[no-untyped-call]
        parsing = faces.parsing.copy()
        for n in np.flatnonzero((faces.parsing == UNLABELLED).any(axis=(1, 2))):
            pixels = torch.from_numpy(faces.images[n]).permute(2, 0, 1)[None].float() / 255
            parsing[n] = net(pixels)[0].argmax(1)[0].numpy()
        np.save(cache, parsing)
    return np.asarray(np.load(cache), np.uint8)


def read_annotation(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A CelebAMask-HQ annotation map as H×W ``celebm`` ids, at the photo's shape."""
    ids = np.array(CELEBM.ids(list(ANNOTATED.values())), np.uint8)[cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)]
    return np.asarray(cv2.resize(ids, shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def widened(matrix: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The same alignment drawn smaller around the frame's centre, so that augmentation can move it."""
    centre = np.array([[1 / MARGIN, 0, size / 2 * (1 - 1 / MARGIN)], [0, 1 / MARGIN, size / 2 * (1 - 1 / MARGIN)]])
    return np.asarray(centre @ np.vstack([matrix, [0, 0, 1]]), np.float64)


def jitter(rng: np.random.Generator, source: int, target: int, amount: float = 1.0) -> NDArray[np.float64]:
    """A random similarity (turn, scale, shift, mirror) from the cached S×S frame to a training crop, 2×3."""
    turn = np.deg2rad(rng.normal(0, 5 * amount))
    scale = MARGIN * target / source * np.exp(rng.normal(0, 0.06 * amount))
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    linear = np.array([[cos, -sin], [sin, cos]])
    if rng.random() < 0.5:
        linear = linear @ np.diag([-1.0, 1.0])
    shift = target / 2 + rng.normal(0, 0.025 * amount * target, 2) - linear @ np.array([source / 2, source / 2])
    return np.hstack([linear, shift[:, None]])


def crop(
    image: NDArray[np.uint8], parsing: NDArray[np.uint8], matrix: NDArray[np.float64], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Warp one cached face and its parse map by ``matrix``; a mirrored crop gets mirrored part names.

    What lies outside the photo is mirrored here; see :func:`seen` for where that is.
    """
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    labels = cv2.warpAffine(parsing, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    if np.linalg.det(matrix[:, :2]) < 0:
        swapped = np.array(CELEBM.mirrored)[np.minimum(labels, len(CELEBM.classes) - 1)]
        labels = np.where(labels == UNLABELLED, labels, swapped)
    return warped.astype(np.uint8), labels.astype(np.uint8)


def seen(
    rng: np.random.Generator, valid: NDArray[np.uint8], matrix: NDArray[np.float64], size: int,
    landmarks: NDArray[np.float32], cut: float = 0.5,
) -> NDArray[np.float32]:  # fmt: skip
    """Where a photo shows anything of a crop, S×S in 0..1: inside the cached photo, and of some also of a tighter one.

    Args:
        rng: the only source of randomness.
        valid: where the photo fills the cached frame.
        matrix: from the cached frame to the crop.
        size: S.
        landmarks: 5×2 in the crop; the photo's simulated edges are placed by them.
        cut: the share of crops that get such edges: from beyond the hair to into the face.
    """
    there = cv2.warpAffine(valid, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    inside = np.asarray(there, np.float32)
    if rng.random() >= cut:
        return inside
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    unit = max(float(np.linalg.norm(landmarks[1] - landmarks[0])), 0.9 * float(np.linalg.norm(mouth - eyes)))
    middle = (eyes + mouth) / 2
    turn = np.deg2rad(rng.normal(0, 5))  # the frame is turned against the photo
    tight = rng.random()
    y, x = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    cuts = rng.random(4) < rng.choice([0.3, 0.6, 1.0])
    cuts[int(rng.integers(4))] = True
    deep = int(rng.integers(4)) if rng.random() < 0.1 else -1  # half a face
    for side in np.flatnonzero(cuts):  # right, bottom, left, top, in units of the eyes' distance from the face's middle
        far, near = (2.2, 2.1, 2.2, 2.3)[side], (0.75, 0.8, 0.75, 0.85)[side]
        away = far + (near - far) * np.clip(tight + rng.normal(0, 0.25), 0, 1.1)
        away = rng.uniform(0.0, near) if side == deep else away
        normal = np.array([np.cos(turn + side * np.pi / 2), np.sin(turn + side * np.pi / 2)], np.float32)
        distance = (x - middle[0]) * normal[0] + (y - middle[1]) * normal[1] - np.float32(away * unit)
        inside = inside * (0.5 - distance).clip(0, 1)
    return np.asarray(inside, np.float32)


def outside_is_grey(image: NDArray[np.uint8], inside: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What lies outside the photo is nothing: S×S×3 painted flat grey where ``inside``, S×S in 0..1, is 0."""
    share = inside[..., None]
    return np.asarray((image * share + GREY * (1 - share)).round(), np.uint8)


def relight(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Random exposure, gamma and colour cast; now and then a strong cast, low light, or greyscale."""
    dark = rng.random() < 0.08
    exposure = np.exp(rng.normal(0, 0.12)) * (rng.uniform(0.25, 0.7) if dark else 1.0)
    cast = np.exp(rng.normal(0, 0.2 if rng.random() < 0.1 else 0.05, 3))
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.2)) * (exposure * cast)
    lit = cv2.LUT(image, (levels.clip(0, 1) * 255).astype(np.uint8)[:, None])
    if rng.random() < 0.07:
        return np.repeat(lit.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return np.asarray(lit, np.uint8)


def worsened(rng: np.random.Generator, *pictures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Pictures as a worse camera gives them, all in the same way: small, noisy, with JPEG's blocks, or blurred."""
    if rng.random() > 0.4:
        return list(pictures)
    size = pictures[0].shape[0]
    small = round(size * (np.exp(rng.uniform(np.log(0.28), 0)) if rng.random() < 0.6 else 1.0))
    noise = rng.normal(0, rng.uniform(2, 12), (small, small, 3)) if rng.random() < 0.35 else None
    quality = int(rng.integers(20, 75)) if rng.random() < 0.5 else None
    blur = size / 128 * float(rng.uniform(0.4, 1.5)) if rng.random() < 0.35 else None
    drawn = []
    for picture in pictures:
        worse = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        if noise is not None:
            worse = (worse + noise).clip(0, 255).astype(np.uint8)
        if quality is not None:
            worse = cv2.imdecode(cv2.imencode(".jpg", worse, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        worse = cv2.resize(worse, (size, size), interpolation=cv2.INTER_LINEAR)
        drawn.append(np.asarray(worse if blur is None else cv2.GaussianBlur(worse, (0, 0), blur), np.uint8))
    return drawn
