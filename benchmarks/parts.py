"""What each model of a profile does by itself, on a composed benchmark whose clean photos and annotations are known.

    python -m benchmarks.parts --composed composed/manifest.parquet --faces heldout.parquet --sheet references.png

But for the detector, faces are aligned by the annotated landmarks, so that no model pays for another's mistakes.
``--faces`` is the manifest that ``s3pot-batch compose`` was given; a column ``parse`` (CelebAMask-HQ annotation) is
used where there is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam

from manifests.plan import PlannedItem
from stages.base import StageContext
from stages.commandline import run
from stages.embedded.faces import read_annotation
from stages.embedded.train_parser import FACE_PARTS, mean_f1
from stages.evaluation.baselines import decoded
from stages.evaluation.compose import Composition, read_face
from stages.evaluation.metrics import count
from stages.faces.alignment import alignment_matrix
from stages.faces.detection import Face
from stages.images import read_mask, read_photo
from stages.models.catalog import load, profile
from stages.models.palette import CLASSES
from stages.models.sam import encode
from stages.references import AlignedFace, find_faces, generate, parse, warp
from stages.settings import FACE_CLASSES, FaceSettings

SIZE = FaceSettings.frame
PARTS = (("hair",), ("nose",), ("imouth", "llip", "ulip"), ("rb",), ("lb",), ("re",), ("le",), ("neck",), ("cloth",))
PASTED = 16
"""Change of a channel, 0..255, that no rounding makes."""
BESIDE = SIZE // 8
"""How far from what is asked for the negative point may lie: one on the far side of the photo rules nothing out."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """One composed photo in its aligned frame, S×S: what was photographed, what lies in front, and the annotation."""

    name: str
    location: str
    photo: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    hidden: Bools
    outline: Bools
    annotation: NDArray[np.uint8] | None
    landmarks: NDArray[np.float64]
    matrix: NDArray[np.float64]
    """2×3, pixels of the file at ``location`` → frame."""

    @property
    def pasted(self) -> Bools:
        """Where the composed photo is not the clean one; ``hidden`` ends at the outline of the face."""
        return self.hidden | (cv2.absdiff(self.photo, self.clean).max(axis=2) > PASTED)


def cases(composed: Path, faces: Path) -> Iterator[Case]:
    """Every photo of a composed manifest."""
    rows = {row["image"]: row for row in pq.read_table(faces).to_pylist()}
    for row in pq.read_table(composed).to_pylist():
        face_row = rows[row["face_source"]]
        face = read_face(faces.parent, face_row, Composition.size)
        matrix = alignment_matrix(face.landmarks, SIZE)
        location = str(composed.parent / row["image"])
        hidden = read_mask(row["mask"], composed.parent).astype(np.uint8)
        annotation = None
        if face_row.get("parse"):
            annotation = in_frame(read_annotation(faces.parent / face_row["parse"], face.image.shape[:2]), matrix)
        photo = warp(read_photo(location, FaceSettings.max_pixels), matrix, SIZE)
        yield Case(
            row["image_id"], location, photo, warp(face.image, matrix, SIZE),
            in_frame(hidden, matrix) > 0, in_frame(face.region.astype(np.uint8), matrix) > 0, annotation,
            face.landmarks @ matrix[:, :2].T + matrix[:, 2], matrix,
        )  # fmt: skip


def in_frame(labels: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """H×W labels in the aligned frame; 0 outside the photo."""
    return np.asarray(cv2.warpAffine(labels, matrix, (SIZE, SIZE), flags=cv2.INTER_NEAREST), np.uint8)


def aligned(case: Case, pixels: NDArray[np.uint8], number: int) -> AlignedFace:
    """The case as stage one would have it, ``pixels`` being its photo or the clean one."""
    identity = np.eye(2, 3)
    face = Face((0.0, 0.0, float(SIZE), float(SIZE)), 1.0, case.landmarks)
    return AlignedFace(PlannedItem(number, case.name, case.name, None, None, 0, number), 0, face, identity, pixels)


def means(figures: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each list; what was not measured at all is left out."""
    return {name: float(np.mean(values)) for name, values in figures.items() if len(values)}


