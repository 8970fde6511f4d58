"""An occlusion benchmark with exact truth: cut-outs and textured shapes laid over clean faces.

The practice is that of NatOcc and RandOcc (Voo et al., "Delving into High-Quality Synthetic Face Occlusion Segmentation
Datasets", arXiv 2205.06218): hands take on the face's skin tone, light and sharpness are matched, masks and glasses are
placed by landmarks. Everything follows from the seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.evaluation.placement import Placed, Portrait, place, random_shape, tight
from s3pot_batch.stages.errors import ConfigError

JPEG_QUALITY = 95
SHAPES, TEXTURES = "shapes", "textures"
"""The kind of random shapes, and the folder of what fills them."""
WORN = ("medical_masks", "glasses", "sunglasses", "scarves")
"""Kinds that sit on the face, and never reach in from the photo's border."""
CUTOUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Composition:
    """What a benchmark is made of.

    ``splits`` maps names to shares; faces and cut-outs are dealt out by their names' hashes, so that none is in two.
    ``clean`` is the share of unoccluded photos, ``size`` the longest side of a photo. ``tight`` is the share of photos
    that end at the face's edge, and ``entering`` the share of hands and things that reach in from the photo's border.
    """

    faces: Path
    cutouts: Path
    out: Path
    count: int = 200
    seed: int = 0
    clean: float = 0.2
    size: int = 512
    tight: float = 0.0
    entering: float = 0.0
    splits: tuple[tuple[str, float], ...] = (("train", 0.5), ("test", 0.5))


def compose(composition: Composition) -> Path:
    """Write ``images/``, ``masks/``, ``manifest.parquet`` and one manifest per split; returns the whole manifest.

    Its columns: ``image``, ``mask`` (255 = occluded, inside the face's outline), ``image_id``, ``kind`` (the cut-out's
    folder, ``shapes``, or ``none``), ``split``, ``face_source``, ``cutout``.

    Raises:
        ConfigError: no faces with landmarks, no cut-outs, or a split without any.
    """
    faces, cutouts = read_faces(composition.faces), find_cutouts(composition.cutouts)
    (composition.out / "images").mkdir(parents=True, exist_ok=True)
    (composition.out / "masks").mkdir(exist_ok=True)
    counts = _shares([share for _, share in composition.splits], composition.count)
    rows: list[dict[str, Any]] = []
    for (split, _), count in zip(composition.splits, counts, strict=True):
        own_faces = [face for face in faces if split_of(face["image"], composition) == split]
        own = {
            kind: [path for path in paths if split_of(f"{kind}/{path.name}", composition) == split]
            for kind, paths in cutouts.items()
        }
        if not own_faces or not any(own.values()):
            raise ConfigError(f"split {split} has no face or no cut-out; give more of them, or fewer splits")
        rows += _compose_split(composition, split, count, own_faces, own, first=len(rows))
    manifest = composition.out / "manifest.parquet"
    write_parquet(pa.Table.from_pylist(rows), manifest)
    for split, _ in composition.splits:
        own_rows = [row for row in rows if row["split"] == split]
        write_parquet(pa.Table.from_pylist(own_rows), composition.out / f"{split}.parquet")
    return manifest


def read_faces(path: Path) -> list[dict[str, Any]]:
    """Rows of a manifest that have ``landmarks`` (5×2).

    Raises:
        ConfigError: the file cannot be read, or no row has landmarks.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({error})") from error
    found = [row for row in rows if row.get("image") and row.get("landmarks") is not None]
    if not found:
        raise ConfigError(f"{path}: no row has an image and landmarks; compose places things by the five points")
    return found


def find_cutouts(folder: Path) -> dict[str, list[Path]]:
    """Pictures below ``folder`` by kind, the name of their sub-folder; ``textures`` fill random shapes.

    Raises:
        ConfigError: there are none.
    """
    kinds = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {kind.name: sorted(p for p in kind.iterdir() if p.suffix.lower() in CUTOUT_SUFFIXES) for kind in kinds}
    found = {kind: paths for kind, paths in found.items() if paths}
    if not found:
        raise ConfigError(f"{folder}: no folders with cut-outs; each folder's name is a kind, its PNGs have an alpha")
    return found


def split_of(name: str, composition: Composition) -> str:
    """The split that a face or a cut-out belongs to, by its name and the seed alone."""
    digest = hashlib.sha256(f"{composition.seed} {name}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64 * sum(share for _, share in composition.splits)
    for split, share in composition.splits:
        at -= share
        if at < 0:
            return split
    return composition.splits[-1][0]


def parse_splits(text: str) -> tuple[tuple[str, float], ...]:
    """``train=0.5,test=0.5`` → (("train", 0.5), ("test", 0.5)).

    Raises:
        ConfigError: it is not of this form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        splits = tuple((name.strip(), float(share)) for name, share in pairs)
    except ValueError as error:
        raise ConfigError(f"--splits {text}: write it as train=0.5,test=0.5") from error
    names = [name for name, _ in splits]
    if len(set(names)) < len(names) or not all(name.isidentifier() and share > 0 for name, share in splits):
        raise ConfigError(f"--splits {text}: every split needs a name of its own and a share above 0")
    return splits


