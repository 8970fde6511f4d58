"""An objective: the hinge of the paper, for the occlusion points as well."""

from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.method.objectives import HINGE, mean


def occlusion_hinge(p: Tensor, labels: Tensor) -> Tensor:
    """0.5 · mean relu(p − 0.5) over the occlusion points; 0 where there is none."""
    return HINGE * mean(F.relu(p[labels == 0] - HINGE))