def detector_figures(found: Sequence[Case], context: StageContext) -> dict[str, float]:
    """Share of photos whose face is found, other finds a photo, and the median error of landmarks in frame pixels.

    Landmarks are refined by the parser, as stage one does. A face counts as found if they are off by less than a third
    of the eyes' distance.
    """
    errors, others = [], 0
    for number, case in enumerate(found):
        _, faces = find_faces(PlannedItem(number, case.name, case.location, None, None, 0, number), context)
        eyes = np.linalg.norm(case.landmarks[1] - case.landmarks[0])
        placed = [face.face.landmarks @ case.matrix[:, :2].T + case.matrix[:, 2] for face in faces]
        distances = [float(np.linalg.norm(marks - case.landmarks, axis=1).mean()) for marks in placed]
        best = min((distance for distance in distances if distance < eyes / 3), default=None)
        errors += [] if best is None else [best]
        others += len(faces) - (best is not None)
    return {
        "found": len(errors) / len(found), "others": others / len(found),
        **({"landmark_error": float(np.median(errors))} if errors else {}),
    }  # fmt: skip


def parser_figures(found: Sequence[Case], context: StageContext) -> dict[str, float]:
    """Mean F1 of the face's parts on clean photos, and IoU of M with the annotated face, clean and occluded."""
    counts = np.zeros((len(CLASSES), 3))
    regions: dict[str, list[float]] = {"region_clean": [], "region_occluded": []}
    inside = [CLASSES.index(name) for name in FACE_CLASSES]
    for number, case in enumerate(found):
        if case.annotation is None:
            continue
        clean = aligned(case, case.clean, number)
        parse([clean], context)
        for part in FACE_PARTS:
            ours, truth = clean.parsing == part, case.annotation == part
            counts[part] += [(ours & truth).sum(), ours.sum(), truth.sum()]
        face, everywhere = np.isin(case.annotation, inside), np.ones((SIZE, SIZE), bool)
        regions["region_clean"].append(count(clean.region, face, everywhere).iou)
        if case.hidden.any():
            occluded = aligned(case, case.photo, number)
            parse([occluded], context)
            regions["region_occluded"].append(count(occluded.region, face, everywhere).iou)
    return {**({"mean_f1_clean": mean_f1(counts)} if counts.any() else {}), **means(regions)}


@torch.no_grad()
def segmenter_figures(found: Sequence[Case], context: StageContext) -> dict[str, float]:
    """IoU from one positive and one negative point: things inside the face's outline, annotated parts anywhere.

    The positive point is the one farthest from the edge, as SAM is judged (Kirillov et al., 2023), or a random one;
    the negative one lies anywhere within ``BESIDE`` pixels of what is asked for.
    """
    sam: Sam = load(context.profile.segmenter, context.device)
    scores = {name: list[float]() for name in ("iou_thing", "iou_part", "iou_thing_random", "iou_part_random")}
    for number, case in enumerate(found):
        rng = np.random.default_rng(number)
        tokens = encode(sam, torch.from_numpy(case.photo)[None])
        targets = {"thing": (case.hidden, case.outline)} if case.hidden.any() else {}
        if case.annotation is not None:
            seen = ~case.pasted
            parts = [np.isin(case.annotation, [CLASSES.index(one) for one in part]) & seen for part in PARTS]
            parts = [part for part in parts if part.mean() > 0.004]
            if parts:
                targets["part"] = parts[int(rng.integers(len(parts)))], seen
        for name, (wanted, where) in targets.items():
            refused = where & ~wanted & (cv2.distanceTransform((~wanted).astype(np.uint8), cv2.DIST_L2, 5) <= BESIDE)
            if not refused.any():
                continue
            for suffix, positive in (("", innermost(wanted)), ("_random", drawn(rng, wanted))):
                mask = pointed(sam, tokens, positive, drawn(rng, refused))
                scores[f"iou_{name}{suffix}"].append(count(mask, wanted, where).iou)
    return means(scores)


