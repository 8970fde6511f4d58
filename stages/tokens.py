"""The token cache: what the frozen encoder and the matching make of every pair, computed once for all epochs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from s3pot_batch.manifests.outcomes import read_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages import store
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.beside import ahead
from s3pot_batch.stages.method.masks import prompt_map
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.method.pairs import EncodedPair, encode_pairs
from s3pot_batch.stages.method.selection import Prompts
from s3pot_batch.stages.models.registry import token_shape
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.store import ArraySpec

STORE = "tokens.zarr"


def arrays(context: StageContext) -> dict[str, ArraySpec]:
    """What the cache holds."""
    shape, dtype = token_shape(context.profile.segmenter), context.settings.training.tokens
    encoder = "by the frozen image encoder"
    return {
        "raw": ArraySpec(dtype, shape.side, f"tokens of the photo's face, {encoder}", shape.stored),
        "reference": ArraySpec(dtype, shape.side, "tokens of its reference", shape.stored),
        "contrast": ArraySpec(dtype, shape.side, "cosine of raw and reference tokens: 1 where they agree"),
        "prompts": ArraySpec(
            "int8", shape.side, "the token as a prompt: 1 = face point, 2 = occlusion point, 0 = none"
        ),
        "similarity": ArraySpec(
            dtype, shape.side, "cosine of the token with its match in the reference; -1 = no match"
        ),
    }


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Encode and prompt the pairs of a shard, whose references must be there."""
    network = S3POT(context.models.segmenter, None, context.settings.segments)
    outcomes = read_outcomes(context.run, "references", items[0].shard)
    faces = [(outcome.index, face.row) for outcome in outcomes for face in outcome.faces]
    values: dict[int, Mapping[str, NDArray[np.generic]]] = {}
    seconds = dict.fromkeys((outcome.index for outcome in outcomes), 0.0)
    at_once = context.faces_at_once
    groups = [faces[start : start + at_once] for start in range(0, len(faces), at_once)]
    read = ahead(lambda group: [read_pair(context.run, row) for _, row in group], groups, context.device)
    for group in groups:
        began = time.perf_counter()
        found = encode_pairs(network, next(read))
        values |= {row: cached(one) for (_, row), one in zip(group, found, strict=True) if one is not None}
        for index, _ in group:
            seconds[index] += (time.perf_counter() - began) / len(group)
        context.headway.add(len(items) * len(group) / len(faces))
    return ShardResult([outcome.status_alone(seconds[outcome.index]) for outcome in outcomes], values)


def cached(pair: EncodedPair) -> dict[str, NDArray[np.generic]]:
    """A pair as the cache's arrays hold it."""
    prompts, side = pair.prompted.prompts, pair.raw.shape[-1]
    similarity = np.zeros(side * side, np.float32)
    similarity[prompts.cells.cpu().numpy()] = prompts.similarity.cpu().numpy()
    return {
        "raw": pair.raw.permute(1, 2, 0).cpu().numpy(),
        "reference": pair.reference.permute(1, 2, 0).cpu().numpy(),
        "contrast": pair.prompted.contrast.cpu().numpy(),
        "prompts": prompt_map(prompts, side),
        "similarity": similarity.reshape(side, side),
    }


class CachedPairs(Sequence[Prompted]):
    """The prompted pairs of a run, read from its cache one by one; those without a prompt are left out.

    Args:
        run: the run folder.
        rows: Zarr rows that hold a face.
        device: where the tensors go.
    """

    def __init__(self, run: Path, rows: Sequence[int], device: str) -> None:
        self.store = run / STORE
        self.device = torch.device(device)
        self.rows = [row for row in rows if store.read_row(self.store, row, "prompts")[0].any()]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.rows)

    def __getitem__(self, n: int) -> Prompted:  # type: ignore[override]
        """The n-th pair: tokens C×T×T float32 on the device, contrast T×T, and its prompts."""
        read = store.read_row(self.store, self.rows[n], "raw", "contrast", "prompts", "similarity")
        raw, contrast, points, similarity = (torch.from_numpy(values).to(self.device) for values in read)
        labels = points.flatten()
        cells = labels.nonzero()[:, 0]
        prompts = Prompts(cells, 2.0 - labels[cells].float(), similarity.flatten()[cells].float())
        return Prompted(raw.permute(2, 0, 1).float().contiguous(), contrast.float(), prompts)
