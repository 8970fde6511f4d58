"""The token cache: what the frozen encoder and the matching make of every pair, computed once for all epochs."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.files import read_items, shard_is_done, write_items
from manifests.plan import Plan, read_plan
from stages import store
from stages.base import ShardReport, ShardTask, StageContext
from stages.models.catalog import load, token_shape
from stages.segmentation.network import S3POT, Prompted
from stages.segmentation.pairs import EncodedPair, encode_pair, read_pair
from stages.segmentation.selection import Prompts, PromptSelector

STAGE = "tokens"
STORE = "tokens.zarr"


def prepare(run: Path, plan: Plan, context: StageContext) -> None:
    """Create the cache's empty arrays, once, before any shard runs."""
    channels, side = token_shape(context.profile.segmenter)
    dtype = context.settings.training.tokens
    contents = {
        "raw": (dtype, channels, "tokens of the photo's face, by the frozen image encoder"),
        "reference": (dtype, channels, "tokens of its reference"),
        "contrast": (dtype, 0, "cosine of raw and reference tokens: 1 where they agree"),
        "prompts": ("int8", 0, "the token as a prompt: 1 = face point, 2 = occlusion point, 0 = outside the face"),
        "similarity": (dtype, 0, "cosine of the token with its match in the reference; -1 = no match"),
    }
    store.create(run, STORE, plan, side, contents)


def run_shard(task: ShardTask, context: StageContext) -> ShardReport:
    """Encode and prompt the pairs of one shard, whose references must be there; counts are of photos."""
    started = time.perf_counter()
    plan = read_plan(task.run)
    rows = read_items(task.run, "references", task.shard).to_pylist()
    if shard_is_done(task.run, STAGE, task.shard, context.fingerprint):
        return ShardReport(STAGE, task.shard, len(rows), skipped=True)
    sam = load(context.profile.segmenter, context.device)
    network = S3POT(sam, PromptSelector(sam.prompt_encoder.embed_dim), context.settings.segments)
    pairs = [encode_pair(network, read_pair(task.run, face["row"])) for row in rows for face in row["faces"]]
    write(task, plan, [pair for pair in pairs if pair is not None], context)
    write_items(task.run, STAGE, task.shard, rows, context.fingerprint)
    tally = [row["status"] for row in rows]
    return ShardReport(
        STAGE, task.shard, len(rows), tally.count("ok"), tally.count("no_face"), tally.count("failed"),
        time.perf_counter() - started,
    )  # fmt: skip


def write(task: ShardTask, plan: Plan, pairs: Sequence[EncodedPair], context: StageContext) -> None:
    """Write the shard's arrays whole; slots without a face stay zero."""
    channels, side = token_shape(context.profile.segmenter)
    slots = len(plan.shard(task.shard)) * plan.max_faces
    first = task.shard * plan.shard_size * plan.max_faces
    dtype = np.dtype(context.settings.training.tokens)
    arrays: dict[str, NDArray[np.generic]] = {
        "raw": np.zeros((slots, side, side, channels), dtype),
        "reference": np.zeros((slots, side, side, channels), dtype),
        "contrast": np.zeros((slots, side, side), dtype),
        "prompts": np.zeros((slots, side, side), np.int8),
        "similarity": np.zeros((slots, side, side), dtype),
    }
    for pair in pairs:
        at = pair.row - first
        arrays["raw"][at] = pair.raw.permute(1, 2, 0).cpu().numpy()
        arrays["reference"][at] = pair.reference.permute(1, 2, 0).cpu().numpy()
        arrays["contrast"][at] = pair.prompted.contrast.cpu().numpy()
        prompts = pair.prompted.prompts
        arrays["prompts"][at] = drawn(prompts, side)
        arrays["similarity"][at].ravel()[prompts.cells.cpu().numpy()] = prompts.similarity.cpu().numpy()
    store.write_shard(task.run, STORE, plan, task.shard, arrays)


def drawn(prompts: Prompts, side: int) -> NDArray[np.int8]:
    """T×T: 1 at a face point, 2 at an occlusion point."""
    grid = np.zeros(side * side, np.int8)
    grid[prompts.cells.cpu().numpy()] = 2 - prompts.labels.cpu().numpy().astype(np.int8)
    return grid.reshape(side, side)


class CachedPairs(Sequence[Prompted]):
    """The prompted pairs of a run, read from its cache one by one; those without a prompt are left out.

    Args:
        run: the run folder.
        rows: Zarr rows that hold a face.
        device: where the tensors go.
    """

    def __init__(self, run: Path, rows: Sequence[int], device: str) -> None:
        self.run = run
        self.device = torch.device(device)
        self.rows = [row for row in rows if store.read_rows(run, STORE, "prompts", [row]).any()]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.rows)

    def __getitem__(self, n: int) -> Prompted:  # type: ignore[override]
        """The n-th pair, its tokens as float32 on the device."""
        return read_prompted(self.run, self.rows[n], self.device)


def read_prompted(run: Path, row: int, device: torch.device) -> Prompted:
    """One cached pair: tokens C×T×T float32, contrast T×T, and its prompts."""
    names = ("raw", "contrast", "prompts", "similarity")
    raw, contrast, points, similarity = (_read(run, name, row).to(device) for name in names)
    labels = points.flatten()
    cells = labels.nonzero()[:, 0]
    prompts = Prompts(cells, 2.0 - labels[cells].float(), similarity.flatten()[cells].float())
    return Prompted(raw.permute(2, 0, 1).float().contiguous(), contrast.float(), prompts)


def _read(run: Path, name: str, row: int) -> Tensor:
    return torch.from_numpy(np.asarray(store.read_rows(run, STORE, name, [row])[0]))
