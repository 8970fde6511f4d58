"""An objective: the hinge of the paper, for the occlusion points as well."""

from torch import Tensor
from torch.nn import functional as F

MARGIN = 0.5
"""An occlusion point counts only while its p is above it; also the weight, as in ``face_hinge``."""


def occlusion_hinge(face: Tensor, occlusion: Tensor) -> Tensor:
    """0.5 · mean relu(p − 0.5) over the occlusion points; 0 where there is none."""
    del face
    over = F.relu(occlusion - MARGIN)
    return MARGIN * (over.mean() if len(over) else over.sum())
