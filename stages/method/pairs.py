"""A face and its reference, encoded once. Nothing here can reach a ground-truth mask."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pot_batch.stages.method.enhancement import token_region
from s3pot_batch.stages.method.network import S3POT, Prompted


@dataclass(frozen=True)
class Pair:
    """One aligned face of side S."""

    raw: NDArray[np.uint8]
    """S×S×3 RGB, the photo."""
    reference: NDArray[np.uint8]
    """S×S×3 RGB, the same face with nothing in front of it."""
    region: NDArray[np.bool_]
    """S×S, the face region M."""


@dataclass(frozen=True)
class EncodedPair:
    """A pair's tokens, ``raw`` and ``reference`` C×T×T float32, and its prompts."""

    raw: Tensor
    reference: Tensor
    prompted: Prompted


def encode_pair(network: S3POT, pair: Pair) -> EncodedPair | None:
    """Encode a pair and find its prompts; ``None`` where the face region is smaller than a token."""
    tokens = network.segmenter.encode(torch.from_numpy(np.stack([pair.raw, pair.reference])))
    region = torch.from_numpy(pair.region)
    if not token_region(region, tokens.shape[-1]).any():
        return None
    return EncodedPair(tokens[0], tokens[1], network.prompt(tokens[0], tokens[1], region.to(tokens.device)))