def innermost(mask: Bools) -> tuple[int, int]:
    """The (x, y) of the pixel farthest from a mask's edge, which the picture's border is, too."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def drawn(rng: np.random.Generator, mask: Bools) -> tuple[int, int]:
    """The (x, y) of a random pixel of a mask."""
    cells = np.argwhere(mask)
    y, x = cells[int(rng.integers(len(cells)))]
    return int(x), int(y)


def pointed(sam: Sam, tokens: torch.Tensor, positive: tuple[int, int], negative: tuple[int, int]) -> Bools:
    """S×S: what the segmenter draws from one pixel that is wanted and one that is not, (x, y) each."""
    points = (torch.tensor([[positive, negative]], dtype=torch.float32) + 0.5) * sam.image_encoder.img_size / SIZE
    sparse, dense = sam.prompt_encoder(points=(points, torch.tensor([[1.0, 0.0]])), boxes=None, masks=None)
    return decoded(sam, tokens, sparse, dense, SIZE)


def reference_figures(found: Sequence[Case], context: StageContext, sheet: Path | None) -> dict[str, float]:
    """Mean error of references against the clean photos, 0..255, and how often half of the occluder's trace is gone."""
    covered, before, visible, tiles = [], [], [], []
    for number, case in enumerate(found):
        face = aligned(case, case.photo, number)
        parse([face], context)
        generate([face], context)
        error, was = (cv2.absdiff(picture, case.clean).mean(axis=2) for picture in (face.reference, case.photo))
        seen = case.outline & face.region & ~case.hidden
        visible.append(float(error[seen].mean()))
        if case.hidden.any():
            covered.append(float(error[case.hidden].mean()))
            before.append(float(was[case.hidden].mean()))
            tiles.append(np.vstack([case.photo, face.reference, case.clean]))
    if sheet is not None:
        draw_sheet(tiles, sheet)
    removed = [float(error < 0.5 * was) for error, was in zip(covered, before, strict=True)]
    return means({
        "error_covered": covered, "error_covered_before": before, "error_visible": visible, "mostly_removed": removed,
    })  # fmt: skip


def draw_sheet(tiles: Sequence[NDArray[np.uint8]], path: Path, across: int = 20) -> None:
    """Photo, reference and clean photo below each other, ``across`` of them beside each other."""
    small = [cv2.resize(tile, (96, 288), interpolation=cv2.INTER_AREA) for tile in tiles]
    small += [np.full((288, 96, 3), 255, np.uint8)] * (-len(small) % across)
    lines = [np.hstack(small[start : start + across]) for start in range(0, len(small), across)]
    Image.fromarray(np.vstack(lines)).save(path)


def measure(
    composed: Path, faces: Path, name: str = "embedded", sheet: Path | None = None
) -> dict[str, dict[str, float]]:  # fmt: skip
    """All figures of a profile's detector, parser, segmenter and reference generator."""
    chosen = profile(name)
    context = StageContext(chosen, chosen.settings, "")
    found = list(cases(composed, faces))
    return {
        "detector": detector_figures(found, context),
        "parser": parser_figures(found, context),
        "segmenter": segmenter_figures(found, context),
        "references": reference_figures(found, context, sheet),
    }


def main(composed: Path, faces: Path, profile: str = "embedded", sheet: Path | None = None) -> None:
    """Print the figures of one profile, and draw the references."""
    for part, figures in measure(composed, faces, profile, sheet).items():
        print(part, *(f"{name} {value:.3f}" for name, value in figures.items()), sep="  ")


if __name__ == "__main__":
    run(main)
