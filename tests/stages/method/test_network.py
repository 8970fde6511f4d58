"""The network around the frozen segmenter: what is asked of the decoder, and of how many images at once."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.enhancement import enhance, token_centres, token_region
from s3pot_batch.stages.method.network import S3POT, Prompted, label_map, thinned
from s3pot_batch.stages.method.selection import Prompts, select_prompts
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from tests.stages.models.scored import ScoredSegmenter


class Questions(TorchDispatchMode):
    """Counts what a host would have to wait for on a device: numbers, and tensors whose size hangs on values."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, indices = function.overloadpacket.__name__, args[1] if len(args) > 1 else None
        masks = name.startswith("index") and isinstance(indices, list | tuple)
        by_mask = masks and any(one is not None and one.dtype == torch.bool for one in indices)
        self.count += by_mask or name in {"_local_scalar_dense", "nonzero", "masked_select"}
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_between_tokens_and_logits_a_host_hardly_waits(network, tokens, region):
    plain = settled(network, prompt_step=1, min_similarity=0.7, target="face")
    with Questions() as asked:
        prompted = plain.prompt(tokens[0], tokens[1], region)
        assert asked.count == 3  # is M empty, which tokens are in it, is there a NaN
        plain([prompted, prompted])
        assert asked.count == 3
        assert prompted.prompts.labels[prompted.prompts.labels > 0].sum() >= 0
        assert asked.count > 3


def settled(network, **settings):
    return S3POT(network.segmenter, network.adapter, network.settings.model_copy(update=settings))


@torch.no_grad()
def test_a_batch_gives_the_masks_of_its_images_one_by_one(network, tokens, region):
    pairs = [network.prompt(tokens[0], tokens[1], region), network.prompt(tokens[1], tokens[0], region.roll(9, 1)[:]),
             network.prompt(tokens[0], tokens[1], region & (torch.arange(64) < 30))]  # fmt: skip
    assert len({len(pair.prompts.cells) for pair in pairs}) > 1
    together = network(pairs)
    for pair, found in zip(pairs, together, strict=True):
        alone = network([pair])[0]
        torch.testing.assert_close(found.logits, alone.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.predicted_iou, alone.predicted_iou, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask_prompt", [False, True])
@torch.no_grad()
def test_in_a_window_nothing_counts_but_what_is_in_and_around_the_region(network, tokens, region, mask_prompt):
    windowed = settled(network, window=True, target="both", mask_prompt=mask_prompt)
    small = region & (torch.arange(64) < 26)  # columns 1 and 2 of 8×8 tokens; the window ends behind column 4
    pair = windowed.prompt(tokens[0], tokens[1], small)
    assert torch.equal(pair.prompts.cells, token_region(small, 8).flatten().nonzero()[:, 0])
    assert (pair.window.rows, pair.window.columns) == (slice(0, 8), slice(0, 5))
    [found] = windowed([pair])
    beside, nearer = tokens.clone(), tokens.clone()
    beside[..., 5:] += 9
    nearer[..., 4] += 9
    [same] = windowed([windowed.prompt(beside[0], beside[1], small)])
    assert torch.equal(same.logits, found.logits)
    assert not torch.equal(windowed([windowed.prompt(nearer[0], nearer[1], small)])[0].logits, found.logits)
    assert found.logits.shape == (32, 32)
    assert (found.logits[:, 20:] == found.logits[:, 19:20]).all()


@torch.no_grad()
def test_a_window_as_large_as_the_frame_changes_nothing(network, tokens):
    everywhere = torch.ones(64, 64, dtype=torch.bool)
    whole, windowed = (settled(network, window=window, target="both") for window in (False, True))
    pairs = [whole.prompt(tokens[0], tokens[1], everywhere), windowed.prompt(tokens[0], tokens[1], everywhere)]
    assert torch.equal(pairs[0].prompts.similarity, pairs[1].prompts.similarity)
    assert torch.equal(whole(pairs[:1])[0].logits, windowed(pairs[1:])[0].logits)


@torch.no_grad()
def test_in_windows_a_batch_gives_the_masks_of_its_images_one_by_one(network, tokens, region):
    windowed = settled(network, window=True)
    asked = [(tokens[0], tokens[1], region), (tokens[1], tokens[0], region & (torch.arange(64) < 26))]
    pairs = windowed.prompt_all(asked)
    for pair, one, found in zip(pairs, asked, windowed(pairs), strict=True):
        assert torch.equal(pair.prompts.similarity, windowed.prompt(*one).prompts.similarity)
        assert torch.equal(found.logits, windowed([pair])[0].logits)


def test_a_segmenter_that_knows_no_windows_says_which_setting_asks_for_them(network, tokens, region, sam):
    plain = S3POT(ScoredSegmenter(sam), None, network.settings.model_copy(update={"window": True}))
    with pytest.raises(ConfigError, match=r"ScoredSegmenter knows no windows; set segments\.window = false"):
        plain.prompt(tokens[0], tokens[1], region)


@torch.no_grad()
def test_the_mask_prompt_says_what_the_points_say(network, tokens, region):
    occlusion = settled(network, mask_prompt=True, target="occlusion")
    pair = occlusion.prompt(tokens[0], tokens[1], region)
    flipped = replace(
        pair, prompts=replace(pair.prompts, labels=1 - pair.prompts.labels, similarity=-pair.prompts.similarity)
    )
    asked_for_the_occlusion = -occlusion([pair])[0].logits
    face = settled(network, mask_prompt=True, target="face", adapter=False)
    points = network.segmenter.embed_points(token_centres(8)[pair.prompts.cells][None], pair.prompts.labels[None])
    maps = network.segmenter.embed_maps(label_map(pair, face.settings.min_similarity)[None])
    torch.testing.assert_close(
        face([pair])[0].logits, network.segmenter.decode(pair.tokens[None], points, maps=maps)[0][0]
    )
    face = settled(network, mask_prompt=True, target="face")
    torch.testing.assert_close(face([flipped])[0].logits, asked_for_the_occlusion)
    without = settled(network, mask_prompt=False, target="face")
    assert not torch.equal(face([flipped])[0].logits, without([flipped])[0].logits)


def test_asking_for_the_occlusion_swaps_labels_and_answers_with_the_visible_face(network, tokens, region):
    prompted = network.prompt(tokens[0], tokens[1], region)
    face = network([prompted])[0].logits.detach()
    turned = settled(network, target="occlusion")([prompted])[0].logits.detach()
    both = settled(network, target="both")([prompted])[0].logits.detach()
    prompted.prompts.labels.mul_(-1).add_(1)
    torch.testing.assert_close(turned, -network([prompted])[0].logits.detach())
    torch.testing.assert_close(both, (face + turned) / 2)
    assert face.shape == (32, 32)


def test_fe_and_the_adapter_can_be_left_out(network, tokens, region):
    features = enhance(network.segmenter, tokens[0], tokens[1], token_region(region, 8), conditioned=False)
    assert torch.equal(features.raw, tokens[0].flatten(1).T)
    plain = settled(network, enhance=False).prompt(tokens[0], tokens[1], region)
    assert torch.equal(plain.prompts.labels, select_prompts(features, token_region(region, 8)).labels)
    as_they_are = settled(network, adapter=False)([plain])[0].logits
    assert not torch.allclose(as_they_are, network([plain])[0].logits)
    assert torch.equal(as_they_are, S3POT(network.segmenter, None, network.settings)([plain])[0].logits)


class TestThinnedPrompts:
    """The decoder may be given a part of the prompts."""

    @staticmethod
    def prompts(labels):
        cells = torch.arange(64)
        return Prompts(cells, labels, cells / 64)

    def test_every_second_of_every_second_row_is_left_with_what_belongs_to_it(self):
        labels = torch.arange(64) % 3 % 2
        few = thinned(self.prompts(labels.float()), 8, 2)
        assert few.cells.tolist() == [y * 8 + x for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)]
        assert torch.equal(few.labels, labels[few.cells].float())
        assert torch.equal(few.similarity, few.cells / 64)

    def test_a_step_of_one_leaves_all(self):
        prompts = self.prompts((torch.arange(64) % 2).float())
        assert torch.equal(thinned(prompts, 8, 1).cells, prompts.cells)

    def test_a_kind_that_would_be_lost_keeps_all_its_points(self):
        labels = torch.ones(64)
        labels[[9, 27]] = 0  # in rows that would go
        few = thinned(self.prompts(labels), 8, 2)
        assert few.cells[few.labels == 0].tolist() == [9, 27]
        assert (few.labels == 1).sum() == 16

    @torch.no_grad()
    def test_the_setting_reaches_the_decoder(self, network, tokens, region):
        pair = network.prompt(tokens[0], tokens[1], region)
        few = thinned(pair.prompts, 8, 2)
        assert len(few.cells) < len(pair.prompts.cells)
        found = settled(network, prompt_step=2)([pair])[0].logits
        torch.testing.assert_close(found, network([replace(pair, prompts=few)])[0].logits)
        assert not torch.equal(found, network([pair])[0].logits)


