"""A face and its reference, encoded once. Nothing here can reach a ground-truth mask."""

from collections.abc import Sequence
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
    [found] = encode_pairs(network, [pair])
    return found


def encode_pairs(network: S3POT, pairs: Sequence[Pair]) -> list[EncodedPair | None]:
    """The same of one or more pairs, whose 2B pictures are encoded as one batch, and prompted as one."""
    pictures = np.stack([picture for pair in pairs for picture in (pair.raw, pair.reference)])
    tokens = network.segmenter.encode(torch.from_numpy(pictures))
    regions = [torch.from_numpy(pair.region) for pair in pairs]
    some = [n for n, region in enumerate(regions) if token_region(region, tokens.shape[-1]).any()]
    given = [(tokens[2 * n], tokens[2 * n + 1], regions[n].to(tokens.device)) for n in some]
    prompted = dict(zip(some, network.prompt_all(given) if given else [], strict=True))
    return [
        EncodedPair(tokens[2 * n], tokens[2 * n + 1], prompted[n]) if n in prompted else None for n in range(len(pairs))
    ]
