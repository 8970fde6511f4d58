"""Simpler answers from the same parse maps, references and segmenter, to hold the method against."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.manifests.outcomes import Outcome, read_outcomes
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.evaluation.evaluate import Answer
from s3pot_batch.stages import references, store
from s3pot_batch.stages.method.alignment import Alignment
from s3pot_batch.stages.method.edges import colour_contrast, grabcut
from s3pot_batch.stages.method.enhancement import token_centres, token_region
from s3pot_batch.stages.method.masks import to_frame
from s3pot_batch.stages.method.pairs import Pair
from s3pot_batch.stages.models.protocols import Segmenter
from s3pot_batch.stages.models.taxonomy import Taxonomy
from s3pot_batch.stages.rle import Mask


@dataclass(frozen=True)
class ParsedPair(Pair):
    """One aligned face as stage one left it: a pair, and its parse map."""

    parsing: NDArray[np.uint8]
    """S×S class ids."""


Baseline = Callable[[ParsedPair], Mask]
"""One face → S×S bool, what hides it, inside M."""


def baselines(segmenter: Segmenter, taxonomy: Taxonomy, face_classes: Sequence[str]) -> dict[str, Baseline]:
    """All baselines, by the name that they have in the table.

    Args:
        segmenter: the method's own.
        taxonomy: of the parser that the faces were parsed with.
        face_classes: its classes that make M.
    """
    face = [name for name in face_classes if name not in taxonomy.worn]
    return {
        "parser alone": partial(parser_alone, taxonomy=taxonomy, face=face),
        "SAM, face box": partial(segmenter_with_box, segmenter=segmenter),
        "SAM, best points": partial(segmenter_with_points, segmenter=segmenter),
        "contrast + GrabCut": contrast_and_grabcut,
    }


def parser_alone(pair: ParsedPair, taxonomy: Taxonomy, face: Sequence[str]) -> Mask:
    """What the parser calls something else than skin and parts of a ``face``."""
    return pair.region & ~taxonomy.where(pair.parsing, face)


@torch.no_grad()
def segmenter_with_box(pair: Pair, segmenter: Segmenter) -> Mask:
    """The segmenter, given the face's box, draws the visible face; what it leaves of M is occluded."""
    y, x = np.nonzero(pair.region)
    if not len(x):
        return pair.region
    side = pair.region.shape[0]
    corners = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    box = torch.tensor([corners], dtype=torch.float32, device=segmenter.device) / side
    tokens = segmenter.encode(torch.from_numpy(pair.raw)[None])
    return pair.region & ~drawn(segmenter, tokens, segmenter.embed_boxes(box), side)


@torch.no_grad()
def segmenter_with_points(pair: Pair, segmenter: Segmenter) -> Mask:
    """The segmenter, given the token of M that disagrees most and, as a negative, the one that agrees best."""
    tokens = segmenter.encode(torch.from_numpy(np.stack([pair.raw, pair.reference])))
    inside = token_region(torch.from_numpy(pair.region), tokens.shape[-1]).flatten().to(tokens.device)
    if not inside.any():
        return np.zeros_like(pair.region)
    compared = tokens[:, : segmenter.shape.channels]
    contrast = 1 - F.cosine_similarity(compared[0], compared[1], dim=0).flatten()
    cells = contrast.masked_fill(~inside, -torch.inf).argmax(), contrast.masked_fill(~inside, torch.inf).argmin()
    points = token_centres(tokens.shape[-1]).to(tokens.device)[torch.stack(cells)]
    prompts = segmenter.embed_points(points[None], points.new_tensor([[1.0, 0.0]]))
    return pair.region & drawn(segmenter, tokens[:1], prompts, pair.region.shape[0])


def drawn(segmenter: Segmenter, tokens: Tensor, prompts: Tensor, side: int) -> Mask:
    """What the segmenter draws from 1×C×T×T tokens and 1×Q×C prompts, at side×side pixels."""
    logits, _ = segmenter.decode(tokens, prompts)
    return to_frame(logits[0], side) > 0


SURELY_HIDDEN, SURELY_SEEN, LEAST_HIDDEN = 26.0, 11.0, 0.004
"""Contrast in CIE Lab units from which a pixel is surely hidden, below which it is surely seen; and the share of M that
must be surely hidden for anything to be marked. Chosen on the training split of the composed benchmark."""


def contrast_and_grabcut(pair: Pair) -> Mask:
    """Pixels that differ clearly in colour seed OpenCV's GrabCut (Rother et al., 2004), which finds the edges."""
    softness = pair.region.shape[0] / 100  # both as soft as a small inpainter makes them
    contrast = colour_contrast(pair.raw, pair.reference, softness)
    sure = (contrast > SURELY_HIDDEN) & pair.region
    if sure.sum() < max(LEAST_HIDDEN * pair.region.sum(), 1):
        return np.zeros_like(pair.region)
    labels = np.full(pair.region.shape, cv2.GC_BGD, np.uint8)
    labels[pair.region] = cv2.GC_PR_BGD
    labels[pair.region & (contrast > (SURELY_HIDDEN + SURELY_SEEN) / 2)] = cv2.GC_PR_FGD
    labels[pair.region & (contrast < SURELY_SEEN)] = cv2.GC_BGD
    labels[sure] = cv2.GC_FGD
    return pair.region & grabcut(pair.raw, labels)


def baseline_answers(run: Path, methods: Mapping[str, Baseline]) -> dict[str, dict[int, Answer]]:
    """Every baseline's answer for every photo of a run that has a face, by row number."""
    plan = read_plan(run)
    answers: dict[str, dict[int, Answer]] = {name: {} for name in methods}
    for shard in plan.wanted_shards:
        for outcome in read_outcomes(run, "references", shard):
            faces = list(_faces(run, outcome))
            if faces:
                for name, baseline in methods.items():
                    answers[name][outcome.index] = _pasted(baseline, faces, outcome.shape)
    return answers


def _faces(run: Path, outcome: Outcome) -> Iterator[tuple[ParsedPair, Alignment]]:
    names = ("raw", "reference", "region", "parsing")
    for face in outcome.faces:
        raw, reference, region, parsing = store.read_row(run / references.STORE, face.row, *names)
        pair = ParsedPair(raw, reference, region.astype(bool), parsing)
        yield pair, references.alignment_of(face, region.shape[0])


def _pasted(baseline: Baseline, faces: Sequence[tuple[ParsedPair, Alignment]], shape: tuple[int, int]) -> Answer:
    occlusion, region = np.zeros(shape, bool), np.zeros(shape, bool)
    for pair, alignment in faces:
        inside = alignment.paste(pair.region.astype(np.float32), shape) > 0.5
        occlusion |= (alignment.paste(baseline(pair).astype(np.float32), shape) > 0.5) & inside
        region |= inside
    return Answer(occlusion, region)
