from dataclasses import replace

import pytest
import torch

from stages.models.catalog import EMBEDDED, load
from stages.segmentation.enhancement import Enhanced, enhance, token_region
from stages.segmentation.network import S3POT
from stages.segmentation.selection import PromptSelector, select_prompts


def enhanced(raw, reference):
    return Enhanced(torch.zeros(4, 4), torch.zeros(2), raw, reference)


def inside(*cells):
    region = torch.zeros(16, dtype=torch.bool)
    region[list(cells)] = True
    return region.view(4, 4)


def test_a_raw_token_without_a_partner_is_occlusion():
    reference = torch.eye(17)[:16]
    raw = reference.clone()
    raw[6] = torch.eye(17)[16]  # resembles nothing in the reference
    raw[0] = reference[6]  # outside M, and just what the hidden token should look like
    prompts = select_prompts(enhanced(raw, reference), inside(5, 6, 9, 10))
    assert prompts.cells.tolist() == [5, 6, 9, 10]
    assert prompts.labels.tolist() == [1, 0, 1, 1]


def test_identical_features_make_every_point_a_face_point():
    features = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    prompts = select_prompts(enhanced(features, features), inside(1, 2, 3, 8))
    assert prompts.labels.dtype == torch.float32
    assert prompts.labels.tolist() == [1] * 4


def test_every_token_of_the_region_is_a_point_once(network, tokens, region):
    prompted = network.prompt(tokens[0], tokens[1], region)
    assert prompted.prompts.cells.tolist() == token_region(region, 8).flatten().nonzero()[:, 0].tolist()
    assert set(prompted.prompts.labels.tolist()) <= {0.0, 1.0}


def test_length_of_features_does_not_matter():
    features = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    other = features + 0.5 * torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    region = inside(4, 5, 6, 7, 9)
    short, long = (select_prompts(enhanced(scale * features, other), region).labels for scale in (1.0, 64.0))
    assert torch.equal(short, long)


def test_the_selector_has_the_papers_size():
    assert sum(p.numel() for p in PromptSelector(256).parameters()) == 4 * 256 * 256 + 4 * 256 + 2 * 256  # 264 k


@pytest.fixture
def selector():
    """One that is no longer as it started."""
    selector, rng = PromptSelector(32).eval(), torch.Generator().manual_seed(5)
    for parameter in selector.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng)
    return selector


def test_the_selector_keeps_shape_and_is_equivariant_to_the_points_order(selector):
    prompts = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    found = selector(prompts)
    assert found.shape == prompts.shape
    torch.testing.assert_close(selector(prompts[:, order]), found[:, order])


def test_an_untrained_selector_leaves_the_shipped_segmenters_points_nearly_as_they_are():
    sam = load(EMBEDDED.segmenter, "cpu")
    points = torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(0)) * 128
    prompts, _ = sam.prompt_encoder(points=(points, torch.arange(20)[None] % 2), boxes=None, masks=None)
    found = PromptSelector.untrained(sam)(prompts)
    assert (found - prompts).norm() < 0.2 * prompts.norm()


def test_padding_changes_no_other_prompt(selector):
    prompts = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 5:] = True
    found = selector(prompts, padding)
    torch.testing.assert_close(found[0, :5], selector(prompts[:1, :5])[0])
    torch.testing.assert_close(found[1], selector(prompts[1:])[0])
    assert not torch.allclose(found[0, :5], selector(prompts[:1])[0, :5])


def test_a_match_below_the_least_similarity_is_none():
    features = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    other = features.clone()
    other[6] = -features[6]
    region = inside(5, 6, 9, 10)
    published = select_prompts(enhanced(other, features), region).labels
    strict = select_prompts(enhanced(other, features), region, min_similarity=0.99).labels
    assert strict.tolist() == [1, 0, 1, 1]
    assert (strict <= published).all()


def test_a_match_is_sought_within_reach():
    reference = torch.eye(17)[:16]
    raw = reference.clone()
    raw[[5, 10]] = reference[[10, 5]]  # each looks like the other's place, a diagonal step away
    swapped = enhanced(raw, reference)
    assert select_prompts(swapped, inside(5, 10)).labels.tolist() == [1, 1]
    near = select_prompts(swapped, inside(5, 10), min_similarity=0.5, reach=0.25)
    assert near.labels.tolist() == [1, 1]
    assert select_prompts(swapped, inside(5, 10), min_similarity=0.5, reach=0.2).labels.tolist() == [0, 0]


def settled(network, **settings):
    return S3POT(network.sam, network.selector, replace(network.settings, **settings))


def test_asking_for_the_occlusion_swaps_labels_and_answers_with_the_visible_face(network, tokens, region):
    prompted = network.prompt(tokens[0], tokens[1], region)
    face = network([prompted])[0].logits.detach()
    turned = settled(network, target="occlusion")([prompted])[0].logits.detach()
    both = settled(network, target="both")([prompted])[0].logits.detach()
    prompted.prompts.labels.mul_(-1).add_(1)
    torch.testing.assert_close(turned, -network([prompted])[0].logits.detach())
    torch.testing.assert_close(both, (face + turned) / 2)
    assert face.shape == (32, 32)


def test_fe_and_the_selector_can_be_left_out(network, tokens, region):
    features = enhance(network.sam, tokens[0], tokens[1], token_region(region, 8), conditioned=False)
    assert torch.equal(features.raw, tokens[0].flatten(1).T)
    plain = settled(network, enhance=False).prompt(tokens[0], tokens[1], region)
    assert torch.equal(plain.prompts.labels, select_prompts(features, token_region(region, 8)).labels)
    as_they_are = settled(network, reweight=False)([plain])[0].logits
    assert not torch.allclose(as_they_are, network([plain])[0].logits)
