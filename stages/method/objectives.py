"""The contrastive objectives; no occlusion mask appears in any of them.

An objective is one function here: it takes p, the probability of the visible face at each of P prompt points, and the
points' labels, 1 = face and 0 = occlusion.
Other packages add theirs through entry points of the group ``s3pot_batch.objectives``, each naming such a function.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.plugins import Plugins

SHARPNESS = 10.0
"""p = sigmoid(``SHARPNESS`` · logit) (authors' code); the setting ``training.sharpness`` has another."""
HINGE = 0.5
"""Both the margin and the weight of the hinge (authors' code)."""

ALIVE = 1e-3
"""Least slope p·(1 − p) of the sigmoid, of at most ¼, at which a point counts as moved by its gradient."""

Objective = Callable[[Tensor, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {}
"""Ours by name, as ``training.objectives`` lists them."""
OTHERS = Plugins("objective", "s3pot_batch.objectives")


def objective(function: Objective) -> Objective:
    """Register an objective under its name."""
    OBJECTIVES[function.__name__] = function
    return function


@objective
def face_recall(p: Tensor, labels: Tensor) -> Tensor:
    """−mean p over the face points."""
    return -mean(p[labels == 1])


@objective
def occlusion_rejection(p: Tensor, labels: Tensor) -> Tensor:
    """Mean p over the occlusion points."""
    return mean(p[labels == 0])


@objective
def face_hinge(p: Tensor, labels: Tensor) -> Tensor:
    """0.5 · mean relu(0.5 − p) over the face points."""
    return HINGE * mean(F.relu(HINGE - p[labels == 1]))


def known_objectives() -> tuple[str, ...]:
    """The names that there are, ours first."""
    return OTHERS.names(OBJECTIVES)


@cache
def find_objective(name: str) -> Objective:
    """The objective of one of :func:`known_objectives`."""
    return OBJECTIVES[name] if name in OBJECTIVES else cast("Objective", OTHERS.find(name))


def total(
    logits: Tensor, labels: Tensor, names: Sequence[str] = tuple(OBJECTIVES), sharpness: float = SHARPNESS
) -> Tensor:
    """The sum of the named objectives for one image, a scalar.

    Args:
        logits: P float32, the visible face's logit at each prompt point.
        labels: P float32, 1 = face point, 0 = occlusion point. An absent kind contributes 0.
        names: which objectives.
        sharpness: see ``SHARPNESS``.
    """
    p = torch.sigmoid(sharpness * logits)
    return torch.stack([find_objective(name)(p, labels) for name in names]).sum()


def alive(logits: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """The share of P points that an objective can still move: those whose p is not flat against 0 or 1."""
    p = torch.sigmoid(sharpness * logits.detach())
    return mean((p * (1 - p) > ALIVE).float())


def mean(values: Tensor) -> Tensor:
    """The mean, and 0 with a gradient where there is nothing to take it of."""
    return values.mean() if len(values) else values.sum()
