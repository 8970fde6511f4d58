"""Stage two, inference: pairs in, occlusion masks out, pasted back into the photo's own pixels."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from manifests.files import read_items, shard_is_done, write_items
from manifests.plan import Plan, read_plan
from stages import store
from stages.base import ShardReport, ShardTask, StageContext
from stages.errors import RetryableError, ShardError
from stages.images import encode_rle
from stages.models.catalog import load
from stages.segmentation.edges import cut_along_edges
from stages.segmentation.fitting import load_fits
from stages.segmentation.network import S3POT, Prompted, Segmentation
from stages.segmentation.pairs import Pair, encode_pair, read_pair
from stages.segmentation.selection import PromptSelector
from stages.segmentation.tokens import drawn

STAGE = "segments"
STORE = "masks.zarr"


@dataclass(frozen=True)
class FaceMask:
    """One face's answer in the aligned frame, S×S each."""

    occlusion: NDArray[np.float32]
    """Probability that a pixel of M is hidden, 0 or 1 where GrabCut decided; 0 outside M."""
    visible_face: NDArray[np.uint8]
    contrast: NDArray[np.float32]
    prompts: NDArray[np.int8]
    region: NDArray[np.bool_]
    predicted_iou: float


def prepare(run: Path, plan: Plan, context: StageContext) -> None:
    """Create the stage's empty arrays, once, before any shard runs."""
    store.create(run, STORE, plan, context.settings.faces.frame)


def run_shard(task: ShardTask, context: StageContext) -> ShardReport:
    """Segment the faces of one shard, whose references must be there.

    Raises:
        RetryableError: the device ran out of memory.
        ShardError: the adapter does not fit the segmenter, or the faces' own fits are missing.
    """
    started = time.perf_counter()
    plan = read_plan(task.run)
    if shard_is_done(task.run, STAGE, task.shard, context.fingerprint):
        return ShardReport(STAGE, task.shard, len(plan.shard(task.shard)), skipped=True)
    network = load_network(context)
    fits = load_fits(task.run, task.shard) if context.settings.segments.per_image else None
    rows = read_items(task.run, "references", task.shard).to_pylist()
    faces = [(number, face["row"]) for number, row in enumerate(rows) for face in row["faces"]]
    masks: dict[int, FaceMask] = {}
    try:
        for start in range(0, len(faces), context.faces_at_once):
            group, began = faces[start : start + context.faces_at_once], time.perf_counter()
            pairs = [read_pair(task.run, place) for _, place in group]
            masks |= dict(zip((place for _, place in group), segment(network, pairs, context, fits), strict=True))
            for number, _ in group:
                rows[number]["seconds"] += (time.perf_counter() - began) / len(group)
    except torch.cuda.OutOfMemoryError as error:
        raise RetryableError(f"out of memory with {context.faces_at_once} faces at once") from error
    for row in rows:
        row.update(answer(row, masks, context.settings.segments.threshold))
    write(task, plan, masks, context.settings.faces.frame)
    write_items(task.run, STAGE, task.shard, rows, context.fingerprint)
    tally = [row["status"] for row in rows]
    return ShardReport(
        STAGE, task.shard, len(rows), tally.count("ok"), tally.count("no_face"), tally.count("failed"),
        time.perf_counter() - started,
    )  # fmt: skip


def load_network(context: StageContext) -> S3POT:
    """The frozen segmenter with the profile's adapter.

    Raises:
        ShardError: they have different widths.
    """
    sam = load(context.profile.segmenter, context.device)
    selector = load(context.profile.adapter, context.device)
    if selector.embed_dim != sam.prompt_encoder.embed_dim:
        raise ShardError(
            f"the adapter has {selector.embed_dim} channels and the segmenter {sam.prompt_encoder.embed_dim}; train one"
        )
    return S3POT(sam, selector, context.settings.segments)


@torch.no_grad()
def segment(
    network: S3POT, pairs: Sequence[Pair], context: StageContext, fits: Mapping[int, dict[str, Tensor]] | None = None
) -> list[FaceMask]:
    """Every pair's occlusion mask; a face whose region holds no token has an empty one.

    Args:
        network: segmenter and adapter.
        pairs: one face each; their decoder runs as one batch.
        context: threshold and device.
        fits: with per-image fitting, each Zarr row's own selector; then one face is decoded after the other.
    """
    encoded = [encode_pair(network, pair) for pair in pairs]
    prompted = [one.prompted for one in encoded if one is not None]
    if fits is None:
        decoded = iter(network(prompted) if prompted else [])
    else:
        decoded = (own_network(network, fits[one.row])([one.prompted])[0] for one in encoded if one is not None)
    return [
        face_mask(pair, one.prompted, next(decoded), context) if one else empty_mask(pair)
        for pair, one in zip(pairs, encoded, strict=True)
    ]


