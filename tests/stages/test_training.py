import json

import numpy as np
import pytest
import torch

from s3pot_batch.manifests.outcomes import Outcome, write_outcomes
from s3pot_batch.stages import training
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.errors import ShardError
from s3pot_batch.stages.headway import Headway
from s3pot_batch.stages.method.learning import judged
from s3pot_batch.stages.models.profiles import PartSpec
from s3pot_batch.stages.models.registry import ADAPTERS
from s3pot_batch.stages.training import TrainingState, train
from tests.stages.conftest import TRAINING, do, fresh_network, task_of

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


def fit(network, pairs, folder, settings=SETTINGS, fingerprint="a", **options):
    return train(network, pairs, settings, 3, TrainingState(folder / "training.pt", fingerprint, **options))


def test_only_the_adapter_trains(sam, network, pairs, tmp_path):
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    adapter = {name: value.clone() for name, value in network.adapter.state_dict().items()}
    fit(network, pairs, tmp_path)
    assert {name for name, _ in network.named_parameters()} == {f"adapter.{name}" for name in adapter}
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in sam.parameters())
    assert not sam.training
    changed = [name for name, value in network.adapter.state_dict().items() if not torch.equal(value, adapter[name])]
    assert len(changed) == len(adapter)


def test_loss_falls_on_a_toy_problem(network, pairs, tmp_path):
    losses = fit(network, pairs, tmp_path, SETTINGS.model_copy(update={"epochs": 30}))
    assert len(losses) == 30
    assert losses[-1] < losses[0] - 0.03  # little, but all that an untrained decoder lets prompts decide


def test_every_batch_is_told_as_its_share_of_an_epoch(network, pairs, tmp_path, monkeypatch):
    told = list[float]()
    for epochs in (2, 3):
        headway = Headway()
        monkeypatch.setattr(headway, "add", told.append)
        settings = SETTINGS.model_copy(update={"epochs": epochs, "batch": 3})
        fit(network, pairs, tmp_path, settings, headway=headway)
    assert told == [0, 0.5, 0.5, 0.5, 0.5, 2, 0.5, 0.5]  # the second one goes on where the first ended


def test_the_reported_loss_is_the_mean_over_the_pairs(network, pairs, tmp_path):
    expected = judged(network, pairs, SETTINGS).losses.mean().item()
    losses = fit(network, pairs, tmp_path, SETTINGS.model_copy(update={"epochs": 1, "batch": 4}))
    assert losses == pytest.approx([expected], rel=1e-5)


def test_points_without_a_gradient_are_counted_and_told(network, pairs, tmp_path, logged):
    for sharpness, folder in ((1.0, "soft"), (1e5, "hard")):
        state = TrainingState(tmp_path / folder / "training.pt", "a")
        train(network, pairs, SETTINGS.model_copy(update={"epochs": 2, "sharpness": sharpness}), 3, state)
        assert len(state.alive) == 2
        assert (state.alive[0] > 0.9) == (folder == "soft")
        assert sum("of the points teach the adapter anything" in record.getMessage() for record in logged) == (
            folder == "hard"
        )


def test_loss_is_finite_without_a_negative_point(network, pairs, tmp_path):
    assert (pairs[3].prompts.labels == 1).all()
    assert np.isfinite(fit(network, pairs[3:], tmp_path)).all()


def test_a_state_of_other_settings_is_refused(network, pairs, tmp_path):
    fit(network, pairs, tmp_path)
    with pytest.raises(ShardError, match="other settings"):
        fit(network, pairs, tmp_path, fingerprint="b")


def test_a_state_that_an_earlier_version_kept_is_refused(network, pairs, tmp_path):
    fit(network, pairs, tmp_path)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    state["selector"] = state.pop("adapter")  # its name until version 0.1
    torch.save(state, tmp_path / "training.pt")
    with pytest.raises(ShardError, match=r"another version; .* remove it to train anew"):
        fit(network, pairs, tmp_path)


class InterruptedTrainingError(Exception):
    pass


