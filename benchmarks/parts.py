"""What each model of a profile does by itself, on a composed benchmark whose clean photos and annotations are known.

    python -m benchmarks.parts --composed composed/manifest.parquet --faces heldout.parquet --sheet references.png

But for the detector, faces are aligned by the annotated landmarks, so that no model pays for another's mistakes.
``--faces`` is the manifest that ``s3pot-batch compose`` was given; a column ``parse`` (CelebAMask-HQ annotation) is
used where there is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recipes.faces import read_annotation
from recipes.parser import mean_f1
from s3pot_batch.pipeline.evaluation.baselines import drawn
from s3pot_batch.pipeline.evaluation.compose import Composition, read_face
from s3pot_batch.pipeline.evaluation.metrics import count
from s3pot_batch.pipeline.evaluation.truth import read_truth
from s3pot_batch.stages.images import Photo, read_photo
from s3pot_batch.stages.method.alignment import AlignedFace, Alignment
from s3pot_batch.stages.method.faces import FaceFinder, ParsedFace
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.method.references import ReferenceGenerator
from s3pot_batch.stages.models.profiles import DEFAULT, find_profile
from s3pot_batch.stages.models.protocols import Detection, Segmenter
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.rle import Mask
from s3pot_batch.stages.settings import FaceSettings

FRAME = FaceSettings().frame
FACE = tuple(name for name in CELEBM.face if name not in CELEBM.worn)
"""Annotated classes of the face itself, whose F1 is measured."""
ASKED = (("hair",), CELEBM.nose, CELEBM.mouth, ("rb",), ("lb",), *CELEBM.eyes, ("neck",), ("cloth",))
"""Annotated parts that the segmenter is asked for."""
LEAST_PART = 0.004
"""Share of the frame below which a part is not asked for."""
LEAST_CHANGE = 16
"""Of a channel, 0..255, between the composed and the clean photo: more than rounding makes."""
BESIDE = FRAME // 8
"""How far from what is asked for the negative point may lie: one on the far side of the photo rules nothing out."""


@dataclass(frozen=True)
class Case:
    """One composed photo in its aligned frame, S×S: what was photographed, what lies in front, and the annotation."""

    name: str
    location: str
    alignment: Alignment
    """From pixels of the file at ``location``."""
    photo: Photo
    clean: Photo
    hidden: Mask
    outline: Mask
    annotation: NDArray[np.uint8] | None
    """``CELEBM`` ids."""
    landmarks: NDArray[np.float64]
    """5×2 in frame pixels."""

    def aligned(self, frame: Photo) -> AlignedFace:
        """``photo`` or ``clean`` as if the face had been found where it is; composed photos hold it wholly."""
        there = self.alignment.to_photo(self.landmarks)
        box = (*there.min(0).tolist(), *there.max(0).tolist())
        return AlignedFace(Detection(box, 1.0, there), self.alignment, frame, np.ones(frame.shape[:2], bool))

    @property
    def pasted(self) -> Mask:
        """Where the composed photo is not the clean one; ``hidden`` ends at the outline of the face."""
        changed = cv2.absdiff(self.photo, self.clean).max(axis=2) > LEAST_CHANGE
        return np.asarray(self.hidden | changed, bool)


def cases(composed: Path, faces: Path) -> Iterator[Case]:
    """Every photo of a composed manifest."""
    rows = {row["image"]: row for row in pq.read_table(faces).to_pylist()}
    for row in pq.read_table(composed).to_pylist():
        face_row = rows[row["face_source"]]
        face = read_face(faces.parent, face_row, Composition.size)
        alignment = Alignment.by_landmarks(face.landmarks, FRAME)
        location = str(composed.parent / row["image"])
        annotation = None
        if face_row.get("parse"):
            annotation = alignment.warp_labels(read_annotation(faces.parent / face_row["parse"], face.image.shape[:2]))
        yield Case(
            name=row["image_id"],
            location=location,
            alignment=alignment,
            photo=alignment.warp(read_photo(location, FaceSettings())),
            clean=alignment.warp(face.image),
            hidden=alignment.warp_labels(read_truth(row["mask"], composed.parent).astype(np.uint8)) > 0,
            outline=alignment.warp_labels(face.region.astype(np.uint8)) > 0,
            annotation=annotation,
            landmarks=alignment.to_frame(face.landmarks),
        )


def means(figures: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each list; what was not measured at all is left out."""
    return {name: float(np.mean(values)) for name, values in figures.items() if len(values)}


