import numpy as np
import pytest
import torch

from manifests.plan import read_plan
from stages import store
from stages.errors import ConfigError
from stages.models.catalog import EMBEDDED, PAPER, load, token_shape
from stages.models.profiles import PartSpec
from stages.segmentation.network import S3POT
from stages.segmentation.pairs import encode_pair, read_pair
from stages.segmentation.selection import PromptSelector
from stages.segmentation.tokens import CachedPairs
from stages.segmentation.training import train
from tests.stages.conftest import cache_tokens, with_settings


def fresh(context):
    torch.manual_seed(1)
    return S3POT(load(context.profile.segmenter, "cpu"), PromptSelector(32), context.settings.segments)


def in_memory(run, context):
    """What training would read without a cache."""
    network = fresh(context)
    encoded = [encode_pair(network, read_pair(run, row)) for row in store.filled_rows(run, read_plan(run))]
    return [one.prompted for one in encoded if one is not None]


def losses(pairs, context, folder):
    return train(fresh(context), pairs, context.settings.training, seed=3, state=folder / "s.pt", fingerprint="a")


def test_the_shape_is_known_without_loading(sam):
    assert token_shape(PartSpec("sam_vit", options=(("img_size", 64), ("patch_size", 8), ("out_chans", 32)))) == (32, 8)
    assert token_shape(PAPER.segmenter) == (256, 64)
    prompts = load(EMBEDDED.segmenter, "cpu").prompt_encoder
    assert token_shape(EMBEDDED.segmenter) == (prompts.embed_dim, prompts.image_embedding_size[0])
    with pytest.raises(ConfigError, match="no segmenter"):
        token_shape(PartSpec("facer"))


def test_losses_with_a_float32_cache_are_those_without_a_cache(run, tmp_path):
    folder, context = run[0], with_settings(run[1], "training", tokens="float32")
    cache_tokens(folder, context)
    cached = CachedPairs(folder, store.filled_rows(folder, read_plan(folder)), "cpu")
    assert losses(cached, context, tmp_path / "a") == losses(in_memory(folder, context), context, tmp_path / "b")


def test_losses_with_a_float16_cache_differ_by_less_than_a_thousandth(cached_run, tmp_path):
    folder, context = cached_run
    cached = CachedPairs(folder, store.filled_rows(folder, read_plan(folder)), "cpu")
    assert store.read_rows(folder, "tokens.zarr", "raw", [0]).dtype == np.float16
    expected = losses(in_memory(folder, context), context, tmp_path / "b")
    np.testing.assert_allclose(losses(cached, context, tmp_path / "a"), expected, atol=1e-3)


def test_no_epoch_calls_the_encoder(cached_run, tmp_path, monkeypatch):
    folder, context = cached_run
    calls = []
    encoder = load(context.profile.segmenter, "cpu").image_encoder
    handle = encoder.register_forward_hook(lambda *_: calls.append(1))
    cached = CachedPairs(folder, store.filled_rows(folder, read_plan(folder)), "cpu")
    losses(cached, context, tmp_path / "a")
    handle.remove()
    assert not calls


def test_prompts_come_back_as_they_were_found(cached_run):
    folder, context = cached_run
    [expected] = in_memory(folder, context)
    [found] = CachedPairs(folder, store.filled_rows(folder, read_plan(folder)), "cpu")
    assert torch.equal(found.prompts.cells, expected.prompts.cells)
    assert torch.equal(found.prompts.labels, expected.prompts.labels)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(found.contrast, expected.contrast, atol=1e-3, rtol=1e-3)
