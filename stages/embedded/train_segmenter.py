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
from stages.embedded.faces import Faces, crop, jitter, load_faces, relight
from stages.embedded.occluders import occlude
from stages.embedded.schedule import fit
from stages.embedded.train_inpainter import FACE_IDS, complete_parsing
from stages.embedded.weights import WEIGHTS, half, write_weights
from stages.models.inpainter import ControlNetInpainter
from stages.models.sam import TrunkImageEncoder, build_small_sam
from stages.segmentation.decoding import decode_every_mask, embed_label_maps
from stages.segmentation.enhancement import attended, token_centres
from stages.settings import ReferenceSettings

SIZE = 128
PROMPTS = 3
POINTS = 24
GRID = 32
DENSE = 128
"""Most points of a prompt that covers a face; a face has about three times as many tokens, and attention is dear."""
SHARPNESS = 10.0
"""Of the agreement in a token pair's cosine; 0.5 is undecided."""
LEFT = 12.0
"""Mean change of a cell, 0..255, below which the generator is taken to have left a thing as it was."""
PARTS = ([14], [15], [10], [11, 12, 13], [6, 7], [8, 9], [1], [3], [12], [13], [6], [7], [8], [9], [4, 5])


class PromptSamples:
    """Draws a photo, ``PROMPTS`` masks in it, and points and a box for each."""

    def __init__(
        self, faces: Faces, parsing: NDArray[np.uint8], *, held_out: bool = False, single: bool = False,
        dense: float = 0.5,
    ) -> None:  # fmt: skip
        self.faces = faces
        self.parsing = parsing
        self.indices = np.flatnonzero(faces.held_out == held_out)
        self.single = single
        self.dense = 0.0 if single else dense

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample of K prompts with P points each.

        ``image``, ``reference`` S×S×3 uint8; ``same`` T×T, 1 where both show the same, 0 where they do not, −1 on the
        border; ``parsing`` S×S; ``masks`` K×S×S; ``points`` K×P×2 (x, y); ``labels`` K×P (−1 pads); ``boxes`` K×4;
        ``hints`` K×T×T, how surely each token of the face is wanted, −1..1, or zeros.
        """
        n, donor = rng.choice(self.indices, 2)
        matrix = jitter(rng, self.faces.images.shape[1], SIZE)
        clean, parts = crop(self.faces.images[n], self.parsing[n], matrix, SIZE)
        other, _ = crop(self.faces.images[donor], self.parsing[donor], matrix, SIZE)
        points = (self.faces.landmarks[n] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        if np.linalg.det(matrix[:, :2]) < 0:
            points = points[[1, 0, 2, 4, 3]]
        thing = np.zeros((SIZE, SIZE), bool)
        image = clean
        if rng.random() < 0.9:
            occluded = occlude(rng, clean, other, points)
            image, thing = occluded.image, occluded.alpha > 0.5
        masks = self._targets(rng, parts, thing)
        hints = np.zeros((PROMPTS, GRID, GRID), np.float32)
        if rng.random() < self.dense:
            cells, hinted = self._cells(parts), rng.random() < 0.7
            prompts = []
            for k, mask in enumerate(masks):
                sure, pointed = self._matched(rng, mask, cells)
                masks[k] = mask if pointed else np.zeros_like(mask)
                prompts.append(dense_prompt(rng, cells, (sure > 0).astype(np.float32), masks[k]))
                if hinted:
                    x, y = cells.astype(int).T // (SIZE // GRID)
                    hints[k, y, x] = sure
        else:
            prompts = [self._prompt(rng, mask) for mask in masks]
        lit = relight(rng, np.concatenate([image, clean]))  # one light for both
        reference, differs = regenerated(rng, lit[SIZE:], other), thing
        if rng.random() < 0.4:
            pasted = occlude(rng, reference, other, points)
            reference, differs = pasted.image, differs | (pasted.alpha > 0.5)
        return {"image": lit[:SIZE], "reference": reference, "same": agreement(differs),
                "parsing": parts, "thing": thing, "hints": hints,
                "masks": np.stack(masks).astype(np.float32),
                "points": np.stack([p[0] for p in prompts]), "labels": np.stack([p[1] for p in prompts]),
                "boxes": np.stack([p[2] for p in prompts])}  # fmt: skip

    def _targets(
        self, rng: np.random.Generator, parts: NDArray[np.uint8], thing: NDArray[np.bool_]
    ) -> list[NDArray[np.bool_]]:
        face = np.isin(parts, FACE_IDS) & ~thing
        choices = [np.isin(parts, ids) & ~thing for ids in PARTS]
        choices = [mask for mask in choices if mask.sum() > 30]
        targets = [thing if thing.sum() > 20 else face, face if face.sum() > 60 else ~thing]
        while len(targets) < PROMPTS:
            inside = thing & np.isin(
                parts, FACE_IDS
            )  # the part of a thing that lies in the face, as a thing of its own
            pick = int(rng.integers(len(choices) + 2))
            targets.append(choices[pick] if pick < len(choices) else inside if inside.sum() > 20 else targets[0])
        return targets

    def _prompt(
        self, rng: np.random.Generator, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        points, labels = np.zeros((DENSE, 2), np.float32), np.full(DENSE, -1, np.float32)
        wanted = 1 if self.single else int(np.exp(rng.uniform(0, np.log(POINTS * 0.6))))
        refused = (
            1
            if self.single
            else int(rng.integers(0, POINTS - wanted + 1) if rng.random() < 0.3 else rng.integers(0, 4))
        )
        edge = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~mask
        at = 0
        for area, count, label in (
            (mask, wanted, 1),
            (edge if rng.random() < 0.7 and edge.any() else ~mask, refused, 0),
        ):
            cells = np.argwhere(area)
            if len(cells) and count:
                chosen = cells[rng.integers(len(cells), size=count)]
                points[at : at + count], labels[at : at + count] = chosen[:, ::-1] + 0.5, label
                at += count
        if not self.single and wanted + refused > 6 and rng.random() < 0.5:  # a matching is never all right
            wrong = rng.random(DENSE) < 0.06
            labels = np.where(wrong & (labels >= 0), 1 - labels, labels).astype(np.float32)
        return points, labels, bounds(mask)

    def _cells(self, parts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P×2 (x, y) centres of the grid's cells inside the face."""
        stride = SIZE // GRID
        rows, columns = np.nonzero(np.isin(parts[stride // 2 :: stride, stride // 2 :: stride], FACE_IDS))
        return (np.stack([columns, rows], 1).astype(np.float32) + np.float32(0.5)) * stride

    def _matched(
        self, rng: np.random.Generator, mask: NDArray[np.bool_], cells: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool]:
        """How surely each of P cells is wanted, −1..1, as a matching would say, and whether it points at the mask."""
        moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) if rng.random() < 0.5 else mask
        share = cv2.resize(moved.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
        x, y = cells.astype(int).T // (SIZE // GRID)
        threshold = rng.uniform(0.1, 0.8)
        sure = np.tanh(rng.uniform(2.5, 8) * (share[y, x] - threshold))
        pointed = bool((share[y, x] > threshold).any())
        for _ in range(int(rng.integers(0, 4))):  # matching errs in patches
            centre = cells[rng.integers(len(cells))]
            patch = np.hypot(*(cells - centre).T) < SIZE * rng.uniform(0.02, 0.1)
            sure = np.where(patch, rng.uniform(-1, 1), sure)
        flipped = rng.random(len(sure)) < rng.choice([0.0, 0.03, 0.12])
        sure = np.where(flipped, -sure * rng.random(len(sure)), sure)
        sure += rng.normal(0, rng.choice([0.0, 0.1, 0.3]), len(sure))
        return sure.clip(-1, 1).astype(np.float32), pointed


def dense_prompt(
    rng: np.random.Generator, cells: NDArray[np.float32], labels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Many of the cells as points, padded, and the mask's box."""
    points, padded = np.zeros((DENSE, 2), np.float32), np.full(DENSE, -1, np.float32)
    chosen = rng.permutation(len(cells))[:DENSE]
    points[: len(chosen)], padded[: len(chosen)] = cells[chosen], labels[chosen]
    return points, padded, bounds(mask)


def bounds(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The box (x0, y0, x1, y1) around a mask; nothing's is all zeros."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def regenerated(rng: np.random.Generator, photo: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo as a small generator gives it back: softer, a bit like somebody else, of another tone and place."""
    size = photo.shape[0]
    drift = cv2.resize(rng.normal(0, 7, (4, 4, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    drawn = cv2.addWeighted(photo, 1 - (share := rng.uniform(0, 0.3)), other, share, 0)
    soft = cv2.GaussianBlur(drawn, (0, 0), float(rng.uniform(0.4, 3.0))).astype(np.float32) + drift
    shift = np.array([[1, 0, rng.normal(0, 0.5)], [0, 1, rng.normal(0, 0.5)]])
    moved = cv2.warpAffine(soft, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved.clip(0, 255), np.uint8)


def agreement(differs: NDArray[np.bool_]) -> NDArray[np.int8]:
    """S×S bool → T×T: 1 where next to no pixel differs; 0 where a third does, as under a thin frame; −1 in between."""
    share = cv2.resize(differs.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.where(share < 0.08, 1, np.where(share > 0.33, 0, -1)).astype(np.int8)


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


def decode(sam: Sam, sample: dict[str, Tensor], *, boxes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits B×K×4×S×S and predicted IoU B×K×4 for every prompt of a batch of samples, and its tokens."""
    tokens = embed(sam, sample["image"])
    return (*decode_tokens(sam, tokens, sample, boxes=boxes), tokens)


def decode_tokens(sam: Sam, tokens: Tensor, sample: dict[str, Tensor], *, boxes: bool) -> tuple[Tensor, Tensor]:
    """Mask logits B×K×4×4T×4T and predicted IoU B×K×4 from tokens B×C×T×T."""
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
    logits, quality = decode_every_mask(sam, every, sparse, padding, dense, masks=4)
    shape = sample["points"].shape[:2]
    return logits.reshape(*shape, *logits.shape[1:]), quality.reshape(*shape, -1)


def segmentation_loss(logits: Tensor, iou: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Focal-free SAM loss: the single mask always, and the best of the three others; plus the predicted IoU."""
    logits = F.interpolate(logits.flatten(0, 1).float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    truth = masks.flatten(0, 1)[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    p = logits.sigmoid()
    overlap, total = (p * truth).sum((2, 3)), p.sum((2, 3)) + truth.sum((2, 3))
    cost = 4 * entropy + 1 - (2 * overlap + 1) / (total + 1)
    hard = logits > 0
    true_iou = ((hard & (truth > 0.5)).sum((2, 3)) + 1) / ((hard | (truth > 0.5)).sum((2, 3)) + 1)
    return {
        "single": cost[:, 0].mean(),
        "multi": 0.5 * cost[:, 1:].min(1).values.mean(),
        "iou": 0.3 * F.mse_loss(iou.flatten(0, 1).float(), true_iou.detach()),
    }


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
        logits, _, _ = decode(sam, sample, boxes=False)
        found = F.interpolate(logits[0, :, :1], (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0] > 0
        truth = sample["masks"][0] > 0.5
        iou = ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).tolist()
        for name, value in zip(("thing", "face", "part"), iou, strict=True):
            scores[name].append(value)
    draw = PromptSamples(faces, parsing, held_out=True, dense=1.0)
    for _ in range(count // 2):
        sample = {name: torch.from_numpy(value)[None] for name, value in draw(rng).items()}
        logits, _, _ = decode(sam, sample, boxes=False)
        found = F.interpolate(logits[0, :1, :1], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0] > 0
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
    inpainter: Path | None = None,
    measured: int = 200,
    workers: int = 1,
) -> None:
    """Train the segmenter and write its weights and metrics.

    Its trunk is warm-started from the parser's; or all of it from a checkpoint of an earlier training. With an
    ``inpainter``, half of the references are drawn by it instead of simulated.
    """
    torch.manual_seed(seed)
    faces = load_faces(data, work)
    parser = parser or WEIGHTS / "parser.pt"
    parsing = complete_parsing(faces, parser, work / "parsing.npy")
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
            logits, iou, tokens = decode(sam, sample, boxes=choose.random() < 0.1)
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
    best = averaged["sam"]
    assert isinstance(best, Sam)
    write_weights(
        "segmenter",
        half(best),
        measure(best, faces, parsing, measured),
        {"seed": seed, "minutes": minutes, "batch": batch},
        out,
    )


if __name__ == "__main__":
    run(main)
