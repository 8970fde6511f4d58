"""Contact sheets: what every step made of a face, side by side."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from s3pot_batch.manifests.outcomes import items_path, read_outcomes
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.stages import decoded, references, segments, store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.images import Photo
from s3pot_batch.stages.models.registry import taxonomy_of
from s3pot_batch.stages.models.taxonomy import Taxonomy

TILE, GAP, CAPTION = 160, 6, 22
"""Side of a picture, distance between two, and height of a line of text, in pixels."""
TITLES = ("photo", "parse and region", "reference", "contrast", "prompts", "occlusion")
FACE_POINT, OCCLUSION_POINT = (0, 158, 115), (213, 94, 0)
"""RGB, from Okabe and Ito's palette, which colour-blind readers can tell apart."""


def contact_sheet(run: Path, out: Path, limit: int = 12) -> Path:
    """Draw the first ``limit`` faces of a run, a line each, as PNG.

    Raises:
        ConfigError: the run holds no segmented face.
    """
    faces = list(islice(segmented_faces(run), limit))
    if not faces:
        raise ConfigError(f"{run}: no segmented face to draw; run s3pot-batch segment first")
    taxonomy = taxonomy_of(resolve(file=run / CONFIG).profile.parser)
    width = len(TITLES) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, CAPTION + len(faces) * (TILE + GAP + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, title in enumerate(TITLES):
        draw.text((GAP + column * (TILE + GAP), 4), title, "black", font)
    for line, (row, label) in enumerate(faces):
        top = CAPTION + line * (TILE + GAP + CAPTION)
        for column, picture in enumerate(pictures(run, row, taxonomy)):
            tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        draw.text((GAP, top + TILE + 2), label, "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def segmented_faces(run: Path) -> Iterator[tuple[int, str]]:
    """Zarr row and caption of every segmented face, in order."""
    for shard in read_plan(run).wanted_shards:
        if not items_path(run, "segments", shard).exists():
            continue
        for outcome in read_outcomes(run, "segments", shard):
            for face in outcome.faces:
                yield face.row, f"{outcome.image_id}: {100 * (face.occlusion_ratio or 0):.0f} % of the face hidden"


def pictures(run: Path, row: int, taxonomy: Taxonomy) -> list[Photo]:
    """The six pictures of one face, S×S×3 uint8, in the order of ``TITLES``."""
    raw, reference, parsing, region = store.read_row(
        run / references.STORE, row, "raw", "reference", "parsing", "region"
    )
    contrast, prompts = store.read_row(run / decoded.STORE, row, "contrast", "prompts")
    [occlusion] = store.read_row(run / segments.STORE, row, "occlusion")
    parts = np.where((region > 0)[..., None], taxonomy.colourise(parsing), raw // 4)
    return [
        raw, parts.astype(np.uint8), reference, heat(contrast.astype(np.float32)), pointed(raw, prompts),
        marked(raw, occlusion.astype(np.float32)),
    ]  # fmt: skip


def heat(values: NDArray[np.float32]) -> Photo:
    """S×S values as a picture; the brightest is the largest."""
    from matplotlib import colormaps

    scaled = values / max(float(values.max()), 1e-6)
    return np.asarray(colormaps["inferno"](scaled)[..., :3] * 255, np.uint8)


def pointed(raw: Photo, prompts: NDArray[np.int8]) -> Photo:
    """The photo, darker, with a dot at every prompt."""
    image = Image.fromarray(raw // 2)
    draw = ImageDraw.Draw(image)
    for label, colour in ((1, FACE_POINT), (2, OCCLUSION_POINT)):
        for y, x in np.argwhere(prompts == label).tolist():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return np.asarray(image, np.uint8)


def marked(raw: Photo, occlusion: NDArray[np.float32]) -> Photo:
    """The photo with its hidden pixels in orange."""
    hidden = (occlusion > 0.5)[..., None]
    return np.where(hidden, raw * 0.35 + np.array(OCCLUSION_POINT) * 0.65, raw).astype(np.uint8)
