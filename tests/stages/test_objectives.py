import math

import pytest
import torch

from stages.segmentation.network import at_points
from stages.segmentation.objectives import objectives


def logit(p):
    return math.log(p / (1 - p)) / 10


def test_values_worked_out_by_hand():
    found = objectives(torch.tensor([logit(0.9), logit(0.2), logit(0.3)]), torch.tensor([1.0, 1.0, 0.0]))
    assert found.face_recall.item() == pytest.approx(-0.55)
    assert found.occlusion_rejection.item() == pytest.approx(0.3)
    assert found.face_hinge.item() == pytest.approx(0.5 * (0 + 0.3) / 2)
    assert found.total().item() == pytest.approx(-0.55 + 0.3 + 0.075)


def test_objectives_can_be_left_out():
    found = objectives(torch.tensor([0.1, -0.2]), torch.tensor([1.0, 0.0]))
    assert torch.equal(found.total(("face_recall",)), found.face_recall)
    torch.testing.assert_close(found.total(), found.face_recall + found.occlusion_rejection + found.face_hinge)


@pytest.mark.parametrize("labels", [[1.0, 1.0], [0.0, 0.0]])
def test_an_absent_kind_of_point_leaves_loss_and_gradient_finite(labels):
    logits = torch.zeros(2, requires_grad=True)
    loss = objectives(logits, torch.tensor(labels)).total()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).all()


def test_gradients_raise_face_points_and_lower_occlusion_points():
    logits = torch.zeros(2, requires_grad=True)
    objectives(logits, torch.tensor([1.0, 0.0])).total().backward()
    assert logits.grad[0] < 0 < logits.grad[1]


def test_logits_are_sampled_where_the_points_are(network, tokens, region):
    prompted = network.prompt(tokens[0], tokens[1], region)
    y, x = torch.meshgrid(*[(torch.arange(32) + 0.5) * 2] * 2, indexing="ij")  # a ramp in input pixels
    cells = prompted.prompts.cells
    torch.testing.assert_close(at_points(x, prompted), (cells % 8 + 0.5) * 8)
    torch.testing.assert_close(at_points(y, prompted), (cells // 8 + 0.5) * 8)
