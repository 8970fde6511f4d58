"""Stage one: photos in, aligned faces with their parse map and occlusion-free reference out.

Reference Generation of S³POT (arXiv 2602.00635), with a ControlNet-conditioned diffusion inpainter in the place of the
authors' StyleGAN inversion.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from manifests.files import shard_is_done, write_items
from manifests.plan import Plan, PlannedItem, read_plan
from stages import store
from stages.base import ShardReport, ShardTask, StageContext
from stages.errors import ItemError, RetryableError
from stages.faces.alignment import alignment_matrix, inverse
from stages.faces.detection import Face, distinct
from stages.faces.refinement import refined
from stages.faces.region import dilated, face_region
from stages.images import Photo, read_photo
from stages.models.catalog import load
from stages.seeds import generator
from stages.settings import ReferenceSettings

STAGE = "references"
STORE = "references.zarr"


@dataclass
class AlignedFace:
    """One face on its way through the stage; ``raw`` S×S×3, ``parsing`` and ``region`` S×S, ``reference`` S×S×3."""

    item: PlannedItem
    slot: int
    face: Face
    matrix: NDArray[np.float64]
    raw: NDArray[np.uint8]
    parsing: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    region: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    reference: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    parse_confidence: float = 0.0

    @property
    def row(self) -> int:
        """Its Zarr row."""
        return self.item.row + self.slot

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """5×2 (x, y) in frame pixels."""
        return np.asarray(self.face.landmarks @ self.matrix[:, :2].T + self.matrix[:, 2], np.float64)


def prepare(run: Path, plan: Plan, context: StageContext) -> None:
    """Create the stage's empty arrays, once, before any shard runs."""
    store.create(run, STORE, plan, context.settings.faces.frame)


def run_shard(task: ShardTask, context: StageContext) -> ShardReport:
    """Write the references of one shard; its items file comes last and marks it as done.

    Raises:
        RetryableError: the device ran out of memory.
    """
    started = time.perf_counter()
    plan = read_plan(task.run)
    items = plan.shard(task.shard)
    if shard_is_done(task.run, STAGE, task.shard, context.fingerprint):
        return ShardReport(STAGE, task.shard, len(items), skipped=True)
    rows: list[dict[str, Any]] = []
    faces: list[AlignedFace] = []
    for item in items:
        row, found = find_faces(item, context)
        rows.append(row)
        faces.extend(found)
    try:
        size = context.faces_at_once
        for start in range(0, len(faces), size):
            group = faces[start : start + size]
            parse(group, context)
            generate(group, context)
    except torch.cuda.OutOfMemoryError as error:
        raise RetryableError(f"out of memory with {context.batch_size} faces at once") from error
    write(task, plan, faces, context.settings.faces.frame)
    by_index = {row["index"]: row for row in rows}
    for face in faces:
        by_index[face.item.index]["faces"].append(describe(face))
    write_items(task.run, STAGE, task.shard, rows, context.fingerprint)
    tally = [row["status"] for row in rows]
    return ShardReport(
        STAGE, task.shard, len(rows), tally.count("ok"), tally.count("no_face"), tally.count("failed"),
        time.perf_counter() - started,
    )  # fmt: skip


def find_faces(item: PlannedItem, context: StageContext) -> tuple[dict[str, Any], list[AlignedFace]]:
    """Decode one photo and align its faces; what goes wrong becomes the row's status and reason."""
    started = time.perf_counter()
    row: dict[str, Any] = {"index": item.index, "image_id": item.image_id, "faces": []}
    try:
        photo = read_photo(item.image, context.settings.faces.max_pixels)
        row |= {"height": photo.shape[0], "width": photo.shape[1]}
        aligned = align(item, photo, locate(item, photo, context), context.settings.faces.frame)
        if context.settings.faces.refine and not item.landmarks:
            aligned = realign(item, photo, aligned, context)
    except ItemError as error:
        row |= {"status": "failed", "error_type": type(error).__name__, "error": str(error)}
        return row | {"seconds": time.perf_counter() - started}, []
    row |= {"status": "ok" if aligned else "no_face", "seconds": time.perf_counter() - started}
    return row, aligned