def own_network(network: S3POT, state: dict[str, Tensor]) -> S3POT:
    """The network with a selector that was fitted to one face."""
    selector = PromptSelector(network.selector.embed_dim, network.selector.heads)
    selector.load_state_dict(state)
    return S3POT(network.sam, selector.to(network.sam.device).eval(), network.settings)


def face_mask(pair: Pair, prompted: Prompted, segmentation: Segmentation, context: StageContext) -> FaceMask:
    """The decoder's answer for one face, drawn in the aligned frame."""
    side, region, settings = pair.region.shape[0], pair.region.numpy(), context.settings.segments
    occlusion = np.where(region, expit(_to_frame(-segmentation.logits, side)), 0).astype(np.float32)
    if settings.edges == "grabcut":
        raw, reference = pair.raw.numpy(), pair.reference.numpy()
        occlusion = cut_along_edges(raw, reference, region, occlusion, settings.threshold)
    return FaceMask(
        occlusion=occlusion,
        visible_face=(region & (occlusion <= settings.threshold)).astype(np.uint8),
        contrast=_to_frame(1 - prompted.contrast, side),
        prompts=_drawn(prompted, side),
        region=region,
        predicted_iou=float(segmentation.predicted_iou),
    )


def empty_mask(pair: Pair) -> FaceMask:
    """Nothing found."""
    empty = np.zeros(tuple(pair.region.shape), np.float32)
    return FaceMask(empty, empty.astype(np.uint8), empty, empty.astype(np.int8), pair.region.numpy(), 0.0)


def _to_frame(values: Tensor, side: int) -> NDArray[np.float32]:
    resized = F.interpolate(values[None, None].float(), (side, side), mode="bilinear", align_corners=False)
    return np.asarray(resized[0, 0].cpu().numpy(), np.float32)


def _drawn(prompted: Prompted, side: int) -> NDArray[np.int8]:
    """S×S: 1 at a face point's pixel, 2 at an occlusion point's."""
    tokens = prompted.tokens.shape[-1]
    grid = drawn(prompted.prompts, tokens)
    cells = np.argwhere(grid)
    y, x = ((cells + 0.5) * side / tokens).astype(int).T
    picture = np.zeros((side, side), np.int8)
    picture[y, x] = grid[grid > 0]
    return picture


def answer(row: dict[str, Any], masks: dict[int, FaceMask], threshold: float) -> dict[str, Any]:
    """The photo's columns: all its faces' masks, pasted back and united, and each face's figures."""
    if row["status"] == "failed":
        return {}
    size = (row["height"], row["width"])
    occlusion, region = np.zeros(size, bool), np.zeros(size, bool)
    faces = []
    for face in row["faces"]:
        mask, matrix = masks[face["row"]], np.array(face["matrix"]).reshape(2, 3)
        inside = paste(mask.region.astype(np.float32), matrix, size) > 0.5
        hidden = (paste(mask.occlusion, matrix, size) > threshold) & inside
        occlusion |= hidden
        region |= inside
        faces.append({**face, "occlusion_ratio": ratio(hidden, inside), "predicted_iou": mask.predicted_iou})
    return {
        "faces": faces, "occlusion": encode_rle(occlusion), "face_region": encode_rle(region),
        "occlusion_ratio": ratio(occlusion, region) if faces else None,
        "predicted_iou": float(np.mean([face["predicted_iou"] for face in faces])) if faces else None,
    }  # fmt: skip


def paste(values: NDArray[np.float32], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw S×S frame values at a photo's H×W resolution; 0 outside the frame."""
    height, width = size
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(values, matrix, (width, height), flags=flags, borderValue=0), np.float32)


def ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """|part| / |whole|; 0 where the whole is empty."""
    return float(part.sum() / max(int(whole.sum()), 1))


def write(task: ShardTask, plan: Plan, masks: dict[int, FaceMask], frame: int) -> None:
    """Write the shard's arrays whole; slots without a face stay zero."""
    slots = len(plan.shard(task.shard)) * plan.max_faces
    first = task.shard * plan.shard_size * plan.max_faces
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.zeros((slots, frame, frame), dtype) for name, (dtype, _, _) in store.CONTENTS[STORE].items()
    }
    for row, mask in masks.items():
        for name, array in arrays.items():
            array[row - first] = getattr(mask, name)
    store.write_shard(task.run, STORE, plan, task.shard, arrays)
