"""Recipe of the embedded promptable segmenter: it learns to segment what a point or a box is put on.

    python -m recipes.segmenter --data DIR --work DIR --minutes 25

Targets are face parts, the visible face, hair, and pasted things; a face is annotated as in SA-1B, to its visible
extent. Nothing tells the network which of two things is "the occlusion": the prompt decides. Prompts are a few points,
or a box, or points all over the face as S³POT's prompt selection sets them, with their labels as a mask prompt or
without; those err as a matching errs, and now and then they point at nothing.

The encoder also learns that two pictures of one face have like tokens where they show the same and unlike ones where
they do not (dense contrastive learning; Wang et al., arXiv 2011.09157): S³POT compares a photo with its reference token
by token, as the encoder gives them and as its prompt-conditioned features. Either picture may have something pasted
on it, so no token can say "this is in front".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.batches import batches
from recipes.faces import SIZE, Faces, complete_parsing, load_faces
from recipes.inpainter import SKIN
from recipes.prompt_samples import FINE, GRID, PromptSamples, agreement
from recipes.recipe import Batch, Measured, Minutes, Rate, Seed, ShippedRecipe, command_line
from recipes.schedule import fit, mixed
from recipes.shipping import half, write_weights
from s3pot_batch.stages.method.enhancement import attended, token_centres
from s3pot_batch.stages.models.checkpoints import EMBEDDED
from s3pot_batch.stages.models.inpainters.controlnet import ControlNetInpainter, build
from s3pot_batch.stages.models.protocols import Inpainting
from s3pot_batch.stages.models.segmenters._decoding import decode_masks
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_small import TrunkImageEncoder, build_small_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings

STEEPNESS = 10.0
"""Of the agreement in a token pair's cosine; 0.5 is undecided."""
LEFT = 12.0
"""Mean change of a cell, 0..255, below which the generator is taken to have left a thing as it was."""


@dataclass(frozen=True, kw_only=True)
class SegmenterRecipe(ShippedRecipe):
    """How the segmenter is trained."""

    minutes: Minutes = 25.0
    batch: Batch = 6
    seed: Seed = 5
    rate: Rate = 8e-4
    measured: Measured = 200
    parser: Annotated[Path, typer.Option(help="A parser's file, whose trunk the segmenter's starts from.")] = (
        EMBEDDED / "parser.pt"
    )
    inpainter: Annotated[
        Path | None, typer.Option(help="An inpainter's folder; half of the references are drawn by it, not simulated.")
    ] = None