def test_the_settings_of_matching_reach_it(network, tokens, region):
    published = network.prompt(tokens[0], tokens[1], region).prompts
    strict = settled(network, min_similarity=0.999).prompt(tokens[0], tokens[1], region).prompts
    near = settled(network, reach=0.0).prompt(tokens[0], tokens[1], region).prompts
    assert strict.labels.sum() < published.labels.sum()
    assert (strict.labels <= published.labels).all()
    assert not torch.equal(near.similarity, published.similarity)


def test_an_adapter_of_another_width_is_refused(segmenter):
    with pytest.raises(ConfigError, match="the adapter has 64 channels and the segmenter 32; train one") as caught:
        S3POT(segmenter, AttentionAdapter(64))
    assert "\n" not in str(caught.value)


def test_a_region_smaller_than_a_token_is_refused(network, tokens):
    with pytest.raises(ValueError, match="no token"):
        network.prompt(tokens[0], tokens[1], torch.zeros(64, 64, dtype=torch.bool))


def test_pairs_are_prompted_as_a_batch_as_one_by_one(network, tokens, region):
    """Regions of different sizes: the smaller one's matching is filled up."""
    half = region & (torch.arange(64) < 30)
    pairs = [(tokens[0], tokens[1], region), (tokens[1], tokens[0], half), (tokens[0], tokens[1], half)]
    for one, pair in zip(network.prompt_all(pairs), pairs, strict=True):
        alone = network.prompt(*pair)
        assert torch.equal(one.prompts.cells, alone.prompts.cells)
        assert torch.equal(one.prompts.labels, alone.prompts.labels)
        torch.testing.assert_close(one.prompts.similarity, alone.prompts.similarity, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.contrast, alone.contrast)


def test_a_tokens_label_is_the_surer_the_farther_it_is_from_the_threshold():
    prompts = Prompts(torch.tensor([0, 5, 10]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.9, 0.72, 0.1]))
    sure = label_map(Prompted(torch.zeros(2, 4, 4), torch.zeros(4, 4), prompts), threshold=0.7)
    expected = torch.zeros(4, 4)
    expected[0, 0], expected[1, 1], expected[2, 2] = 0.7616, 0.0997, -0.9951  # tanh of 1, 0.1 and −3
    torch.testing.assert_close(sure, expected, atol=1e-4, rtol=0)
