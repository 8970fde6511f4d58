import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from manifests.files import write_items
from stages.base import ShardTask
from stages.errors import ConfigError, ShardError
from stages.segmentation.checkpoint import load_adapter
from stages.segmentation.network import S3POT
from stages.segmentation.selection import PromptSelector
from stages.segmentation.training import pair_losses, run_shard, train
from tests.stages.conftest import TRAINING

SETTINGS = TRAINING


@pytest.fixture
def pairs(network, tokens, region):
    """Four pairs: two as they are, one mirrored, one where photo and reference are the same (no negative point)."""
    mirrored = tokens.flip(-1)
    return [
        network.prompt(tokens[0], tokens[1], region),
        network.prompt(tokens[0] + 0.1, tokens[1], region),
        network.prompt(mirrored[0], mirrored[1], region),
        network.prompt(tokens[1], tokens[1], region),
    ]


def fresh(sam):
    torch.manual_seed(1)
    return S3POT(sam, PromptSelector(32))


def fit(network, pairs, folder, settings=SETTINGS, **options):
    return train(network, pairs, settings, seed=3, state=folder / "training.pt", fingerprint="a", **options)


def test_only_the_selector_trains(sam, network, pairs, tmp_path):
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    selector = {name: value.clone() for name, value in network.selector.state_dict().items()}
    fit(network, pairs, tmp_path)
    assert {name for name, _ in network.named_parameters()} == {f"selector.{name}" for name in selector}
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in sam.parameters())
    assert not sam.training
    changed = [name for name, value in network.selector.state_dict().items() if not torch.equal(value, selector[name])]
    assert len(changed) == len(selector)


def test_loss_falls_on_a_toy_problem(network, pairs, tmp_path):
    losses = fit(network, pairs, tmp_path, replace(SETTINGS, epochs=30))
    assert len(losses) == 30
    assert losses[-1] < losses[0] - 0.03  # little, but all that an untrained decoder lets prompts decide


def test_the_reported_loss_is_the_mean_over_the_pairs(network, pairs, tmp_path):
    expected = pair_losses(network, pairs, SETTINGS.objectives).mean().item()
    losses = fit(network, pairs, tmp_path, replace(SETTINGS, epochs=1, batch=4))
    assert losses == pytest.approx([expected], rel=1e-5)


def test_loss_is_finite_without_a_negative_point(network, pairs, tmp_path):
    assert (pairs[3].prompts.labels == 1).all()
    assert np.isfinite(fit(network, pairs[3:], tmp_path)).all()


def test_a_state_of_other_settings_is_refused(network, pairs, tmp_path):
    fit(network, pairs, tmp_path)
    with pytest.raises(ShardError, match="other settings"):
        train(network, pairs, SETTINGS, seed=3, state=tmp_path / "training.pt", fingerprint="b")


class InterruptedTrainingError(Exception):
    pass


@pytest.mark.parametrize("stop", [0, 2, 4])
def test_resumed_training_equals_an_uninterrupted_one(sam, pairs, tmp_path, stop):
    def interrupt(epoch, _loss):
        if epoch == stop:
            raise InterruptedTrainingError

    whole = fresh(sam)
    losses = fit(whole, pairs, tmp_path / "whole")
    with pytest.raises(InterruptedTrainingError):
        fit(fresh(sam), pairs, tmp_path / "parts", on_epoch=interrupt)
    resumed, seen = fresh(sam), []
    torch.manual_seed(99)  # a resumed process has another random state
    assert fit(resumed, pairs, tmp_path / "parts", on_epoch=lambda epoch, _loss: seen.append(epoch)) == losses
    assert seen == list(range(stop + 1, 6))
    for name, value in whole.selector.state_dict().items():
        assert torch.equal(value, resumed.selector.state_dict()[name])


def test_the_learning_rate_follows_a_cosine_to_zero(network, pairs, tmp_path):
    rates = []

    def note(_epoch, _loss):
        state = torch.load(tmp_path / "training.pt", weights_only=True)
        rates.append(state["optimizer"]["param_groups"][0]["lr"])

    fit(network, pairs, tmp_path, on_epoch=note)
    np.testing.assert_allclose(rates, [1e-2 * (1 + np.cos(np.pi * n / 6)) / 2 for n in range(1, 7)], atol=1e-12)


def test_a_shard_of_training_writes_a_whole_checkpoint(cached_run):
    folder, context = cached_run
    report = run_shard(ShardTask("train", folder, 0), context)
    assert (report.items, report.ok, report.no_face, report.failed) == (2, 1, 1, 0)
    checkpoint = folder / "checkpoint"
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["fingerprint"] == "fingerprint"
    assert (config["embed_dim"], config["heads"], config["target"]) == (32, 4, "face")
    assert len(config["losses"]) == 6
    assert "no occlusion mask was used" in (checkpoint / "README.md").read_text()
    assert load_adapter(checkpoint).embed_dim == 32


def test_running_again_gives_the_same_adapter(cached_run):
    folder, context = cached_run
    weights = folder / "checkpoint" / "model.safetensors"
    run_shard(ShardTask("train", folder, 0), context)
    first = weights.read_bytes()
    run_shard(ShardTask("train", folder, 0), context)
    assert weights.read_bytes() == first
    (folder / "checkpoint" / "training.pt").unlink()
    run_shard(ShardTask("train", folder, 0), context)
    assert weights.read_bytes() == first


def test_a_run_without_a_usable_face_is_an_error(cached_run):
    folder, context = cached_run
    rows = [{"index": n, "image_id": f"p{n}", "status": "no_face", "faces": []} for n in range(3)]
    write_items(folder, "references", 0, rows, "references")
    with pytest.raises(ShardError, match="no face"):
        run_shard(ShardTask("train", folder, 0), context)


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    with pytest.raises(ConfigError, match="not an adapter"):
        load_adapter(tmp_path)
