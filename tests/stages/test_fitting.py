import copy
from dataclasses import replace

import pytest
import torch

from stages.base import ShardTask
from stages.errors import ShardError
from stages.models.catalog import load
from stages.models.profiles import PartSpec
from stages.segmentation import fitting, inference
from stages.segmentation.checkpoint import save_adapter
from stages.segmentation.fitting import fit_image, load_fits
from stages.segmentation.selection import PromptSelector
from stages.segmentation.training import pair_losses
from stages.settings import TrainingSettings
from tests.stages.conftest import with_settings

SETTINGS = TrainingSettings(epochs=12, learning_rate=1e-2)


@pytest.fixture
def pair(network, tokens, region):
    return network.prompt(tokens[0], tokens[1], region)


def test_the_loss_of_the_face_falls_and_nothing_but_the_selector_changes(network, pair):
    before = {name: value.clone() for name, value in network.sam.state_dict().items()}
    fit = fit_image(network, pair, SETTINGS)
    assert min(fit.losses) < fit.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in network.sam.state_dict().items())


def test_the_best_epochs_weights_are_kept(network, pair):
    fit = fit_image(network, pair, replace(SETTINGS, learning_rate=0.3, min_delta=0.0))
    kept = pair_losses(network, [pair], SETTINGS.objectives).item()
    assert kept == pytest.approx(min(fit.losses), abs=1e-5)


def test_it_stops_when_nothing_improves(network, pair):
    fit = fit_image(network, pair, replace(SETTINGS, epochs=50, patience=3, min_delta=10.0))
    assert len(fit.losses) == 1 + 3


def test_it_stops_at_the_last_epoch(network, pair):
    assert len(fit_image(network, pair, replace(SETTINGS, epochs=4, min_delta=-10.0)).losses) == 4


@pytest.fixture
def fitted(cached_run, tmp_path):
    folder, context = cached_run
    torch.manual_seed(5)
    save_adapter(tmp_path / "adapter", PromptSelector(32), {}, "card")
    profile = replace(context.profile, adapter=PartSpec("selector", str(tmp_path / "adapter")))
    return folder, with_settings(replace(context, profile=profile), "segments", per_image=True)


def test_a_shard_of_fits_holds_a_selector_per_face(fitted):
    folder, context = fitted
    report = fitting.run_shard(ShardTask("fits", folder, 0), context)
    assert (report.items, report.ok, report.no_face) == (3, 2, 1)
    [(row, state)] = load_fits(folder, 0).items()  # the other face's region holds no token
    assert row == 0
    shared = load(context.profile.adapter, "cpu").state_dict()
    assert set(state) == set(shared)
    assert not all(torch.equal(state[name], shared[name]) for name in shared)


def test_segmenting_with_a_faces_own_fit(fitted, region):
    folder, context = fitted
    network = inference.load_network(context)
    shared = copy.deepcopy(network.selector.state_dict())
    fitting.run_shard(ShardTask("fits", folder, 0), context)
    pairs = [inference.read_pair(folder, row) for row in (0, 1)]
    own = inference.segment(network, pairs, context, load_fits(folder, 0))
    general = inference.segment(network, pairs, context)
    assert (own[0].occlusion != general[0].occlusion).any()
    assert not own[1].occlusion.any()
    assert all(torch.equal(value, shared[name]) for name, value in network.selector.state_dict().items())


def test_missing_fits_are_named(run):
    with pytest.raises(ShardError, match="train --per-image"):
        load_fits(run[0], 0)
