"""The processes that train one adapter together, each on a device of its own: torchrun's, or this one alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Peers:
    """``count`` processes, of which this is number ``rank``; the first one writes."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Peers":
        """Those of torch's process group, if this process is in one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, batch: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch, which may be empty."""
        return batch[self.rank :: self.count]

    def add(self, values: Tensor) -> Tensor:
        """The sum of what every process has, on this one's device.

        It goes over the host: a few hundred thousand gradients, which every backend can send.
        """
        if self.count == 1:
            return values
        added = values.detach().cpu()
        distributed.all_reduce(added)
        return added.to(values.device)

    def add_gradients(self, network: nn.Module) -> None:
        """Give every trained weight the sum of all processes' gradients; who had no pair has none."""
        if self.count == 1:
            return
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        added = self.add(torch.cat([one.flatten() for one in own]))
        for weight, gradient in zip(weights, torch.split(added, [weight.numel() for weight in weights]), strict=True):
            weight.grad = gradient.view_as(weight)