def detector_figures(found: Sequence[Case], finder: FaceFinder) -> dict[str, float]:
    """Share of photos whose face is found, other finds a photo, and the median error of landmarks in frame pixels.

    Landmarks are refined by the parser, as stage one does. A face counts as found if they are off by less than a third
    of the eyes' distance.
    """
    errors, others = [], 0
    for case in found:
        faces = finder.find(read_photo(case.location, finder.settings))
        eyes = np.linalg.norm(case.landmarks[1] - case.landmarks[0])
        placed = [case.alignment.to_frame(face.aligned.detection.landmarks) for face in faces]
        distances = [float(np.linalg.norm(marks - case.landmarks, axis=1).mean()) for marks in placed]
        best = min((distance for distance in distances if distance < eyes / 3), default=None)
        errors += [] if best is None else [best]
        others += len(faces) - (best is not None)
    return {
        "found": len(errors) / len(found), "others": others / len(found),
        **({"landmark_error": float(np.median(errors))} if errors else {}),
    }  # fmt: skip


def parser_figures(found: Sequence[Case], parser: FaceParser) -> dict[str, float]:
    """Mean F1 of the face's parts on clean photos, and IoU of M with the annotated face, clean and occluded."""
    counts = np.zeros((len(CELEBM.classes), 3))
    regions: dict[str, list[float]] = {"region_clean": [], "region_occluded": []}
    everywhere = np.ones((FRAME, FRAME), bool)
    for case in found:
        if case.annotation is None:
            continue
        [clean] = parser.parse([case.aligned(case.clean)])
        for name, row in zip(FACE, CELEBM.ids(FACE), strict=True):
            ours, truth = parser.taxonomy.where(clean.parsing, [name]), CELEBM.where(case.annotation, [name])
            counts[row] += [(ours & truth).sum(), ours.sum(), truth.sum()]
        face = CELEBM.where(case.annotation, CELEBM.face)
        regions["region_clean"].append(count(clean.region, face, everywhere).iou)
        if case.hidden.any():
            [occluded] = parser.parse([case.aligned(case.photo)])
            regions["region_occluded"].append(count(occluded.region, face, everywhere).iou)
    return {**({"mean_f1_clean": mean_f1(counts)} if counts.any() else {}), **means(regions)}


@torch.no_grad()
def segmenter_figures(found: Sequence[Case], segmenter: Segmenter) -> dict[str, float]:
    """IoU from one positive and one negative point: things inside the face's outline, annotated parts anywhere.

    The positive point is the one farthest from the edge, as SAM is judged (Kirillov et al., 2023), or a random one;
    the negative one lies anywhere within ``BESIDE`` pixels of what is asked for.
    """
    scores = {name: list[float]() for name in ("iou_thing", "iou_part", "iou_thing_random", "iou_part_random")}
    for number, case in enumerate(found):
        rng = np.random.default_rng(number)
        tokens = segmenter.encode(torch.from_numpy(case.photo)[None])
        for name, (wanted, where) in targets(case, rng).items():
            refused = where & ~wanted & (cv2.distanceTransform((~wanted).astype(np.uint8), cv2.DIST_L2, 5) <= BESIDE)
            if not refused.any():
                continue
            for suffix, positive in (("", innermost(wanted)), ("_random", any_of(rng, wanted))):
                mask = pointed(segmenter, tokens, positive, any_of(rng, refused))
                scores[f"iou_{name}{suffix}"].append(count(mask, wanted, where).iou)
    return means(scores)


def targets(case: Case, rng: np.random.Generator) -> dict[str, tuple[Mask, Mask]]:
    """What the segmenter is asked for, S×S, and where its answer is judged: the thing, and a random annotated part."""
    found = {"thing": (case.hidden, case.outline)} if case.hidden.any() else {}
    if case.annotation is not None:
        seen = ~case.pasted
        parts = [CELEBM.where(case.annotation, names) & seen for names in ASKED]
        parts = [part for part in parts if part.mean() > LEAST_PART]
        if parts:
            found["part"] = parts[int(rng.integers(len(parts)))], seen
    return found


