"""Stage two, inference: the decoder's answer for every pair of photo and reference, in the aligned frame."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from s3pot_batch.manifests.outcomes import Outcome, read_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages import store
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.beside import ahead
from s3pot_batch.stages.errors import ShardError
from s3pot_batch.stages.fits import load_fits
from s3pot_batch.stages.method.masks import Decoded, decode_pairs
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.store import ArraySpec

STORE = "decoded.zarr"


def arrays(context: StageContext) -> dict[str, ArraySpec]:
    """What the stage's store holds."""
    side = context.settings.faces.frame
    return {
        "occlusion": ArraySpec("float32", side, "the decoder's probability that the pixel of the face is hidden"),
        "contrast": ArraySpec("float16", side, "1 − cosine of raw and reference tokens, at the frame's size"),
        "prompts": ArraySpec("int8", side, "at a prompt's pixel: 1 = face point, 2 = occlusion point, 0 elsewhere"),
    }


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Decode the faces of a shard, whose references must be there.

    Raises:
        ConfigError: the adapter does not fit the segmenter.
        ShardError: the faces' own fits are missing.
    """
    shard = items[0].shard
    network = S3POT(context.models.segmenter, context.models.adapter, context.settings.segments)
    fits = load_fits(context.run, shard) if context.settings.segments.per_image else None
    outcomes = read_outcomes(context.run, "references", shard)
    faces = [(outcome.index, face.row) for outcome in outcomes for face in outcome.faces]
    found: dict[int, Decoded] = {}
    seconds = {outcome.index: outcome.seconds for outcome in outcomes}
    at_once = context.faces_at_once
    groups = [faces[start : start + at_once] for start in range(0, len(faces), at_once)]
    read = ahead(lambda group: [read_pair(context.run, row) for _, row in group], groups, context.device)
    for group in groups:
        began = time.perf_counter()
        pairs, rows = next(read), [row for _, row in group]
        own = None if fits is None else _own_networks(network, [fits.get(row) for row in rows])
        found |= dict(zip(rows, decode_pairs(network, pairs, own), strict=True))
        for index, _ in group:
            seconds[index] += (time.perf_counter() - began) / len(group)
        context.headway.add(len(items) * len(group) / len(faces))
    judged = [replace(_judged(outcome, found), seconds=seconds[outcome.index]) for outcome in outcomes]
    return ShardResult(judged, {row: _arrays(one) for row, one in found.items()})


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


def _judged(outcome: Outcome, found: dict[int, Decoded]) -> Outcome:
    faces = tuple(replace(face, predicted_iou=found[face.row].predicted_iou) for face in outcome.faces)
    return replace(outcome, faces=faces)


def _arrays(decoded: Decoded) -> dict[str, NDArray[np.generic]]:
    """A face as the store's arrays hold it."""
    return {"occlusion": decoded.occlusion, "contrast": decoded.contrast, "prompts": decoded.prompts}


def read_decoded(run: Path, row: int) -> NDArray[np.float32]:
    """One Zarr row of this stage's answer: S×S, the decoder's probability that a pixel is hidden."""
    [occlusion] = store.read_row(run / STORE, row, "occlusion")
    return occlusion.astype(np.float32, copy=False)