def drawn_reference(inpainter: ControlNetInpainter, sample: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the inpainter makes of a batch's photos, B×S×S×3, and where that agrees with them, B×T×T.

    What it changed on a visible face counts as the same; a thing that it left standing, as neither.
    """
    photos, parsing, things = (sample[name].numpy() for name in ("image", "parsing", "thing"))
    bare = np.where(CELEBM.where(parsing, CELEBM.worn), np.uint8(SKIN), parsing)
    asked = Inpainting(photos, bare, CELEBM.where(parsing, CELEBM.face), hide=False, taxonomy=CELEBM)
    seeds = [torch.Generator().manual_seed(one) for one in torch.randint(2**31, (len(photos),)).tolist()]
    drawn = inpainter.inpaint(asked, ReferenceSettings(), seeds)
    same = []
    for photo, reference, thing, hole in zip(photos, drawn, things, asked.holes, strict=True):
        change = cv2.absdiff(photo, reference).mean(axis=2)
        left = cv2.resize(change, (GRID, GRID), interpolation=cv2.INTER_AREA) < LEFT
        agrees = agreement(thing & hole)
        same.append(np.where((agrees == 0) & left, -1, agrees))
    return torch.from_numpy(drawn), torch.from_numpy(np.stack(same))


def decode(
    segmenter: SamSegmenter, tokens: Tensor, sample: dict[str, Tensor], *, boxes: bool = False, masks: int = 1
) -> tuple[Tensor, Tensor]:
    """Decode every prompt of a batch of samples.

    Args:
        segmenter: the segmenter.
        tokens: B×C×T×T of the samples' images.
        sample: B samples with K prompts each.
        boxes: prompt with their boxes instead of their points and hints.
        masks: M, so many of SAM's four.

    Returns:
        B×K×M×4T×4T logits and B×K×M predicted IoU.
    """
    flat = {name: sample[name].flatten(0, 1) for name in ("points", "labels", "boxes", "hints")}
    dense = segmenter.no_map
    if boxes:
        prompts = segmenter.embed_boxes(flat["boxes"] / SIZE)
        padding = prompts.new_zeros(prompts.shape[:2], dtype=torch.bool)
    else:
        used = max(int((flat["labels"] >= 0).sum(1).max()), 1)
        labels = flat["labels"][:, :used]
        prompts = segmenter.embed_points(flat["points"][:, :used] / SIZE, labels)
        padding = prompts.new_zeros(prompts.shape[:2], dtype=torch.bool)
        padding[:, :used] = labels < 0
        hinted = flat["hints"].abs().amax((1, 2)).reshape(-1, 1, 1, 1) > 0
        if hinted.any():
            dense = torch.where(hinted, segmenter.embed_maps(flat["hints"]), dense)
    every = tokens.repeat_interleave(sample["points"].shape[1], dim=0)
    logits, quality = decode_masks(
        segmenter.sam.mask_decoder, every + dense, segmenter.places, prompts, padding, masks=masks
    )
    shape = sample["points"].shape[:2]
    return logits.reshape(*shape, *logits.shape[1:]), quality.reshape(*shape, -1)


def segmentation_loss(logits: Tensor, iou: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Focal-free SAM loss: the single mask always, and the best of the others if any; plus the predicted IoU."""
    logits = F.interpolate(logits.flatten(0, 1).float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    truth = masks.flatten(0, 1)[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    p = logits.sigmoid()
    overlap, total = (p * truth).sum((2, 3)), p.sum((2, 3)) + truth.sum((2, 3))
    cost = 4 * entropy + 1 - (2 * overlap + 1) / (total + 1)
    hard = logits > 0
    true_iou = ((hard & (truth > 0.5)).sum((2, 3)) + 1) / ((hard | (truth > 0.5)).sum((2, 3)) + 1)
    terms = {"single": cost[:, 0].mean(), "iou": 0.3 * F.mse_loss(iou.flatten(0, 1).float(), true_iou.detach())}
    if logits.shape[1] > 1:
        terms["multi"] = 0.5 * cost[:, 1:].min(1).values.mean()
    return terms


def enhance_both(segmenter: SamSegmenter, tokens: Tensor, reference: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """FE's features of both pictures, B×C×T×T each, prompted by a random point where they show the same."""
    found = []
    for one, other, agrees in zip(tokens, reference, same, strict=True):
        cells = (agrees.flatten() == 1).nonzero()[:, 0]
        cell = cells[torch.randint(len(cells), (1,))] if len(cells) else torch.zeros(1, dtype=torch.long)
        point = token_centres(one.shape[-1]).to(one.device)[cell[0]]
        features = attended(segmenter, torch.stack([one, other]), point)
        found.append(features.transpose(1, 2).reshape(2, *one.shape))
    both = torch.stack(found)
    return both[:, 0], both[:, 1]


def agreement_loss(tokens: Tensor, reference: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of "both show the same" from the cosine of B×C×T×T tokens; both answers weigh alike."""
    cosine = F.cosine_similarity(tokens.float(), reference.float(), dim=1)
    logits, known = STEEPNESS * (cosine - 0.5), same >= 0
    entropy = F.binary_cross_entropy_with_logits(logits, same.clamp(min=0).float(), reduction="none")
    share = (same == 1).sum() / known.sum().clamp(min=1)
    weight = torch.where(same == 1, 1 - share, share).clamp(min=0.05) * known
    return (weight * entropy).sum() / weight.sum().clamp(min=1e-6)


@torch.no_grad()
def measure(segmenter: SamSegmenter, faces: Faces, parsing: NDArray[np.uint8], count: int) -> dict[str, float]:
    """Mean IoU on held-out faces.

    Pasted things, faces and other parts from one positive and one negative point each, and pasted things from points
    all over the face that err as a matching errs.
    """
    rng, draw = np.random.default_rng(7), PromptSamples(faces, parsing, held_out=True, single=True)
    scores: dict[str, list[float]] = {"thing": [], "face": [], "part": []}
    for _ in range(count):
        found, truth = found_masks(segmenter, draw(rng))
        iou = ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).tolist()
        for name, value in zip(("thing", "face", "part"), iou, strict=True):
            scores[name].append(value)
    draw = PromptSamples(faces, parsing, held_out=True, dense=1.0)
    for _ in range(count // 2):
        found, truth = (masks[0] for masks in found_masks(segmenter, draw(rng)))
        if truth.any():
            scores.setdefault("matched", []).append(float((found & truth).sum() / (found | truth).sum()))
    return {f"iou_{name}": float(np.mean(values)) for name, values in scores.items()}


def found_masks(segmenter: SamSegmenter, drawn: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """What is found of one sample's masks, and the masks, K×2S×2S bool each."""
    sample = {name: torch.from_numpy(value)[None] for name, value in drawn.items()}
    logits, _ = decode(segmenter, segmenter.encode(sample["image"]), sample)
    found = F.interpolate(logits[0, :, :1], (FINE, FINE), mode="bilinear", align_corners=False)[:, 0] > 0
    return found, sample["masks"][0] > 0.5


def start_of(recipe: SegmenterRecipe) -> Sam:
    """A small SAM whose trunk is the parser's."""
    sam = build_small_sam().to(recipe.device)
    encoder = sam.image_encoder
    assert isinstance(encoder, TrunkImageEncoder)
    trunk = torch.jit.load(str(recipe.parser)).float().trunk.state_dict()  # type: ignore[no-untyped-call]
    encoder.trunk.load_state_dict(trunk)
    encoder.to(memory_format=torch.channels_last)
    return sam


def optimizer_of(sam: Sam, rate: float) -> torch.optim.Optimizer:
    """AdamW; the trunk, which knows faces already, learns more slowly."""
    slow = list(sam.image_encoder.trunk.parameters())
    fast = [p for p in sam.parameters() if all(p is not q for q in slow)]
    return torch.optim.AdamW([{"params": fast, "lr": rate}, {"params": slow, "lr": 0.4 * rate}], weight_decay=1e-3)


class SegmenterLoss:
    """What a batch of prompt samples costs: its masks, and how tokens of photo and reference agree."""

    def __init__(self, recipe: SegmenterRecipe, segmenter: SamSegmenter) -> None:
        self.device = recipe.device
        self.segmenter = segmenter
        self.choose = np.random.default_rng(recipe.seed)
        self.inpainter = None
        if recipe.inpainter:
            self.inpainter = build(recipe.inpainter, recipe.device, size=SIZE, condition="parse+photo", residual=True)

    def __call__(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named losses of a batch."""
        if self.inpainter is not None and self.choose.random() < 0.5:
            sample["reference"], sample["same"] = drawn_reference(self.inpainter, sample)
        sample = {name: value.to(self.device) for name, value in sample.items()}
        boxes, masks = self.choose.random() < 0.1, 4 if self.choose.random() < 0.2 else 1
        few = slice(max(len(sample["image"]) // 2, 1))
        with mixed(self.device):
            tokens = self.segmenter.encode(sample["image"])
            reference = self.segmenter.encode(sample["reference"][few])
        # in bf16 a point would not know its place: SAM's positions are sines of up to some ten turns
        logits, iou = decode(self.segmenter, tokens, sample, boxes=boxes, masks=masks)
        enhanced = enhance_both(self.segmenter, tokens[few], reference, sample["same"][few])
        return {
            **segmentation_loss(logits, iou, sample["masks"]),
            "agreement": agreement_loss(tokens[few], reference, sample["same"][few]),
            "enhanced": agreement_loss(*enhanced, sample["same"][few]),
        }


def train(recipe: SegmenterRecipe) -> None:
    """Train the segmenter and write its weights and metrics.

    Its trunk is warm-started from the parser's; or all of it from a checkpoint of an earlier training.
    """
    torch.manual_seed(recipe.seed)
    faces = load_faces(recipe.data, recipe.work)
    parsing = complete_parsing(faces, recipe.parser, recipe.work)
    sam = start_of(recipe)
    models, loss = nn.ModuleDict({"sam": sam}), SegmenterLoss(recipe, SamSegmenter(sam, frozen=False))
    samples = batches(PromptSamples(faces, parsing), size=recipe.batch, seed=recipe.seed, workers=recipe.workers)
    best = fit(models, loss, samples, optimizer_of(sam, recipe.rate), recipe, "segmenter")["sam"].to("cpu")
    assert isinstance(best, Sam)
    metrics = measure(SamSegmenter(best), faces, parsing, recipe.measured)
    write_weights("segmenter", half(best), metrics, recipe.report(), recipe.out)


if __name__ == "__main__":
    command_line(train)()