def innermost(mask: Mask) -> tuple[int, int]:
    """The (x, y) of the pixel farthest from a mask's edge, which the picture's border is, too."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def any_of(rng: np.random.Generator, mask: Mask) -> tuple[int, int]:
    """The (x, y) of a random pixel of a mask."""
    cells = np.argwhere(mask)
    y, x = cells[int(rng.integers(len(cells)))]
    return int(x), int(y)


def pointed(segmenter: Segmenter, tokens: Tensor, positive: tuple[int, int], negative: tuple[int, int]) -> Mask:
    """S×S: what the segmenter draws from one pixel that is wanted and one that is not, (x, y) each."""
    points = (tokens.new_tensor([[positive, negative]]) + 0.5) / FRAME
    return drawn(segmenter, tokens, segmenter.embed_points(points, tokens.new_tensor([[1.0, 0.0]])), FRAME)


def reference_figures(
    found: Sequence[Case], parser: FaceParser, references: ReferenceGenerator, sheet: Path | None
) -> dict[str, float]:
    """Mean error of references against the clean photos, 0..255, and how often half of the occluder's trace is gone."""
    covered, before, visible, tiles = [], [], [], []
    for case in found:
        aligned = case.aligned(case.photo)
        [parsed] = parser.parse([aligned])
        [reference] = references.generate([ParsedFace(aligned, parsed)], [(case.name, 0)])
        error, was = (cv2.absdiff(picture, case.clean).mean(axis=2) for picture in (reference, case.photo))
        seen = case.outline & parsed.region & ~case.hidden
        visible.append(float(error[seen].mean()))
        if case.hidden.any():
            covered.append(float(error[case.hidden].mean()))
            before.append(float(was[case.hidden].mean()))
            tiles.append(np.vstack([case.photo, reference, case.clean]))
    if sheet is not None:
        draw_sheet(tiles, sheet)
    removed = [float(error < 0.5 * was) for error, was in zip(covered, before, strict=True)]
    return means({
        "error_covered": covered, "error_covered_before": before, "error_visible": visible, "mostly_removed": removed,
    })  # fmt: skip


def draw_sheet(tiles: Sequence[Photo], path: Path, across: int = 20) -> None:
    """Photo, reference and clean photo below each other, ``across`` of them beside each other."""
    small = [cv2.resize(tile, (96, 288), interpolation=cv2.INTER_AREA) for tile in tiles]
    small += [np.full((288, 96, 3), 255, np.uint8)] * (-len(small) % across)
    lines = [np.hstack(small[start : start + across]) for start in range(0, len(small), across)]
    Image.fromarray(np.vstack(lines)).save(path)


def measure(composed: Path, faces: Path, name: str = DEFAULT, sheet: Path | None = None) -> dict[str, dict[str, float]]:
    """All figures of a profile's detector, parser, segmenter and inpainter."""
    profile = find_profile(name)
    settings, models = profile.settings, Models(profile)
    parser = FaceParser(models.parser, settings.references.face_classes, complete=settings.references.complete)
    references = ReferenceGenerator(models.inpainter, parser.taxonomy, settings.references, settings.seed)
    found = list(cases(composed, faces))
    return {
        "detector": detector_figures(found, FaceFinder(models.detector, parser, settings.faces)),
        "parser": parser_figures(found, parser),
        "segmenter": segmenter_figures(found, models.segmenter),
        "references": reference_figures(found, parser, references, sheet),
    }


def main(
    composed: Annotated[Path, typer.Option(help="Manifest that s3pot-batch compose wrote.")],
    faces: Annotated[Path, typer.Option(help="Manifest of the clean faces that it was given.")],
    profile: Annotated[str, typer.Option(help="Name of a profile, or a TOML file.")] = DEFAULT,
    sheet: Annotated[Path | None, typer.Option(help="Where a picture of the references goes.")] = None,
) -> None:
    """Print what each model of a profile does by itself."""
    for part, figures in measure(composed, faces, profile, sheet).items():
        print(part, *(f"{name} {value:.3f}" for name, value in figures.items()), sep="  ")


if __name__ == "__main__":
    typer.run(main)
