"""A run folder as ``segment`` leaves it, with masks drawn by hand: what exports and corrections work on."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.plan import Plan, write_plan
from s3pot_batch.manifests.schema import PLAN, SEGMENTS
from s3pot_batch.pipeline.corrections import box_of
from s3pot_batch.stages.rle import encode_rle

HEIGHT, WIDTH = 40, 60
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Drawn:
    """A photo of the run: occlusion and region of each face."""

    faces: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    shape: tuple[int, int] = (HEIGHT, WIDTH)
    suffix: str = ".png"
    failed: bool = field(default=False, kw_only=True)

    def united(self, part: int) -> np.ndarray:
        return np.any([face[part] for face in self.faces], axis=0) if self.faces else np.zeros(self.shape, bool)


def block(y0, y1, x0, x1, shape=(HEIGHT, WIDTH)):
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def photos() -> dict[str, Drawn]:
    """Two faces that overlap, one mask concave, one with a hole; a turned photo; nothing hidden; no face; failed."""
    left, right = block(5, 35, 3, 33), block(2, 38, 30, 60)
    ring = block(10, 30, 8, 28) & ~block(15, 25, 13, 23)
    fork = block(6, 30, 35, 55) & ~block(6, 24, 40, 44) & ~block(6, 24, 47, 50)
    fork[31, 57] = True  # a pixel by itself
    turned = (WIDTH, HEIGHT)
    whole = block(0, WIDTH, 0, HEIGHT, turned)
    return {
        "Zoë/größe": Drawn(((ring, left), (fork, right))),
        "turned": Drawn(((block(20, 60, 0, 7, turned), whole),), turned, ".jpg"),
        "clean": Drawn(((block(0, 0, 0, 0), left),)),
        "none": Drawn(),
        "gone": Drawn(failed=True),
    }


def make_run(folder: Path, drawn: dict[str, Drawn]) -> Path:
    """Write photos and their run folder."""
    run = folder / "run"
    plan, rows = [], []
    for n, (name, photo) in enumerate(drawn.items()):
        image = folder / "photos" / f"{name}{photo.suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        write_photo(image, photo, n)
        plan.append({"index": n, "image_id": name, "image": str(image), "shard": 0, "row": 2 * n})
        rows.append({"image_id": name, "image": str(image), "mask": None, **answer_row(photo, n)})
    write_plan(Plan(pa.Table.from_pylist(plan, PLAN), len(plan), 2, ""), run)
    own = [(name, pa.string()) for name in ("image_id", "image", "mask")]
    write_parquet(pa.Table.from_pylist(rows, pa.schema([*own, *SEGMENTS])), run / "segments.parquet")
    (run / "config.toml").write_text("")
    return run


def write_photo(image: Path, photo: Drawn, seed: int) -> None:
    """Noise; a JPEG lies on its side, and its EXIF tag says so."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*photo.shape, 3), np.uint8)
    if photo.suffix == ".png":
        Image.fromarray(pixels).save(image)
        return
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(image, exif=exif)


def answer_row(photo: Drawn, n: int) -> dict:
    if photo.failed:
        return {"status": "failed", "error_type": "MissingFile", "error": "gone", "faces": []}
    faces = [
        {"row": 2 * n + slot, "bbox": box_of(region), "landmarks": [1.0] * 10, "score": 0.5,
         "occlusion_ratio": occlusion.sum() / region.sum(), "predicted_iou": 0.7, "parse_confidence": 0.9,
         "occlusion": encode_rle(occlusion), "face_region": encode_rle(region)}
        for slot, (occlusion, region) in enumerate(photo.faces)
    ]  # fmt: skip
    hidden, whole = photo.united(0), photo.united(1)
    return {
        "status": "ok" if faces else "no_face", "height": photo.shape[0], "width": photo.shape[1], "faces": faces,
        "occlusion": encode_rle(hidden), "face_region": encode_rle(whole), "predicted_iou": 0.7 if faces else None,
        "occlusion_ratio": hidden.sum() / whole.sum() if faces else None,
    }  # fmt: skip
