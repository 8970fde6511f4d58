"""The fit of an adapter to a single face."""

import pytest
import torch

from s3pot_batch.stages.method.learning import fit_face, judged
from s3pot_batch.stages.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=12, learning_rate=1e-2)


@pytest.fixture
def pair(network, tokens, region):
    return network.prompt(tokens[0], tokens[1], region)


def settings(**changes):
    return SETTINGS.model_copy(update=changes)


def test_the_loss_of_the_face_falls_and_nothing_but_the_adapter_changes(sam, network, pair):
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    fit = fit_face(network, pair, SETTINGS)
    assert min(fit.losses) < fit.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())
    assert fit.network.segmenter is network.segmenter


def test_the_networks_own_adapter_stays_as_it_was(network, pair):
    before = {name: value.clone() for name, value in network.adapter.state_dict().items()}
    fit = fit_face(network, pair, SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in network.adapter.state_dict().items())
    assert fit.adapter is fit.network.adapter is not network.adapter
    assert not fit.adapter.training
    again = fit_face(network, pair, SETTINGS)
    assert again.losses == fit.losses


def test_the_best_epochs_weights_are_kept(network, pair):
    fit = fit_face(network, pair, settings(learning_rate=0.3, min_delta=0.0))
    kept = judged(fit.network, [pair], SETTINGS).losses.item()
    assert kept == pytest.approx(min(fit.losses), abs=1e-5)


def test_it_stops_when_nothing_improves(network, pair):
    fit = fit_face(network, pair, settings(epochs=50, patience=3, min_delta=10.0))
    assert len(fit.losses) == 1 + 3


def test_it_stops_at_the_last_epoch(network, pair):
    assert len(fit_face(network, pair, settings(epochs=4, min_delta=-10.0)).losses) == 4


def test_it_learns_where_the_caller_keeps_no_gradients(network, pair):
    expected = fit_face(network, pair, SETTINGS).losses
    with torch.no_grad():
        assert fit_face(network, pair, SETTINGS).losses == expected


def test_a_loss_per_pair_of_the_named_objectives(network, pair):
    losses = judged(network, [pair, pair], settings(objectives=("face_recall",))).losses
    assert losses.shape == (2,)
    torch.testing.assert_close(losses[0], losses[1])
    rest = judged(network, [pair], settings(objectives=("occlusion_rejection", "face_hinge"))).losses
    torch.testing.assert_close(losses[:1] + rest, judged(network, [pair], SETTINGS).losses)


def test_a_softer_sigmoid_leaves_more_points_alive(network, pair):
    shares = [float(judged(network, [pair], settings(sharpness=sharp)).alive) for sharp in (0.1, 1e4)]
    assert shares[0] == 1
    assert shares[1] < 0.1
