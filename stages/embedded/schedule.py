"""What every recipe shares: a timed training loop with warm-up, cosine decay, averaged weights and checkpoints."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.embedded.weights import start_from

Loss = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


def fit(
    models: nn.ModuleDict,
    loss: Loss,
    samples: Iterator[dict[str, Tensor]],
    optimizer: Optimizer,
    *,
    minutes: float,
    steps: int,
    log: Path,
    decay: float = 0.998,
    start: Path | None = None,
) -> nn.ModuleDict:
    """Train ``models`` until the minutes or the steps are used up; the learning rate follows whichever is nearer.

    Args:
        models: the modules to train, in place.
        loss: maps a batch to named scalar losses; they are summed.
        samples: endless batches of tensors.
        optimizer: its learning rates are the peaks of a warm-up and cosine schedule.
        minutes: bound of the training, in wall time.
        steps: bound of the training, in optimiser steps.
        log: a JSON-lines file of losses; a checkpoint is kept beside it.
        decay: of the exponential moving average of the weights.
        start: a checkpoint of an earlier call, whose weights this one goes on from, or ``shipped``.

    Returns:
        The averaged models, in evaluation mode.
    """
    if start is not None:
        start_from(start, models)
    averaged = copy.deepcopy(models).eval().requires_grad_(requires_grad=False)
    peaks = [group["lr"] for group in optimizer.param_groups]
    started, step, sums = time.monotonic(), 0, dict[str, float]()
    models.train()
    while True:
        progress = max((time.monotonic() - started) / (60 * minutes), step / steps)
        if progress >= 1:
            break
        rate = min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        terms = loss(next(samples))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimizer.step()
        step += 1
        _average(averaged, models, min(decay, (1 + step) / (10 + step)))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 100 == 0:
            line = {
                "step": step,
                "seconds": round(time.monotonic() - started),
                **{k: round(v / 100, 5) for k, v in sums.items()},
            }
            print(json.dumps(line), flush=True)
            with log.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            sums.clear()
        if step % 500 == 0:
            torch.save(averaged.state_dict(), log.with_suffix(".pt"))
    torch.save(averaged.state_dict(), log.with_suffix(".pt"))
    return averaged


@torch.no_grad()
def _average(averaged: nn.Module, models: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), models.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
