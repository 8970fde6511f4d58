"""Contact sheets: what every step made of a face, side by side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from manifests.files import read_items
from manifests.plan import Plan, read_plan
from stages import store
from stages.errors import ConfigError
from stages.models.palette import colourise

TILE, GAP, HEAD = 160, 6, 22
TITLES = ("photo", "parse and region", "reference", "contrast", "prompts", "occlusion")
FACE_POINT, OCCLUSION_POINT = (0, 158, 115), (213, 94, 0)

Picture = NDArray[np.uint8]


def contact_sheet(run: Path, out: Path, limit: int = 12) -> Path:
    """Draw the first ``limit`` faces of a run, a line each, as PNG.

    Raises:
        ConfigError: the run holds no segmented face.
    """
    faces = segmented_faces(run, read_plan(run))[:limit]
    if not faces:
        raise ConfigError(f"{run}: no segmented face to draw; run s3pot-batch segment first")
    width = len(TITLES) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + len(faces) * (TILE + GAP + HEAD)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, title in enumerate(TITLES):
        draw.text((GAP + column * (TILE + GAP), 4), title, "black", font)
    for line, (row, label) in enumerate(faces):
        top = HEAD + line * (TILE + GAP + HEAD)
        for column, picture in enumerate(pictures(run, row)):
            tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        draw.text((GAP, top + TILE + 2), label, "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def segmented_faces(run: Path, plan: Plan) -> list[tuple[int, str]]:
    """Zarr row and caption of every segmented face."""
    return [
        (face["row"], f"{item['image_id']}: {100 * (face['occlusion_ratio'] or 0):.0f} % of the face hidden")
        for shard in range(plan.shards)
        if (run / "items" / "segments" / f"{shard:05d}.parquet").exists()
        for item in read_items(run, "segments", shard).to_pylist()
        for face in item["faces"]
    ]


def pictures(run: Path, row: int) -> list[Picture]:
    """The six pictures of one face, S×S×3 uint8, in the order of ``TITLES``."""
    raw, reference, parsing, region = (
        store.read_rows(run, "references.zarr", name, [row])[0] for name in ("raw", "reference", "parsing", "region")
    )
    occlusion, contrast, prompts = (
        store.read_rows(run, "masks.zarr", name, [row])[0] for name in ("occlusion", "contrast", "prompts")
    )
    raw, prompts = np.asarray(raw, np.uint8), np.asarray(prompts, np.int8)
    parts = np.where((region > 0)[..., None], colourise(np.asarray(parsing, np.uint8)), raw // 4)
    return [
        raw, parts.astype(np.uint8), np.asarray(reference, np.uint8), heat(np.asarray(contrast, np.float32)),
        pointed(raw, prompts), marked(raw, np.asarray(occlusion, np.float32)),
    ]  # fmt: skip


def heat(values: NDArray[np.float32]) -> Picture:
    """S×S values as a picture; the brightest is the largest."""
    from matplotlib import colormaps

    scaled = values / max(float(values.max()), 1e-6)
    return np.asarray(colormaps["inferno"](scaled)[..., :3] * 255, np.uint8)


def pointed(raw: Picture, prompts: NDArray[np.int8]) -> Picture:
    """The photo, darker, with a dot at every prompt."""
    image = Image.fromarray(raw // 2)
    draw = ImageDraw.Draw(image)
    for label, colour in ((1, FACE_POINT), (2, OCCLUSION_POINT)):
        for y, x in np.argwhere(prompts == label).tolist():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return np.asarray(image, np.uint8)


def marked(raw: Picture, occlusion: NDArray[np.float32]) -> Picture:
    """The photo with its hidden pixels in orange."""
    hidden = (occlusion > 0.5)[..., None]
    return np.where(hidden, raw * 0.35 + np.array(OCCLUSION_POINT) * 0.65, raw).astype(np.uint8)
