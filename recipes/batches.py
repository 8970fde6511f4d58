"""Endless batches of training crops, drawn on worker processes and reproducible by seed."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]


class Draws(IterableDataset[dict[str, np.ndarray]]):
    """Calls ``draw(rng)`` for ever; every worker has its own stream of the seed."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw = draw
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield one sample after another."""
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield self.draw(rng)


def batches(draw: Draw, *, size: int, seed: int, workers: int) -> Iterator[dict[str, Tensor]]:
    """Batches of ``size`` samples, without end."""
    loader = DataLoader(Draws(draw, seed), batch_size=size, num_workers=workers, worker_init_fn=_one_thread)
    return iter(loader)


def _one_thread(worker: int) -> None:
    del worker  # every worker alike
    torch.set_num_threads(1)


def as_pixels(images: Tensor) -> Tensor:
    """B×S×S×3 uint8 → B×3×S×S float32 in −1..1, channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