@pytest.mark.parametrize("stop", [0, 2, 4])
def test_resumed_training_equals_an_uninterrupted_one(segmenter, pairs, tmp_path, stop):
    def interrupt(epoch, _loss):
        if epoch == stop:
            raise InterruptedTrainingError

    whole = fresh_network(segmenter)
    losses = fit(whole, pairs, tmp_path / "whole")
    with pytest.raises(InterruptedTrainingError):
        fit(fresh_network(segmenter), pairs, tmp_path / "parts", on_epoch=interrupt)
    resumed, seen = fresh_network(segmenter), []
    torch.manual_seed(99)  # a resumed process has another random state
    assert fit(resumed, pairs, tmp_path / "parts", on_epoch=lambda epoch, _loss: seen.append(epoch)) == losses
    assert seen == list(range(stop + 1, 6))
    for name, value in whole.adapter.state_dict().items():
        assert torch.equal(value, resumed.adapter.state_dict()[name])


def test_a_damaged_state_is_no_start(segmenter, pairs, tmp_path):
    losses = fit(fresh_network(segmenter), pairs, tmp_path)
    content = (tmp_path / "training.pt").read_bytes()
    for damaged in (b"", b"x", content[: len(content) // 2], bytes(len(content))):
        (tmp_path / "training.pt").write_bytes(damaged)
        torch.manual_seed(0)
        assert fit(fresh_network(segmenter), pairs, tmp_path) == losses


def test_the_learning_rate_follows_a_cosine_to_zero(network, pairs, tmp_path):
    rates = []

    def note(_epoch, _loss):
        state = torch.load(tmp_path / "training.pt", weights_only=True)
        rates.append(state["optimizer"]["param_groups"][0]["lr"])

    fit(network, pairs, tmp_path, on_epoch=note)
    np.testing.assert_allclose(rates, [1e-2 * (1 + np.cos(np.pi * n / 6)) / 2 for n in range(1, 7)], atol=1e-12)


def test_a_task_of_training_writes_a_whole_checkpoint(cached_run):
    folder, context = cached_run
    report = do("train", context)
    assert (report.items, report.ok, report.no_face, report.failed) == (2, 1, 1, 0)
    checkpoint = folder / "checkpoint"
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["fingerprint"] == "fingerprint"
    assert (config["embed_dim"], config["heads"], config["target"]) == (32, 4, "face")
    assert len(config["losses"]) == len(config["alive"]) == 6
    assert config["settings"] == context.settings.training.model_dump(mode="json")
    assert "no occlusion mask was used" in (checkpoint / "README.md").read_text()
    assert ADAPTERS.load(PartSpec("attention", str(checkpoint)), "cpu").embed_dim == 32


def test_a_finished_training_is_skipped_and_one_of_other_settings_is_not(cached_run):
    folder, context = cached_run
    stage = stage_named("train")
    assert not stage.is_done(folder, 0, "fingerprint")
    do("train", context)
    assert stage.is_done(folder, 0, "fingerprint")
    assert not stage.is_done(folder, 0, "another")
    written = (folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert do("train", context).skipped
    assert (folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns == written


def test_running_again_gives_the_same_adapter(cached_run):
    folder, context = cached_run
    weights = folder / "checkpoint" / "model.safetensors"
    training.work(task_of("train", context), context)
    first = weights.read_bytes()
    training.work(task_of("train", context), context)
    assert weights.read_bytes() == first
    (folder / "checkpoint" / "training.pt").unlink()
    training.work(task_of("train", context), context)
    assert weights.read_bytes() == first


@pytest.mark.parametrize("facts", ["{", "[]", "{}", ""])
def test_a_checkpoint_of_damaged_facts_is_not_done(cached_run, facts):
    folder, context = cached_run
    training.work(task_of("train", context), context)
    assert training.is_done(folder, context.fingerprint)
    (folder / "checkpoint" / "config.json").write_text(facts)
    assert not training.is_done(folder, context.fingerprint)


def test_a_run_without_a_usable_face_is_an_error(cached_run):
    folder, context = cached_run
    outcomes = [Outcome(n, f"p{n}", "no_face", height=64, width=64) for n in range(3)]
    write_outcomes(folder, "references", 0, outcomes, "references")
    with pytest.raises(ShardError, match="no face"):
        do("train", context)
    assert not (folder / "checkpoint" / "model.safetensors").exists()
