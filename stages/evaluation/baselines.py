"""Simpler answers from the same parse maps, references and segmenter, to hold the method against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch.nn import functional as F

from manifests.files import read_items
from manifests.plan import read_plan
from stages import store
from stages.base import StageContext
from stages.evaluation.evaluate import Answer
from stages.models.catalog import load
from stages.models.palette import CLASSES
from stages.models.sam import encode
from stages.segmentation.edges import colour_contrast, grabcut
from stages.segmentation.enhancement import token_centres, token_region
from stages.segmentation.inference import paste

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """One aligned face as stage one left it: ``raw``, ``reference`` S×S×3, ``parsing`` S×S ids, ``region`` S×S bool."""

    raw: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    parsing: NDArray[np.uint8]
    region: Mask


Baseline = Callable[[Frame, StageContext], Mask]


def parser_alone(frame: Frame, context: StageContext) -> Mask:
    """What the parser calls something else than skin and parts of a face: S×S bool."""
    names = [name for name in context.settings.references.face_classes if name != "eyeg"]
    return frame.region & ~np.isin(frame.parsing, [CLASSES.index(name) for name in names])


@torch.no_grad()
def sam_with_box(frame: Frame, context: StageContext) -> Mask:
    """The segmenter, given the face's box, draws the visible face; what it leaves of M is occluded."""
    sam: Sam = load(context.profile.segmenter, context.device)
    y, x = np.nonzero(frame.region)
    if not len(x):
        return frame.region
    scale = sam.image_encoder.img_size / frame.region.shape[0]
    box = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=torch.float32, device=sam.device) * scale
    tokens = encode(sam, torch.from_numpy(frame.raw)[None])
    sparse, dense = sam.prompt_encoder(points=None, boxes=box[None], masks=None)
    return frame.region & ~decoded(sam, tokens, sparse, dense, frame.region.shape[0])


@torch.no_grad()
def sam_with_points(frame: Frame, context: StageContext) -> Mask:
    """The segmenter, given the token of M that disagrees most and, as a negative, the one that agrees best."""
    sam: Sam = load(context.profile.segmenter, context.device)
    tokens = encode(sam, torch.from_numpy(np.stack([frame.raw, frame.reference])))
    inside = token_region(torch.from_numpy(frame.region), tokens.shape[-1]).flatten().to(sam.device)
    if not inside.any():
        return np.zeros_like(frame.region)
    contrast = 1 - F.cosine_similarity(tokens[0], tokens[1], dim=0).flatten()
    best = torch.stack([contrast.masked_fill(~inside, -9).argmax(), contrast.masked_fill(~inside, 9).argmin()])
    points = token_centres(sam, tokens.shape[-1]).to(sam.device)[best]
    labels = torch.tensor([[1.0, 0.0]], device=sam.device)
    sparse, dense = sam.prompt_encoder(points=(points[None], labels), boxes=None, masks=None)
    return frame.region & decoded(sam, tokens[:1], sparse, dense, frame.region.shape[0])


def decoded(sam: Sam, tokens: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor, side: int) -> Mask:
    """What SAM's decoder draws from 1×C×T×T tokens and one embedded prompt, at side×side pixels."""
    logits, _ = sam.mask_decoder(
        image_embeddings=tokens, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense, multimask_output=False,
    )  # fmt: skip
    drawn = F.interpolate(logits.float(), (side, side), mode="bilinear", align_corners=False)
    return np.asarray(drawn[0, 0].cpu().numpy() > 0, bool)


SURE, UNLIKELY, LEAST = 26.0, 11.0, 0.004
"""Contrast in CIE Lab units from which a pixel is surely hidden, below which it is surely seen; and the share of M that
must be surely hidden for anything to be marked."""


def contrast_and_grabcut(frame: Frame, context: StageContext) -> Mask:
    """Pixels that differ clearly in colour seed OpenCV's GrabCut (Rother et al., 2004), which finds the edges."""
    del context  # no model is asked
    softness = frame.region.shape[0] / 100  # both as soft as a small generator makes them
    contrast = colour_contrast(frame.raw, frame.reference, softness)
    sure = (contrast > SURE) & frame.region
    if sure.sum() < max(LEAST * frame.region.sum(), 1):
        return np.zeros_like(frame.region)
    labels = np.full(frame.region.shape, cv2.GC_BGD, np.uint8)
    labels[frame.region] = cv2.GC_PR_BGD
    labels[frame.region & (contrast > (SURE + UNLIKELY) / 2)] = cv2.GC_PR_FGD
    labels[frame.region & (contrast < UNLIKELY)] = cv2.GC_BGD
    labels[sure] = cv2.GC_FGD
    return frame.region & grabcut(frame.raw, labels)


BASELINES: Mapping[str, Baseline] = {
    "parser alone": parser_alone,
    "SAM, face box": sam_with_box,
    "SAM, best points": sam_with_points,
    "contrast + GrabCut": contrast_and_grabcut,
}


def baseline_answers(run: Path, context: StageContext) -> dict[str, dict[int, Answer]]:
    """Every baseline's answer for every photo of a run that has a face, by row number."""
    plan = read_plan(run)
    answers: dict[str, dict[int, Answer]] = {name: {} for name in BASELINES}
    for shard in range(plan.shards):
        for row in read_items(run, "references", shard).to_pylist():
            if not row["faces"]:
                continue
            size = (row["height"], row["width"])
            frames = [(read_frame(run, face["row"]), np.array(face["matrix"]).reshape(2, 3)) for face in row["faces"]]
            for name, baseline in BASELINES.items():
                answers[name][row["index"]] = _pasted(baseline, frames, size, context)
    return answers


def read_frame(run: Path, row: int) -> Frame:
    """One Zarr row of stage one's answer."""
    raw, reference, parsing, region = (
        np.asarray(store.read_rows(run, "references.zarr", name, [row])[0], np.uint8)
        for name in ("raw", "reference", "parsing", "region")
    )
    return Frame(raw, reference, parsing, region.astype(bool))


def _pasted(
    baseline: Baseline, frames: list[tuple[Frame, NDArray[np.float64]]], size: tuple[int, int], context: StageContext
) -> Answer:
    occlusion, region = np.zeros(size, bool), np.zeros(size, bool)
    for frame, matrix in frames:
        inside = paste(frame.region.astype(np.float32), matrix, size) > 0.5
        occlusion |= (paste(baseline(frame, context).astype(np.float32), matrix, size) > 0.5) & inside
        region |= inside
    return Answer(occlusion, region)
