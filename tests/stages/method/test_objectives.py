import math

import pytest
import torch

from s3pot_batch.stages.method.network import at_points
from s3pot_batch.stages.method.objectives import OBJECTIVES, alive, known_objectives, total
from s3pot_batch.stages.settings import TrainingSettings


def logit(p):
    return math.log(p / (1 - p)) / 10


def test_values_worked_out_by_hand():
    logits, labels = torch.tensor([logit(0.9), logit(0.2), logit(0.3)]), torch.tensor([1.0, 1.0, 0.0])
    found = {name: total(logits, labels, (name,)).item() for name in OBJECTIVES}
    assert found == pytest.approx({
        "face_recall": -0.55, "occlusion_rejection": 0.3, "face_hinge": 0.5 * (0 + 0.3) / 2,
    })  # fmt: skip
    assert total(logits, labels).item() == pytest.approx(-0.55 + 0.3 + 0.075)


def test_objectives_can_be_left_out():
    logits, labels = torch.tensor([0.1, -0.2]), torch.tensor([1.0, 0.0])
    p = torch.sigmoid(10 * logits)
    torch.testing.assert_close(total(logits, labels, ("face_recall",)), -p[0])
    each = [total(logits, labels, (name,)) for name in ("face_recall", "occlusion_rejection", "face_hinge")]
    torch.testing.assert_close(total(logits, labels), sum(each))
    torch.testing.assert_close(total(logits, labels, ("face_hinge", "face_recall")), each[2] + each[0])


def test_those_that_the_settings_name_are_there():
    assert tuple(OBJECTIVES) == known_objectives() == TrainingSettings().objectives


def test_another_packages_objective_is_summed_like_ours_and_takes_the_place_of_none(toy_parts):
    assert known_objectives() == (*OBJECTIVES, "softer_rejection")
    logits, labels = torch.tensor([logit(0.9), logit(0.3)]), torch.tensor([1.0, 0.0])
    assert total(logits, labels, ("face_recall", "softer_rejection")).item() == pytest.approx(-0.9 + 0.15)
    assert total(logits, labels, ("face_hinge",)).item() == 0


@pytest.mark.parametrize("labels", [[1.0, 1.0], [0.0, 0.0]])
def test_an_absent_kind_of_point_leaves_loss_and_gradient_finite(labels):
    logits = torch.zeros(2, requires_grad=True)
    loss = total(logits, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).all()


def test_gradients_raise_face_points_and_lower_occlusion_points():
    logits = torch.zeros(2, requires_grad=True)
    total(logits, torch.tensor([1.0, 0.0])).backward()
    assert logits.grad[0] < 0 < logits.grad[1]


def test_a_points_gradient_is_gone_where_the_sigmoid_is_flat():
    logits = torch.tensor([-2.0, 2.0, 0.1, 0.0])
    assert alive(logits).item() == 0.5
    assert alive(logits, 1.0).item() == 1
    at = torch.tensor([-2.0], requires_grad=True)
    gradients = []
    for sharpness in (10.0, 1.0):
        [gradient] = torch.autograd.grad(total(at, torch.ones(1), ("face_recall",), sharpness), at)
        gradients.append(-gradient.item())
    assert gradients[0] < 1e-7
    assert gradients[1] > 0.1


def test_logits_are_sampled_where_the_points_are(network, tokens, region):
    prompted = network.prompt(tokens[0], tokens[1], region)
    y, x = torch.meshgrid(*[(torch.arange(32) + 0.5) * 2] * 2, indexing="ij")  # a ramp in input pixels
    cells = prompted.prompts.cells
    torch.testing.assert_close(at_points(x, prompted), (cells % 8 + 0.5) * 8)
    torch.testing.assert_close(at_points(y, prompted), (cells // 8 + 0.5) * 8)
