"""Raw and reference pairs from Zarr, encoded once. Nothing here can reach a ground-truth mask."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages import store
from stages.models.sam import encode
from stages.segmentation.enhancement import token_region
from stages.segmentation.network import S3POT, Prompted

STORE = "references.zarr"


@dataclass(frozen=True)
class Pair:
    """One face's two pictures and its region: ``raw``, ``reference`` S×S×3 uint8 and ``region`` S×S bool tensors."""

    row: int
    raw: Tensor
    reference: Tensor
    region: Tensor


@dataclass(frozen=True)
class EncodedPair:
    """A pair's tokens, ``raw`` and ``reference`` C×T×T float32, and its prompts."""

    row: int
    raw: Tensor
    reference: Tensor
    prompted: Prompted


def read_pair(run: Path, row: int) -> Pair:
    """Read one Zarr row of stage one's answer."""
    raw, reference, region = (
        torch.from_numpy(np.asarray(store.read_rows(run, STORE, name, [row])[0]))
        for name in ("raw", "reference", "region")
    )
    return Pair(row, raw, reference, region.bool())


def encode_pair(network: S3POT, pair: Pair) -> EncodedPair | None:
    """Encode a pair and find its prompts; ``None`` where the face region is smaller than a token."""
    tokens = encode(network.sam, torch.stack([pair.raw, pair.reference]))
    if not token_region(pair.region, tokens.shape[-1]).any():
        return None
    prompted = network.prompt(tokens[0], tokens[1], pair.region.to(tokens.device))
    return EncodedPair(pair.row, tokens[0], tokens[1], prompted)
