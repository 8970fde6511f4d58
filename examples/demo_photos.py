"""The demo's photos: known things drawn over two public-domain portraits that the dependencies ship.

    python -m examples.demo_photos --out demo/photos

scikit-image's ``astronaut`` (Eileen Collins, NASA) and matplotlib's ``grace_hopper.jpg`` (U.S. Navy). The truth is the
drawn thing, inside an oval that was put around each face by hand. Grace Hopper wears glasses, which the method counts
as occlusion; nobody outlined them, so her untouched portrait has no truth, and neither do the glasses elsewhere.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pyarrow as pa
import typer
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.manifests.files import write_parquet

Picture = NDArray[np.uint8]

PORTRAITS = {"astronaut": ((224, 112), (44, 60)), "hopper": ((256, 193), (72, 100))}
"""Face ovals by hand: centre (x, y) and half axes, in the original's pixels."""
THINGS = ("hand", "mask", "bar", "cup", "sunglasses", "paper")


def load_portrait(name: str) -> Picture:
    """H×W×3 uint8 RGB."""
    if name == "astronaut":
        import skimage.data

        return np.asarray(skimage.data.astronaut(), np.uint8)
    import matplotlib.cbook

    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def outline(kind: str, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Polygons of a thing in units of the face's half axes, (0, 0) at its centre and y down."""
    if kind == "hand":
        fingers = [_capsule(0.15 + 0.26 * k, 0.1, -0.35 + 0.3 * k, 1.2, 0.125) for k in range(4)]
        return [*fingers, _capsule(0.35, 0.9, 1.0, 2.1, 0.5)]
    if kind == "mask":
        return [
            np.array([(-0.95, -0.05), (0, -0.2), (0.95, -0.05), (0.8, 0.65), (0.35, 1.02), (-0.35, 1.02), (-0.8, 0.65)])
        ]
    if kind == "bar":
        return [_capsule(-1.6, rng.uniform(-0.6, 0.4), 1.6, rng.uniform(-0.3, 0.7), 0.14)]
    if kind == "cup":
        return [np.array([(-0.38, 0.3), (0.42, 0.3), (0.34, 1.25), (-0.3, 1.25)])]
    if kind == "sunglasses":
        lens = [(x * 0.36, y * 0.2 - 0.2) for x, y in _circle()]
        return [np.array(lens) + (-0.42, 0), np.array(lens) + (0.42, 0), _capsule(-0.95, -0.25, 0.95, -0.25, 0.04)]
    return [np.array([(0.05, -0.9), (1.3, -0.75), (1.2, 0.55), (-0.05, 0.35)])]


def _circle() -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _capsule(x0: float, y0: float, x1: float, y1: float, radius: float) -> NDArray[np.float64]:
    ends = np.array([(x0, y0), (x1, y1)])
    dots = np.concatenate([ends[0] + radius * _circle(), ends[1] + radius * _circle()])
    return np.asarray(cv2.convexHull(dots.astype(np.float32))[:, 0], np.float64)


def texture(kind: str, photo: Picture, centre: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """What a thing looks like, H×W×3 in 0..255."""
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width]
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 3)[..., None] * 40
    if kind == "hand":
        skin = photo[centre[1] + 8 : centre[1] + 24, centre[0] - 20 : centre[0] - 8].reshape(-1, 3).mean(0)
        return np.asarray(skin * (0.8 + 0.25 * np.sin((x + y) / 25))[..., None] + grain * 0.3, np.float64)
    if kind == "mask":
        return np.asarray(np.array([150, 195, 220]) + 12 * np.sign(np.sin(y / 3))[..., None] + grain * 0.2, np.float64)
    if kind == "sunglasses":
        return np.asarray(np.array([22, 20, 26]) + grain * 0.2, np.float64)
    if kind == "paper":
        lines = (np.sin(y / 2.2) > 0.6) & (np.sin(x / 9) > -0.7)
        return np.asarray(np.array([235, 232, 220]) - 90 * lines[..., None] + grain * 0.1, np.float64)
    return np.asarray(rng.uniform(30, 220, 3) + grain + 35 * np.sin(x / rng.uniform(5, 20))[..., None], np.float64)


def draw(name: str, kind: str, rng: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """A portrait with a thing on it, turned, scaled and relit; and the thing's pixels inside the face."""
    photo, (centre, axes) = load_portrait(name), PORTRAITS[name]
    height, width = photo.shape[:2]
    thing = np.zeros((height * 4, width * 4), np.uint8)
    if kind != "none":
        for polygon in outline(kind, rng):
            cv2.fillPoly(thing, [np.round((polygon * axes + centre) * 4).astype(np.int32)], 255)
    alpha = cv2.GaussianBlur(cv2.resize(thing, (width, height), interpolation=cv2.INTER_AREA) / 255.0, (0, 0), 0.8)
    filling = texture(kind, photo, centre, rng) if kind != "none" else photo
    image = (photo * (1 - alpha[..., None]) + filling * alpha[..., None]).clip(0, 255).astype(np.uint8)
    oval = np.zeros((height, width), np.uint8)
    cv2.ellipse(oval, centre, axes, 0, 0, 360, 1, -1)
    turn, scale = rng.uniform(-12, 12), rng.uniform(0.75, 1.25)
    if kind == "none":
        turn, scale = 0.0, 1.0
    matrix = cv2.getRotationMatrix2D(centre, turn, scale)
    light = 1.0 if kind == "none" else rng.uniform(0.75, 1.2)
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
    hidden = cv2.warpAffine(
        ((alpha > 0.5) & (oval > 0)).astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    return (image * light).clip(0, 255).astype(np.uint8), hidden.astype(bool)


def build(out: Path, seed: int = 0) -> Path:
    """Write the photos, their masks and ``manifest.parquet``; the same files for the same seed."""
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str | None]] = []
    for name in PORTRAITS:
        for kind in ("none", *THINGS):
            for copy in range(1 if kind == "none" else 2):
                image, hidden = draw(name, kind, rng)
                stem = f"{name}_{kind}_{copy}"
                has_truth = kind != "none" or name == "astronaut"
                rows.append(_save(out, stem, kind, image, hidden if has_truth else None))
    left, right = draw("astronaut", "cup", rng), draw("hopper", "bar", rng)
    high = max(left[0].shape[0], right[0].shape[0])
    both = [np.pad(part, ((0, high - part.shape[0]), (0, 0), (0, 0))) for part in (left[0], right[0])]
    truth = [np.pad(part, ((0, high - part.shape[0]), (0, 0))) for part in (left[1], right[1])]
    rows.append(_save(out, "both_0", "two faces", np.hstack(both), np.hstack(truth)))
    manifest = out / "manifest.parquet"
    write_parquet(pa.Table.from_pylist(rows), manifest)
    return manifest


def _save(out: Path, stem: str, kind: str, image: Picture, hidden: NDArray[np.bool_] | None) -> dict[str, str | None]:
    Image.fromarray(image).save(out / f"{stem}.jpg", quality=95)
    if hidden is not None:
        Image.fromarray(hidden.astype(np.uint8) * 255).save(out / f"{stem}_mask.png")
    return {"image": f"{stem}.jpg", "mask": f"{stem}_mask.png" if hidden is not None else None, "kind": kind}


def main(out: Annotated[Path, typer.Option(help="Where the photos go.")], seed: int = 0) -> None:
    """Build the demo's photos."""
    build(out, seed)


if __name__ == "__main__":
    typer.run(main)
