"""The contrastive objectives; no occlusion mask appears in any of them.

An objective is one function here: it takes p, the probability of the visible face at the prompt points of its kind.
Other packages add theirs through entry points of the group ``s3pot_batch.objectives``, each naming such a function.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

SHARPNESS = 10.0
"""p = sigmoid(``SHARPNESS`` · logit) (authors' code)."""
HINGE = 0.5
"""Both the margin and the weight of the hinge (authors' code)."""

Objective = Callable[[Tensor, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {}
"""Ours by name, as ``training.objectives`` lists them."""
GROUP = "s3pot_batch.objectives"


def objective(function: Objective) -> Objective:
    """Register an objective under its name."""
    OBJECTIVES[function.__name__] = function
    return function


@objective
def face_recall(face: Tensor, occlusion: Tensor) -> Tensor:
    """−mean p over the face points."""
    del occlusion
    return -_mean(face)


@objective
def occlusion_rejection(face: Tensor, occlusion: Tensor) -> Tensor:
    """Mean p over the occlusion points."""
    del face
    return _mean(occlusion)


@objective
def face_hinge(face: Tensor, occlusion: Tensor) -> Tensor:
    """0.5 · mean relu(0.5 − p) over the face points."""
    del occlusion
    return HINGE * _mean(F.relu(HINGE - face))


def known_objectives() -> tuple[str, ...]:
    """The names that there are, ours first."""
    return tuple(dict.fromkeys((*OBJECTIVES, *(entry.name for entry in entry_points(group=GROUP)))))


@cache
def find_objective(name: str) -> Objective:
    """The objective of one of :func:`known_objectives`."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    return cast("Objective", others[name].load())


def total(logits: Tensor, labels: Tensor, names: Sequence[str] = tuple(OBJECTIVES)) -> Tensor:
    """The sum of the named objectives for one image, a scalar.

    Args:
        logits: P float32, the visible face's logit at each prompt point.
        labels: P float32, 1 = face point, 0 = occlusion point. An absent kind contributes 0.
        names: which objectives.
    """
    p = torch.sigmoid(SHARPNESS * logits)
    face, occlusion = p[labels == 1], p[labels == 0]
    return torch.stack([find_objective(name)(face, occlusion) for name in names]).sum()


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