def locate(item: PlannedItem, photo: Photo, context: StageContext) -> list[Face]:
    """The photo's faces: the manifest's landmarks, else what is detected, if need be at the manifest's box.

    If detections are to be refined, these are candidates, which :func:`realign` judges.
    """
    settings = context.settings.faces
    if item.landmarks:
        points = np.array(item.landmarks).reshape(5, 2)
        return [Face(item.bbox or (*points.min(0).tolist(), *points.max(0).tolist()), 1.0, points)]
    faces: list[Face] = load(context.profile.detector, context.device).detect(photo, settings.min_score)
    if item.bbox and faces:
        overlap = box_iou(torch.tensor([item.bbox]), torch.tensor([face.bbox for face in faces]))[0]
        return [faces[int(overlap.argmax())]] if float(overlap.max()) > 0.2 else []
    return faces if settings.refine else distinct(faces)[: settings.max_faces]


def align(item: PlannedItem, photo: Photo, faces: Sequence[Face], frame: int) -> list[AlignedFace]:
    """Warp every face into the aligned frame; faces whose landmarks do not span a face are left out."""
    aligned: list[AlignedFace] = []
    for face in faces:
        try:
            matrix = alignment_matrix(face.landmarks, frame)
        except ValueError as error:
            if item.landmarks:
                raise ItemError(f"{item.image}: {error}; correct the manifest's landmarks") from error
            continue
        aligned.append(AlignedFace(item, len(aligned), face, matrix, warp(photo, matrix, frame)))
    return aligned


def realign(item: PlannedItem, photo: Photo, faces: Sequence[AlignedFace], context: StageContext) -> list[AlignedFace]:
    """Choose among detected faces by how surely they can be parsed, and align them anew by their parsed parts.

    A detector takes many a patch for a face; a parser that looks at the patch closely finds no parts there, or not
    surely. What has fewer than two of eyes, nose and mouth is no face, and two that end up in one place are one.
    """
    parser, settings = load(context.profile.parser, context.device), context.settings.faces
    judged: list[tuple[float, Face]] = []
    for face in faces:
        [probabilities] = parser.parse(face.raw[None], face.landmarks[None])
        region = face_region(probabilities, context.settings.references.face_classes)
        fine, back = refined(face.landmarks, probabilities), inverse(face.matrix)
        margin = parse_confidence(probabilities, region) - settings.min_parse_confidence
        if fine.parts >= 2 and margin >= 0:
            found = moved(face.face, fine.landmarks @ back[:, :2].T + back[:, 2])
            judged.append((face.face.score * margin * fine.parts, found))
    surest = [face for _, face in sorted(judged, key=lambda one: -one[0])]
    return align(item, photo, distinct(surest)[: settings.max_faces], settings.frame)


def parse_confidence(probabilities: NDArray[np.float32], region: NDArray[np.bool_]) -> float:
    """Mean probability of the likeliest class inside S×S ``region``; 0 where that is empty."""
    inside = probabilities.max(0)[region]
    return float(inside.mean()) if inside.size else 0.0


def moved(face: Face, landmarks: NDArray[np.float64]) -> Face:
    """The face at better landmarks, 5×2 in photo pixels; its box goes with them."""
    x, y = (landmarks.mean(0) - face.landmarks.mean(0)).tolist()
    x0, y0, x1, y1 = face.bbox
    return replace(face, bbox=(x0 + x, y0 + y, x1 + x, y1 + y), landmarks=landmarks)


