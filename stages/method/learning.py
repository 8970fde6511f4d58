"""Contrastive learning of the adapter: the objectives of a batch of pairs, and the fit to a single face."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from s3pot_batch.stages.method.network import S3POT, Prompted, at_points
from s3pot_batch.stages.method.objectives import alive, total
from s3pot_batch.stages.settings import TrainingSettings

if TYPE_CHECKING:
    from s3pot_batch.stages.models.protocols import Adapter


@dataclass(frozen=True)
class Fit:
    """A network whose adapter was fitted to one face, and the loss of every epoch."""

    network: S3POT
    adapter: nn.Module
    """The network's."""
    losses: list[float]


@dataclass(frozen=True)
class Judged:
    """What the objectives say of B pairs."""

    losses: Tensor
    """B, the objectives summed."""
    alive: Tensor
    """B, the share of each pair's points that has a gradient."""


def judged(network: S3POT, batch: Sequence[Prompted], settings: TrainingSettings) -> Judged:
    """The objectives of each pair, with the network's present adapter."""
    logits = [at_points(segmentation.logits, pair) for segmentation, pair in zip(network(batch), batch, strict=True)]
    losses = [
        total(one, pair.prompts.labels, settings.objectives, settings.sharpness)
        for one, pair in zip(logits, batch, strict=True)
    ]
    return Judged(torch.stack(losses), torch.stack([alive(one, settings.sharpness) for one in logits]))


def optimiser(
    network: S3POT, settings: TrainingSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW over the network's adapter, with a cosine schedule (authors' settings)."""
    adamw = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return adamw, torch.optim.lr_scheduler.CosineAnnealingLR(adamw, settings.epochs)


@torch.enable_grad()
def fit_face(network: S3POT, pair: Prompted, settings: TrainingSettings) -> Fit:
    """Adapt a copy of the network's adapter to one pair; the weights of the best epoch are kept.

    Stops when the loss has not fallen by ``min_delta`` for ``patience`` epochs (authors' code), or after ``epochs``.
    """
    adapter = copy.deepcopy(cast("nn.Module", network.adapter))
    own = S3POT(network.segmenter, cast("Adapter", adapter), network.settings)
    adamw, schedule = optimiser(own, settings)
    adapter.train()
    losses: list[float] = []
    best, waited = copy.deepcopy(adapter.state_dict()), 0
    lowest = float("inf")
    while len(losses) < settings.epochs and waited < settings.patience:
        loss = judged(own, [pair], settings).losses[0]
        losses.append(float(loss.detach()))
        if losses[-1] < lowest - settings.min_delta:
            lowest, waited = losses[-1], 0
            best = copy.deepcopy(adapter.state_dict())
        else:
            waited += 1
        adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adamw.step()
        schedule.step()
    adapter.load_state_dict(best)
    adapter.eval()
    return Fit(own, adapter, losses)
