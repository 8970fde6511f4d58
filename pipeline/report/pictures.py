"""The pictures of a report: small enough that ten thousand photos fit into one page."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from s3pot_batch.manifests.answer import STAGE as ANSWERING
from s3pot_batch.manifests.outcomes import FaceOutcome, read_outcomes
from s3pot_batch.pipeline.evaluation.truth import read_truth
from s3pot_batch.pipeline.report.rows import Row, Truth
from s3pot_batch.pipeline.report.sheets import heat
from s3pot_batch.stages import decoded, references, segments, store
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import as_photo, decoding, open_image
from s3pot_batch.stages.models.taxonomy import Taxonomy
from s3pot_batch.stages.reading import read_bytes
from s3pot_batch.stages.references import alignment_of
from s3pot_batch.stages.rle import Mask
from s3pot_batch.stages.settings import FaceSettings

FINE, COARSE = 75, 50
"""WebP's quality: of a photo that is looked at, of a smooth picture."""
SMALL = (30, 20, 10, 0)
"""And of a thumbnail, whichever is small enough."""
FAST = 3
"""WebP's method: slower ones save a few percent."""


@dataclass(frozen=True)
class Thumbnail:
    """A photo in the gallery: base64 of WebP each, empty where there is nothing to show."""

    photo: str = ""
    mask: str = ""
    """Opaque where the face is hidden, else transparent."""


@dataclass(frozen=True)
class Size:
    """How large a thumbnail may be."""

    side: int
    """In pixels."""
    most: int
    """Characters of both its pictures."""


def thumbnail(run: Path, row: Row, location: str, size: Size) -> Thumbnail:
    """The first face of a photo with its mask; of one without a face, the photo itself if it can be read.

    Args:
        run: the run folder.
        row: the photo.
        location: its path or URL; only local files are read.
        size: of the thumbnail.

    Raises:
        ShardError: what the run folder holds of it is damaged.
    """
    if not row.faces:
        return Thumbnail(_of_file(location, size))
    [raw] = store.read_row(run / references.STORE, row.faces[0], "raw")
    [occlusion] = store.read_row(run / segments.STORE, row.faces[0], "occlusion")
    mask = stencil(occlusion > 0.5, size.side)
    return Thumbnail(small(Image.fromarray(raw), replace(size, most=size.most - len(mask))), mask)


def _of_file(location: str, size: Size) -> str:
    """A local photo in a square; nothing where it cannot be read."""
    bounds = FaceSettings()
    if "://" in location:
        return ""
    try:
        with decoding(location):
            image = open_image(read_bytes(location, bounds), location, bounds.max_pixels)
            image.draft("RGB", (2 * size.side, 2 * size.side))  # a JPEG is decoded at an eighth of its size
            return small(Image.fromarray(as_photo(image)), size)
    except ItemError:
        return ""


def steps(run: Path, row: Row, taxonomy: Taxonomy, truth: Mask | None) -> list[dict[str, object]]:
    """What every step made of each face of a photo, as the page's script takes it.

    Args:
        run: the run folder.
        row: a photo with faces.
        taxonomy: of the run's parser.
        truth: the photo's true mask, H×W, if there is one.

    Raises:
        ShardError: what the run folder holds of it is damaged.
    """
    return [_face(run, face, taxonomy, truth) for face in faces_of(run, row)]


def faces_of(run: Path, row: Row) -> tuple[FaceOutcome, ...]:
    """The faces of a photo, with where they lie."""
    outcomes = read_outcomes(run, ANSWERING, row.shard)
    return next(outcome for outcome in outcomes if outcome.index == row.index).faces


def _face(run: Path, face: FaceOutcome, taxonomy: Taxonomy, truth: Mask | None) -> dict[str, object]:
    raw, reference, parsing, region = store.read_row(
        run / references.STORE, face.row, "raw", "reference", "parsing", "region"
    )
    contrast, prompts = store.read_row(run / decoded.STORE, face.row, "contrast", "prompts")
    [occlusion] = store.read_row(run / segments.STORE, face.row, "occlusion")
    side = raw.shape[0]
    parts = np.where((region > 0)[..., None], taxonomy.colourise(parsing), raw // 4).astype(np.uint8)
    points = [[round(100 * x / side, 1), round(100 * y / side, 1), int(prompts[y, x])] for y, x in np.argwhere(prompts)]
    return {
        "photo": lossy(Image.fromarray(raw), FINE), "parse": lossy(Image.fromarray(parts), COARSE),
        "reference": lossy(Image.fromarray(reference), FINE),
        "contrast": lossy(Image.fromarray(heat(contrast.astype(np.float32))), COARSE),
        "prompts": points, "mask": stencil(occlusion > 0.5, side),
        "truth": "" if truth is None else in_frame(truth, face, side),
        "ratio": face.occlusion_ratio, "predicted": face.predicted_iou, "score": face.score,
        "parsed": face.parse_confidence, "row": face.row,
    }  # fmt: skip


def in_frame(truth: Mask, face: FaceOutcome, side: int) -> str:
    """A photo's true mask, H×W, where the face was put, as a stencil."""
    return stencil(alignment_of(face, side).warp_labels(truth.astype(np.uint8)) > 0, side)


def true_mask(row: Row, truth: Truth, location: str, manifest: Path | None) -> Mask | None:
    """A photo's true mask, H×W, or nothing where there is none or it cannot be read.

    Args:
        row: the photo.
        truth: what the run's manifest says.
        location: the photo's path or URL.
        manifest: the manifest, whose folder paths are relative to; else the folder that the photo's own path shows.
    """
    cell, image = truth.cells.get(row.image_id), truth.images.get(row.image_id, "")
    if cell is None:
        return None
    folder = manifest.parent if manifest else None
    if folder is None and location.endswith(f"/{image}"):
        folder = Path(location.removesuffix(image))
    if isinstance(cell, str) and ("://" in cell or (folder is None and not Path(cell).is_absolute())):
        return None  # nothing is fetched for a report, and no place is guessed
    try:
        return read_truth(cell, folder or Path())
    except ItemError:
        return None


def small(image: Image.Image, size: Size) -> str:
    """A picture as WebP in base64, within bounds: worse or smaller where it has to be, as noise does; empty at last."""
    side = size.side
    while side > 1:
        fitting = ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)
        for quality in SMALL:
            text = lossy(fitting, quality)
            if len(text) <= size.most:
                return text
        side //= 2
    return ""


def lossy(image: Image.Image, quality: int) -> str:
    """A picture as WebP, in base64."""
    return _encoded(image, quality=quality, method=FAST)


def stencil(mask: NDArray[np.bool_], side: int) -> str:
    """An S×S mask at another size, as WebP in base64: opaque where it is true, else transparent."""
    alpha = _resized(Image.fromarray(mask.astype(np.uint8) * 255), side, Image.Resampling.BOX)
    alpha = alpha.point(lambda value: 255 if value > 127 else 0)
    black = Image.new("L", alpha.size)
    return _encoded(Image.merge("RGBA", (black, black, black, alpha)), lossless=True, quality=50, method=FAST)


def _resized(image: Image.Image, side: int, how: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), how)


def _encoded(image: Image.Image, **options: int) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", **options)
    return base64.b64encode(stream.getvalue()).decode()
