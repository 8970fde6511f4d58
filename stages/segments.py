"""Stage two, inference: pairs in, occlusion masks out, pasted back into the photo's own pixels."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, read_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.errors import ShardError
from s3pot_batch.stages.fits import load_fits
from s3pot_batch.stages.method.masks import FaceMask, paste, ratio, segment_pairs
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.references import alignment_of, read_pair
from s3pot_batch.stages.rle import encode_rle
from s3pot_batch.stages.store import ArraySpec

STORE = "masks.zarr"


def arrays(context: StageContext) -> dict[str, ArraySpec]:
    """What the stage's store holds."""
    side = context.settings.faces.frame
    return {
        "occlusion": ArraySpec("float16", side, "probability that the pixel of the face is hidden, 1 = occluded"),
        "visible_face": ArraySpec("uint8", side, "1 where the face is seen"),
        "contrast": ArraySpec("float16", side, "1 − cosine of raw and reference tokens, at the frame's size"),
        "prompts": ArraySpec("int8", side, "at a prompt's pixel: 1 = face point, 2 = occlusion point, 0 elsewhere"),
    }


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Segment the faces of a shard, whose references must be there.

    Raises:
        ConfigError: the adapter does not fit the segmenter.
        ShardError: the faces' own fits are missing.
    """
    shard = items[0].shard
    network = S3POT(context.models.segmenter, context.models.adapter, context.settings.segments)
    fits = load_fits(context.run, shard) if context.settings.segments.per_image else None
    outcomes = read_outcomes(context.run, "references", shard)
    faces = [(outcome.index, face.row) for outcome in outcomes for face in outcome.faces]
    masks: dict[int, FaceMask] = {}
    seconds = {outcome.index: outcome.seconds for outcome in outcomes}
    for start in range(0, len(faces), context.faces_at_once):
        group, began = faces[start : start + context.faces_at_once], time.perf_counter()
        rows = [row for _, row in group]
        pairs = [read_pair(context.run, row) for row in rows]
        own = None if fits is None else _own_networks(network, [fits.get(row) for row in rows])
        masks |= dict(zip(rows, segment_pairs(network, pairs, own), strict=True))
        for index, _ in group:
            seconds[index] += (time.perf_counter() - began) / len(group)
    answers = [
        answer(replace(outcome, seconds=seconds[outcome.index]), masks, context.settings.segments.threshold)
        for outcome in outcomes
    ]
    return ShardResult(answers, {row: _arrays(mask) for row, mask in masks.items()})


def _own_networks(network: S3POT, states: Sequence[dict[str, Tensor] | None]) -> Callable[[int, Prompted], S3POT]:
    """The n-th face's network, with the adapter that was fitted to it."""

    def own(n: int, prompted: Prompted) -> S3POT:
        del prompted  # it was fitted to them before
        adapter, state = copy.deepcopy(network.adapter), states[n]
        if state is None:
            raise ShardError("a face's own fit is missing; remove the run's fits and items/fits, and run again")
        cast("nn.Module", adapter).load_state_dict(state)
        return S3POT(network.segmenter, adapter, network.settings)

    return own


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
        faces.append(
            replace(
                face, occlusion_ratio=pasted.occlusion_ratio, predicted_iou=mask.predicted_iou,
                occlusion=encode_rle(pasted.occlusion), face_region=encode_rle(pasted.region),
            )
        )  # fmt: skip
    return replace(
        outcome, faces=tuple(faces), occlusion=encode_rle(occlusion), face_region=encode_rle(region),
        occlusion_ratio=ratio(occlusion, region) if faces else None,
        predicted_iou=float(np.mean([mask.predicted_iou for mask in (masks[f.row] for f in faces)])) if faces else None,
    )  # fmt: skip


def _arrays(mask: FaceMask) -> dict[str, NDArray[np.generic]]:
    """A face's mask as the store's arrays hold it."""
    return {
        "occlusion": mask.occlusion, "visible_face": mask.visible_face, "contrast": mask.contrast,
        "prompts": mask.prompts,
    }  # fmt: skip