def warp(photo: Photo, matrix: NDArray[np.float64], frame: int) -> NDArray[np.uint8]:
    """Draw a photo in the aligned frame, without aliasing where it is made smaller."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.4 / scale), np.uint8)
    drawn = cv2.warpAffine(photo, matrix, (frame, frame), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(drawn, np.uint8)


def parse(faces: Sequence[AlignedFace], context: StageContext) -> None:
    """Fill in parse maps and face regions."""
    parser = load(context.profile.parser, context.device)
    landmarks = np.stack([face.landmarks for face in faces])
    for face, probabilities in zip(faces, parser.parse(np.stack([f.raw for f in faces]), landmarks), strict=True):
        face.parsing = probabilities.argmax(0).astype(np.uint8)
        face.region = face_region(probabilities, context.settings.references.face_classes)
        face.parse_confidence = parse_confidence(probabilities, face.region)


def generate(faces: Sequence[AlignedFace], context: StageContext) -> None:
    """Fill in references: the mean of ``seeds`` runs of one or two passes."""
    settings = context.settings.references
    runs = [one_reference(faces, context, k) for k in range(settings.seeds)]
    for face, references in zip(faces, zip(*runs, strict=True), strict=True):
        face.reference = np.mean(references, axis=0).round().astype(np.uint8)


def one_reference(faces: Sequence[AlignedFace], context: StageContext, k: int) -> NDArray[np.uint8]:
    """One reference of each face, B×S×S×3 uint8.

    The first pass regenerates M from the photo and the parse map. The second, if asked for, inpaints only what differs
    clearly from the first, so that the visible face stays the photo's own.
    """
    settings = context.settings.references
    inpainter = load(context.profile.inpainter, context.device)
    raw = np.stack([face.raw for face in faces])
    parsing = np.stack([face.parsing for face in faces])
    holes = np.stack([dilated(face.region, round(settings.dilation * raw.shape[1])) for face in faces])

    def seeds(number: int) -> list[torch.Generator]:
        return [generator(context.settings.seed, face.item.image_id, face.slot, k, number) for face in faces]

    blind = inpainter.inpaint(raw, parsing, holes, hide=False, settings=settings, generators=seeds(1))
    if settings.passes == 1:
        return np.asarray(blind, np.uint8)
    holes &= np.stack([differs(*pair, settings) for pair in zip(raw, blind, strict=True)])
    filled = inpainter.inpaint(raw, parsing, holes, hide=True, settings=settings, generators=seeds(2))
    return np.asarray(filled, np.uint8)


def differs(raw: NDArray[np.uint8], reference: NDArray[np.uint8], settings: ReferenceSettings) -> NDArray[np.bool_]:
    """Where a first reference clearly disagrees with the photo, plus a margin; S×S bool."""
    side = raw.shape[0]
    difference = np.abs(raw.astype(np.float32) - reference).mean(axis=2)
    marked = cv2.GaussianBlur(difference, (0, 0), side / 64) > 255 * settings.second_pass_contrast
    return dilated(marked, round(settings.dilation * side))


def write(task: ShardTask, plan: Plan, faces: Sequence[AlignedFace], frame: int) -> None:
    """Write the shard's arrays whole; slots without a face stay zero."""
    slots = len(plan.shard(task.shard)) * plan.max_faces
    first = task.shard * plan.shard_size * plan.max_faces
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.zeros((slots, frame, frame, *((channels,) if channels else ())), dtype)
        for name, (dtype, channels, _) in store.CONTENTS[STORE].items()
    }
    for face in faces:
        for name, array in arrays.items():
            array[face.row - first] = getattr(face, name)
    store.write_shard(task.run, STORE, plan, task.shard, arrays)


def describe(face: AlignedFace) -> dict[str, Any]:
    """The face's entry in the items file."""
    return {
        "row": face.row, "bbox": list(face.face.bbox), "score": face.face.score,
        "landmarks": face.face.landmarks.ravel().tolist(), "matrix": face.matrix.ravel().tolist(),
        "parse_confidence": face.parse_confidence,
    }  # fmt: skip
