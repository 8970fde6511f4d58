"""Recipe of the embedded promptable segmenter: it learns to segment what a point or a box is put on.

    python -m stages.embedded.train_segmenter --data DIR --work DIR --parser parser.safetensors --minutes 25

Targets are face parts, the visible face, hair, and pasted things; a face is annotated as in SA-1B, to its visible
extent. Nothing tells the network which of two things is "the occlusion": the prompt decides. Prompts are a few points,
or a box, or points all over the face as S³POT's prompt selection sets them, with their labels as a mask prompt or
without; those err as a matching errs, and now and then they point at nothing.

The encoder also learns that two pictures of one face have like tokens where they show the same and unlike ones where
they do not (dense contrastive learning; Wang et al., arXiv 2011.09157): S³POT compares a photo with its reference token
by token, as the encoder gives them and as its prompt-conditioned features. Either picture may have something pasted
on it, so no token can say "this is in front".
"""

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from stages.commandline import run
from stages.embedded.batches import batches
from stages.embedded.faces import Faces, complete_parsing, load_faces
from stages.embedded.prompt_samples import FINE, GRID, SIZE, PromptSamples, agreement
from stages.embedded.schedule import fit
from stages.embedded.train_inpainter import FACE_IDS
from stages.embedded.weights import WEIGHTS, half, keep_some, write_weights
from stages.errors import ConfigError
from stages.models.inpainter import ControlNetInpainter
from stages.models.sam import TrunkImageEncoder, build_small_sam
from stages.segmentation.decoding import decode_every_mask, embed_label_maps
from stages.segmentation.enhancement import attended, token_centres
from stages.settings import ReferenceSettings

SHARPNESS = 10.0
"""Of the agreement in a token pair's cosine; 0.5 is undecided."""
LEFT = 12.0
"""Mean change of a cell, 0..255, below which the generator is taken to have left a thing as it was."""


