import numpy as np
import pytest
import torch

from s3pot_batch.manifests.outcomes import Outcome, read_outcomes
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.stages import store
from s3pot_batch.stages.method.pairs import encode_pair
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.tokens import CachedPairs
from s3pot_batch.stages.training import TrainingState, train
from tests.stages.conftest import do, fresh_network, with_settings


def fresh(context):
    return fresh_network(context.models.segmenter, context.settings.segments)


def rows(context):
    return store.filled_rows(context.run, read_plan(context.run))


def in_memory(context):
    """What training would read without a cache."""
    network = fresh(context)
    encoded = [encode_pair(network, read_pair(context.run, row)) for row in rows(context)]
    return [one.prompted for one in encoded if one is not None]


def losses(pairs, context, folder):
    return train(fresh(context), pairs, context.settings.training, 3, TrainingState(folder / "s.pt", "a"))


def test_losses_with_a_float32_cache_are_those_without_a_cache(run, tmp_path):
    context = with_settings(run[1], "training", tokens="float32")
    do("tokens", context)
    cached = CachedPairs(context.run, rows(context), "cpu")
    assert losses(cached, context, tmp_path / "a") == losses(in_memory(context), context, tmp_path / "b")


def test_losses_with_a_float16_cache_differ_by_less_than_a_thousandth(cached_run, tmp_path):
    folder, context = cached_run
    cached = CachedPairs(folder, rows(context), "cpu")
    assert store.read_rows(folder / "tokens.zarr", "raw", [0]).dtype == np.float16
    expected = losses(in_memory(context), context, tmp_path / "b")
    np.testing.assert_allclose(losses(cached, context, tmp_path / "a"), expected, atol=1e-3)


def test_no_epoch_calls_the_encoder(cached_run, tmp_path):
    folder, context = cached_run
    calls = []
    encoder = context.models.segmenter.sam.image_encoder
    handle = encoder.register_forward_hook(lambda *_: calls.append(1))
    cached = CachedPairs(folder, rows(context), "cpu")
    losses(cached, context, tmp_path / "a")
    assert not calls
    encode_pair(fresh(context), read_pair(folder, 0))
    handle.remove()
    assert calls  # the hook would have seen it


def test_prompts_come_back_as_they_were_found(cached_run):
    folder, context = cached_run
    [expected] = in_memory(context)
    [found] = CachedPairs(folder, rows(context), "cpu")
    assert torch.equal(found.prompts.cells, expected.prompts.cells)
    assert torch.equal(found.prompts.labels, expected.prompts.labels)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(found.contrast, expected.contrast, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.prompts.similarity, expected.prompts.similarity, atol=1e-3, rtol=1e-3)


def test_outcomes_say_how_each_photo_fared_and_no_more(cached_run):
    folder, _ = cached_run
    outcomes = read_outcomes(folder, "tokens", 0)
    assert [(one.index, one.image_id, one.status) for one in outcomes] == [
        (0, "p0", "ok"), (1, "p1", "ok"), (2, "p2", "no_face"),
    ]  # fmt: skip
    for one in outcomes:
        assert one == Outcome(one.index, one.image_id, one.status, seconds=one.seconds)  # no faces, no size


@pytest.mark.parametrize("tokens", ["float16", "float32"])
def test_the_cache_holds_what_its_arrays_say(run, tokens):
    context = with_settings(run[1], "training", tokens=tokens)
    do("tokens", context)
    cache = context.run / "tokens.zarr"
    raw, prompts, similarity = (store.read_rows(cache, name, slice(0, 3)) for name in ("raw", "prompts", "similarity"))
    assert (raw.shape, raw.dtype) == ((3, 8, 8, 32), tokens)
    assert (prompts.shape, prompts.dtype, similarity.dtype) == ((3, 8, 8), np.int8, tokens)
    assert set(np.unique(prompts[0])) == {0, 1, 2}
    assert not raw[1:].any()  # a face without a region, and a photo without a face
    assert not prompts[1:].any()
