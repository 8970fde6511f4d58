"""The three contrastive objectives; no occlusion mask appears in any of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SHARPNESS = 10.0


@dataclass(frozen=True)
class Objectives:
    """Scalar losses of one image."""

    face_recall: Tensor
    """−mean p over the face points."""
    occlusion_rejection: Tensor
    """mean p over the occlusion points."""
    face_hinge: Tensor
    """0.5 · mean relu(0.5 − p) over the face points."""

    def total(self, names: tuple[str, ...] = ("face_recall", "occlusion_rejection", "face_hinge")) -> Tensor:
        """The sum of those that are named."""
        return torch.stack([getattr(self, name) for name in names]).sum()


def objectives(logits: Tensor, labels: Tensor) -> Objectives:
    """Losses of the visible face's logits at the prompt points.

    Args:
        logits: P float32, the mask's logit at each point.
        labels: P float32, 1 = face point, 0 = occlusion point. An absent kind contributes 0.
    """
    p = torch.sigmoid(SHARPNESS * logits)
    face, occlusion = p[labels == 1], p[labels == 0]
    return Objectives(-_mean(face), _mean(occlusion), 0.5 * _mean(F.relu(0.5 - face)))


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
