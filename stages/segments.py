"""Stage two, the answer: masks drawn in the aligned frame, and pasted back into the photo's own pixels."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, read_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.beside import shared
from s3pot_batch.stages.decoded import read_decoded
from s3pot_batch.stages.method.masks import FaceMask, draw, paste, ratio
from s3pot_batch.stages.references import alignment_of, read_pair
from s3pot_batch.stages.rle import encode_rle
from s3pot_batch.stages.store import ArraySpec

STORE = "masks.zarr"


def arrays(context: StageContext) -> dict[str, ArraySpec]:
    """What the stage's store holds."""
    side = context.settings.faces.frame
    return {"occlusion": ArraySpec("float16", side, "probability that the pixel of the face is hidden, 1 = occluded")}


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Draw the masks of a shard's faces, which must have been decoded."""
    settings, masks, answers = context.settings.segments, dict[int, FaceMask](), list[Outcome]()
    refiner = context.models.refiner if settings.refine else None

    def drawn(outcome: Outcome) -> tuple[Outcome, dict[int, FaceMask]]:
        began, own = time.perf_counter(), dict[int, FaceMask]()
        for face in outcome.faces:
            pair, decoded = read_pair(context.run, face.row), read_decoded(context.run, face.row)
            own[face.row] = draw(pair, decoded, settings, refiner)
        seconds = outcome.seconds + (time.perf_counter() - began if outcome.faces else 0)
        return replace(answer(outcome, own, settings.threshold), seconds=seconds), own

    with shared(context.device) as each:
        for one, own in each(drawn, read_outcomes(context.run, "decoded", items[0].shard)):
            answers.append(one)
            masks |= own
            context.headway.add(1)
    return ShardResult(answers, {row: _arrays(mask) for row, mask in masks.items()})


def answer(outcome: Outcome, masks: Mapping[int, FaceMask], threshold: float) -> Outcome:
    """The photo's answer: all its faces' masks, pasted back, each by itself and united, and each face's figures."""
    if outcome.status == "failed":
        return outcome
    shape = outcome.shape
    occlusion, region = np.zeros(shape, bool), np.zeros(shape, bool)
    faces: list[FaceOutcome] = []
    for face in outcome.faces:
        mask = masks[face.row]
        pasted = paste(mask, alignment_of(face, mask.region.shape[0]), shape, threshold)
        occlusion |= pasted.occlusion
        region |= pasted.region
        hidden, whole = encode_rle(pasted.occlusion), encode_rle(pasted.region)
        faces.append(replace(face, occlusion_ratio=pasted.occlusion_ratio, occlusion=hidden, face_region=whole))
    return replace(
        outcome, faces=tuple(faces), occlusion=encode_rle(occlusion), face_region=encode_rle(region),
        occlusion_ratio=ratio(occlusion, region) if faces else None,
        predicted_iou=float(np.mean([face.predicted_iou or 0.0 for face in faces])) if faces else None,
    )  # fmt: skip


def _arrays(mask: FaceMask) -> dict[str, NDArray[np.generic]]:
    """A face's mask as the store's arrays hold it."""
    return {"occlusion": mask.occlusion}
