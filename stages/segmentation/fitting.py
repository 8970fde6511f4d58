"""Per-image fitting: the selector adapts to one face by the same objectives, and stops early."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests.files import read_items, shard_is_done, write_items
from stages.base import ShardReport, ShardTask, StageContext
from stages.errors import ShardError
from stages.models.catalog import load
from stages.segmentation.network import S3POT, Prompted
from stages.segmentation.selection import PromptSelector
from stages.segmentation.tokens import CachedPairs
from stages.segmentation.training import pair_losses
from stages.settings import TrainingSettings

STAGE = "fits"


@dataclass(frozen=True)
class Fit:
    """A selector fitted to one face, and the loss of every epoch."""

    selector: PromptSelector
    losses: list[float]


def run_shard(task: ShardTask, context: StageContext) -> ShardReport:
    """Fit the profile's adapter to every face of one shard, whose tokens must be there; counts are of photos."""
    started = time.perf_counter()
    rows = read_items(task.run, "tokens", task.shard).to_pylist()
    if shard_is_done(task.run, STAGE, task.shard, context.fingerprint):
        return ShardReport(STAGE, task.shard, len(rows), skipped=True)
    sam, selector = (load(part, context.device) for part in (context.profile.segmenter, context.profile.adapter))
    pairs = CachedPairs(task.run, [face["row"] for row in rows for face in row["faces"]], context.device)
    fits = {}
    for row, pair in zip(pairs.rows, pairs, strict=True):
        network = S3POT(sam, copy.deepcopy(selector), context.settings.segments)
        fits[row] = fit_image(network, pair, context.settings.training).selector
    save_fits(task.run, task.shard, fits)
    write_items(task.run, STAGE, task.shard, rows, context.fingerprint)
    tally = [row["status"] for row in rows]
    return ShardReport(
        STAGE, task.shard, len(rows), tally.count("ok"), tally.count("no_face"), tally.count("failed"),
        time.perf_counter() - started,
    )  # fmt: skip


def fit_image(network: S3POT, pair: Prompted, settings: TrainingSettings) -> Fit:
    """Optimise the network's selector for one pair; keep the weights of the best epoch.

    Stops when the loss has not fallen by ``min_delta`` for ``patience`` epochs (authors' code), or after ``epochs``.
    """
    optimizer = torch.optim.AdamW(
        network.selector.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    network.selector.train()
    losses: list[float] = []
    best, waited = copy.deepcopy(network.selector.state_dict()), 0
    lowest = float("inf")
    while len(losses) < settings.epochs and waited < settings.patience:
        loss = pair_losses(network, [pair], settings.objectives)[0]
        losses.append(float(loss.detach()))
        if losses[-1] < lowest - settings.min_delta:
            lowest, waited = losses[-1], 0
            best = copy.deepcopy(network.selector.state_dict())
        else:
            waited += 1
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.selector.load_state_dict(best)
    return Fit(network.selector.eval(), losses)


def save_fits(run: Path, shard: int, fits: Mapping[int, PromptSelector]) -> None:
    """Write a shard's fitted selectors: ``fits/00012.safetensors``, keys ``ROW/PARAMETER``."""
    path = _path(run, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{row}/{name}": value.contiguous().cpu()
        for row, selector in fits.items() for name, value in selector.state_dict().items()
    }  # fmt: skip
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary)
    temporary.replace(path)


def load_fits(run: Path, shard: int) -> dict[int, dict[str, Tensor]]:
    """A shard's fitted selectors as state dicts, by Zarr row.

    Raises:
        ShardError: they are not there.
    """
    path = _path(run, shard)
    if not path.exists():
        raise ShardError(f"{path} is missing; run: s3pot-batch train --per-image")
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        row, name = key.split("/")
        states.setdefault(int(row), {})[name] = value
    return states


def _path(run: Path, shard: int) -> Path:
    return run / "fits" / f"{shard:05d}.safetensors"
