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

from recipes.recipe import Recipe
from recipes.shipping import keep_some, start_from

Loss = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

DECAY = 0.998
"""Of the exponential moving average of the weights."""
WARM_UP, WARM_UP_AGAIN = 100, 30
"""Steps until the learning rate has its peak: of new weights, and of those that a training goes on from."""
EVERY = 100
"""Steps from one checkpoint, and one line of the log, to the next."""
BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""A CPU's instructions for bf16, of which one is enough: Intel's and AMD's, and ARM's."""


def fit(
    models: nn.ModuleDict,
    loss: Loss,
    samples: Iterator[dict[str, Tensor]],
    optimizer: Optimizer,
    recipe: Recipe,
    name: str,
) -> nn.ModuleDict:
    """Train ``models`` until the minutes or the steps are used up; the learning rate follows whichever is nearer.

    Args:
        models: the modules to train, in place.
        loss: maps a batch to named scalar losses; they are summed.
        samples: endless batches of tensors.
        optimizer: its learning rates are the peaks of a warm-up and cosine schedule.
        recipe: says how long to train, and which weights to go on from.
        name: of the training: its losses are logged in ``NAME.jsonl`` in the recipe's work folder, and a checkpoint is
            kept in ``NAME.pt`` beside it.

    Returns:
        The averaged models, in evaluation mode, moved back towards their start as far as the recipe says.
    """
    if recipe.start is not None:
        start_from(recipe.start, models)
    averaged = copy.deepcopy(models).eval().requires_grad_(requires_grad=False)
    peaks = [group["lr"] for group in optimizer.param_groups]
    checkpoint, log = recipe.work / f"{name}.pt", Log(recipe.work / f"{name}.jsonl")
    step, warm_up = 0, WARM_UP if recipe.start is None else WARM_UP_AGAIN
    models.train()
    while (progress := max(log.seconds / (60 * recipe.minutes), step / recipe.steps)) < 1:
        rate = min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        terms = loss(next(samples))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimizer.step()
        step += 1
        _average(averaged, models, min(DECAY, (1 + step) / (10 + step)))
        log.add(step, terms)
        if step % EVERY == 0:
            torch.save(averaged.state_dict(), checkpoint)
    torch.save(averaged.state_dict(), checkpoint)
    if recipe.keep and recipe.start is not None:
        keep_some(averaged, recipe.start, recipe.keep)
    return averaged


def mixed(device: str) -> torch.autocast:
    """Autocast to bf16 where that is quicker; a CPU without instructions for it takes eight times as long."""
    able = device != "cpu" or any(torch.cpu.get_capabilities().get(name) for name in BF16)
    return torch.autocast(device, torch.bfloat16, enabled=able)


class Log:
    """A JSON-lines file of a training's mean losses, a line for every ``EVERY`` steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()
        self.sums = dict[str, float]()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Count one step's losses."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if step % EVERY == 0:
            means = {name: round(value / EVERY, 5) for name, value in self.sums.items()}
            line = json.dumps({"step": step, "seconds": round(self.seconds), **means})
            print(line, flush=True)
            with self.path.open("a") as stream:
                stream.write(line + "\n")
            self.sums.clear()


@torch.no_grad()
def _average(averaged: nn.Module, models: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), models.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