def _shares(shares: Sequence[float], count: int) -> list[int]:
    edges = np.round(np.cumsum([0.0, *shares]) / sum(shares) * count).astype(int)
    return [int(step) for step in np.diff(edges)]


def _compose_split(
    composition: Composition, split: str, count: int, faces: Sequence[dict[str, Any]],
    cutouts: dict[str, list[Path]], *, first: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """``count`` photos, kinds in turn; a face comes again only when all have been used."""
    order = np.random.default_rng([composition.seed, first]).permutation(len(faces))
    kinds = [SHAPES if kind == TEXTURES else kind for kind, paths in cutouts.items() if paths]
    unoccluded = set(np.linspace(0, count - 1, round(composition.clean * count)).astype(int).tolist())
    rows, turn = [], 0
    for n in range(count):
        rng = np.random.default_rng([composition.seed, first, n])
        face = faces[order[n % len(faces)]]
        kind = "none" if n in unoccluded else kinds[turn % len(kinds)]
        turn += kind != "none"
        paths = cutouts.get(TEXTURES if kind == SHAPES else kind, [])
        cutout = paths[int(rng.integers(len(paths)))] if paths else None
        name = f"{split}-{n:05d}-{kind}"
        portrait = read_face(composition.faces.parent, face, composition.size)
        # drawn from a stream of its own: a benchmark without these is what it was before there were any
        framing = np.random.default_rng([composition.seed, first, n, 1])
        if framing.random() < composition.tight:
            portrait = tight(framing, portrait)
        entering = kind not in WORN and framing.random() < composition.entering
        placed = draw(rng, portrait, kind, cutout, entering=entering)
        Image.fromarray(placed.image).save(composition.out / "images" / f"{name}.jpg", quality=JPEG_QUALITY)
        Image.fromarray(placed.hidden.astype(np.uint8) * 255).save(composition.out / "masks" / f"{name}.png")
        rows.append({
            "image": f"images/{name}.jpg", "mask": f"masks/{name}.png", "image_id": name, "kind": kind,
            "split": split, "face_source": face["image"],
            "cutout": f"{cutout.parent.name}/{cutout.name}" if cutout else None,
        })  # fmt: skip
    return rows


def read_face(folder: Path, row: dict[str, Any], size: int) -> Portrait:
    """A face photo no longer than ``size``, with its points drawn to the same scale.

    Raises:
        ConfigError: the photo cannot be read.
    """
    try:
        with Image.open(folder / row["image"]) as file:
            image = np.asarray(file.convert("RGB"), np.uint8)
    except OSError as error:
        raise ConfigError(f"{folder / row['image']}: cannot be read ({error})") from error
    scale = min(size / max(image.shape[:2]), 1.0)
    if scale < 1:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    landmarks = np.asarray(row["landmarks"], float).reshape(5, 2) * scale
    oval = row.get("face_oval")
    return Portrait(image, landmarks, np.asarray(oval, float).reshape(-1, 2) * scale if oval is not None else None)


def draw(rng: np.random.Generator, face: Portrait, kind: str, cutout: Path | None, *, entering: bool = False) -> Placed:
    """The face with the thing laid over it; ``hidden`` H×W is where the face is covered."""
    if kind == "none" or cutout is None:
        return Placed(face.image, np.zeros(face.image.shape[:2], bool))
    try:
        with Image.open(cutout) as file:
            thing = np.asarray(file.convert("RGBA"), np.uint8)
    except OSError as error:
        raise ConfigError(f"{cutout}: cannot be read ({error})") from error
    if kind == SHAPES:
        thing = random_shape(rng, thing)
    if not (thing[..., 3] > 127).any():
        raise ConfigError(f"{cutout}: nothing in it is opaque; cut-outs need an alpha channel")
    return place(rng, face, kind, thing, entering=entering)
