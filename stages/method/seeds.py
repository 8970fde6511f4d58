"""Seeds per item: a result never depends on batch, shard, worker or order."""

import hashlib

import torch


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator seeded by SHA-256 of the run's seed and the item's names (image id, face, pass …)."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