def drawn_reference(generator: ControlNetInpainter, sample: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the reference generator makes of a batch's photos, B×S×S×3, and where that agrees with them, B×T×T.

    What it changed on a visible face counts as the same; a thing that it left standing, as neither.
    """
    photos, things = sample["image"].numpy(), sample["thing"].numpy()
    holes = np.isin(sample["parsing"].numpy(), FACE_IDS)
    settings, seeds = ReferenceSettings(), torch.randint(2**31, (len(photos),)).tolist()
    drawn = generator.inpaint(
        photos, sample["parsing"].numpy(), holes, hide=False, settings=settings,
        generators=[torch.Generator().manual_seed(one) for one in seeds],
    )  # fmt: skip
    same = []
    for photo, reference, thing, hole in zip(photos, drawn, things, holes, strict=True):
        change = cv2.absdiff(photo, reference).mean(axis=2)
        left = cv2.resize(change, (GRID, GRID), interpolation=cv2.INTER_AREA) < LEFT
        agrees = agreement(thing & hole)
        same.append(np.where((agrees == 0) & left, -1, agrees))
    return torch.from_numpy(drawn), torch.from_numpy(np.stack(same))


def embed(sam: Sam, images: Tensor) -> Tensor:
    """Tokens B×C×T×T of B×S×S×3 uint8 images, with gradients."""
    pixels = sam.preprocess(images.permute(0, 3, 1, 2).float())
    return cast("Tensor", sam.image_encoder(pixels.contiguous(memory_format=torch.channels_last)))


def decode(
    sam: Sam, sample: dict[str, Tensor], *, boxes: bool = False, masks: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits B×K×M×4T×4T and predicted IoU B×K×M for every prompt of a batch of samples, and its tokens."""
    tokens = embed(sam, sample["image"])
    return (*decode_tokens(sam, tokens, sample, boxes=boxes, masks=masks), tokens)


def decode_tokens(
    sam: Sam, tokens: Tensor, sample: dict[str, Tensor], *, boxes: bool, masks: int
) -> tuple[Tensor, Tensor]:
    """Mask logits B×K×M×4T×4T and predicted IoU B×K×M, M the first masks of SAM's four, from tokens B×C×T×T."""
    flat = {name: sample[name].flatten(0, 1) for name in ("points", "labels", "boxes", "hints")}
    used = max(int((flat["labels"] >= 0).sum(1).max()), 1)
    sparse, dense = sam.prompt_encoder(
        points=None if boxes else (flat["points"][:, :used], flat["labels"][:, :used]),
        boxes=flat["boxes"] if boxes else None, masks=None,
    )  # fmt: skip
    padding = sparse.new_zeros(sparse.shape[:2], dtype=torch.bool)
    if not boxes:
        padding[:, :used] = flat["labels"][:, :used] < 0
        hinted = flat["hints"].abs().amax((1, 2)).reshape(-1, 1, 1, 1) > 0
        if hinted.any():
            dense = torch.where(hinted, embed_label_maps(sam, flat["hints"]), dense)
    every = tokens.repeat_interleave(sample["points"].shape[1], dim=0)
    logits, quality = decode_every_mask(sam, every, sparse, padding, dense, masks=masks)
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


def enhance_both(sam: Sam, tokens: Tensor, reference: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """FE's features of both pictures, B×C×T×T each, prompted by a random point where they show the same."""
    found = []
    for one, other, agrees in zip(tokens, reference, same, strict=True):
        cells = (agrees.flatten() == 1).nonzero()[:, 0]
        cell = cells[torch.randint(len(cells), (1,))] if len(cells) else torch.zeros(1, dtype=torch.long)
        point = token_centres(sam, one.shape[-1]).to(one.device)[cell[0]]
        found.append(attended(sam, torch.stack([one, other]), point).transpose(1, 2).reshape(2, *one.shape))
    both = torch.stack(found)
    return both[:, 0], both[:, 1]


def agreement_loss(tokens: Tensor, reference: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of "both show the same" from the cosine of B×C×T×T tokens; both answers weigh alike."""
    cosine = F.cosine_similarity(tokens.float(), reference.float(), dim=1)
    logits, known = SHARPNESS * (cosine - 0.5), same >= 0
    entropy = F.binary_cross_entropy_with_logits(logits, same.clamp(min=0).float(), reduction="none")
    share = (same == 1).sum() / known.sum().clamp(min=1)
    weight = torch.where(same == 1, 1 - share, share).clamp(min=0.05) * known
    return (weight * entropy).sum() / weight.sum().clamp(min=1e-6)


@torch.no_grad()
def measure(sam: Sam, faces: Faces, parsing: NDArray[np.uint8], count: int) -> dict[str, float]:
    """Mean IoU on held-out faces.

    Pasted things, faces and other parts from one positive and one negative point each, and pasted things from points
    all over the face that err as a matching errs.
    """
    rng, draw = np.random.default_rng(7), PromptSamples(faces, parsing, held_out=True, single=True)
    scores: dict[str, list[float]] = {"thing": [], "face": [], "part": []}
    for _ in range(count):
        sample = {name: torch.from_numpy(value)[None] for name, value in draw(rng).items()}
        logits, _, _ = decode(sam, sample)
        found = F.interpolate(logits[0, :, :1], (FINE, FINE), mode="bilinear", align_corners=False)[:, 0] > 0
        truth = sample["masks"][0] > 0.5
        iou = ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).tolist()
        for name, value in zip(("thing", "face", "part"), iou, strict=True):
            scores[name].append(value)
    draw = PromptSamples(faces, parsing, held_out=True, dense=1.0)
    for _ in range(count // 2):
        sample = {name: torch.from_numpy(value)[None] for name, value in draw(rng).items()}
        logits, _, _ = decode(sam, sample)
        found = F.interpolate(logits[0, :1, :1], (FINE, FINE), mode="bilinear", align_corners=False)[0, 0] > 0
        truth = sample["masks"][0, 0] > 0.5
        if truth.any():
            scores.setdefault("matched", []).append(float((found & truth).sum() / (found | truth).sum()))
    return {f"iou_{name}": float(np.mean(values)) for name, values in scores.items()}


def main(
    data: Path,
    work: Path,
    out: Path | None = None,
    parser: Path | None = None,
    minutes: float = 25.0,
    steps: int = 100_000,
    batch: int = 6,
    seed: int = 5,
    device: str = "cpu",
    rate: float = 8e-4,
    start: Path | None = None,
    keep: float = 0.0,
    inpainter: Path | None = None,
    measured: int = 200,
    workers: int = 1,
) -> None:
    """Train the segmenter and write its weights and metrics.

    Its trunk is warm-started from the parser's; or all of it from a checkpoint of an earlier training, of whose weights
    the result may ``keep`` a share. With an ``inpainter``, half of the references are drawn by it instead of simulated.
    """
    if keep and start is None:
        raise ConfigError("--keep is a share of the weights that --start names; give both")
    torch.manual_seed(seed)
    faces = load_faces(data, work)
    parser = parser or WEIGHTS / "parser.pt"
    parsing = complete_parsing(faces, parser, work)
    sam = build_small_sam().to(device)
    encoder = sam.image_encoder
    assert isinstance(encoder, TrunkImageEncoder)
    trunk = torch.jit.load(str(parser)).float().trunk.state_dict()  # type: ignore[no-untyped-call]
    encoder.trunk.load_state_dict(trunk)
    encoder.to(memory_format=torch.channels_last)
    models = nn.ModuleDict({"sam": sam})
    samples = batches(PromptSamples(faces, parsing), size=batch, seed=seed, workers=workers)
    choose = np.random.default_rng(seed)
    generator = (
        ControlNetInpainter(inpainter, device, size=SIZE, six_channels=True, residual=True) if inpainter else None
    )

    def loss(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        if generator is not None and choose.random() < 0.5:
            sample["reference"], sample["same"] = drawn_reference(generator, sample)
        sample = {name: value.to(device) for name, value in sample.items()}
        with torch.autocast(device, torch.bfloat16):
            logits, iou, tokens = decode(
                sam, sample, boxes=choose.random() < 0.1, masks=4 if choose.random() < 0.2 else 1
            )
            few = slice(max(len(tokens) // 2, 1))
            reference = embed(sam, sample["reference"][few])
            enhanced = enhance_both(sam, tokens[few], reference, sample["same"][few])
        terms = segmentation_loss(logits, iou, sample["masks"])
        terms["agreement"] = agreement_loss(tokens[few], reference, sample["same"][few])
        terms["enhanced"] = agreement_loss(*enhanced, sample["same"][few])
        return terms

    slow = list(encoder.trunk.parameters())
    fast = [p for p in sam.parameters() if all(p is not q for q in slow)]
    optimizer = torch.optim.AdamW([{"params": fast, "lr": rate}, {"params": slow, "lr": 0.4 * rate}], weight_decay=1e-3)
    averaged = fit(
        models, loss, samples, optimizer, minutes=minutes, steps=steps, log=work / "segmenter.jsonl", start=start
    ).to("cpu")
    if start is not None:
        keep_some(averaged, start, keep)
    best = averaged["sam"]
    assert isinstance(best, Sam)
    write_weights(
        "segmenter",
        half(best),
        measure(best, faces, parsing, measured),
        {"seed": seed, "minutes": minutes, "batch": batch, "rate": rate, "keep": keep},
        out,
    )


if __name__ == "__main__":
    run(main)
