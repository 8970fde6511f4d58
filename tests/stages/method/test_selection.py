import torch

from s3pot_batch.stages.method.enhancement import Enhanced, token_region
from s3pot_batch.stages.method.selection import select_prompts
from s3pot_batch.stages.models.windows import TokenWindow


def enhanced(raw, reference, window=None):
    return Enhanced(torch.zeros(4, 4), torch.zeros(2), raw, reference, window or TokenWindow.whole(4))


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


def test_a_match_below_the_least_similarity_is_none():
    features = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    other = features.clone()
    other[6] = -features[6]
    region = inside(5, 6, 9, 10)
    published = select_prompts(enhanced(other, features), region).labels
    strict = select_prompts(enhanced(other, features), region, min_similarity=0.99).labels
    assert strict.tolist() == [1, 0, 1, 1]
    assert (strict <= published).all()


def test_similarity_is_the_cosine_of_the_match():
    features = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    other = features.clone()
    other[6] = -features[6]
    prompts = select_prompts(enhanced(other, features), inside(5, 6, 9, 10))
    torch.testing.assert_close(prompts.similarity[[0, 2, 3]], torch.ones(3))
    assert prompts.similarity[1] < 0.99
    assert prompts.similarity.min() >= -1


def test_a_match_is_sought_within_reach():
    reference = torch.eye(17)[:16]
    raw = reference.clone()
    raw[[5, 10]] = reference[[10, 5]]  # each looks like the other's place, a diagonal step away
    swapped = enhanced(raw, reference)
    assert select_prompts(swapped, inside(5, 10)).labels.tolist() == [1, 1]
    near = select_prompts(swapped, inside(5, 10), min_similarity=0.5, reach=0.25)
    assert near.labels.tolist() == [1, 1]
    assert select_prompts(swapped, inside(5, 10), min_similarity=0.5, reach=0.2).labels.tolist() == [0, 0]


def test_in_a_window_its_tokens_are_matched_and_named_as_the_frames_are():
    window = TokenWindow(4, slice(1, 4), slice(1, 3))  # cells 5 6, 9 10, 13 14
    reference = torch.eye(7)[:6]
    raw = reference.clone()
    raw[[0, 3]] = reference[[3, 0]]  # cells 5 and 10, a diagonal step apart
    raw[5] = torch.eye(7)[6]
    swapped, region = enhanced(raw, reference, window), inside(5, 9, 10, 14)
    prompts = select_prompts(swapped, region, min_similarity=0.5)
    assert (prompts.cells.tolist(), prompts.labels.tolist()) == ([5, 9, 10, 14], [1, 1, 1, 0])
    near = select_prompts(swapped, region, min_similarity=0.5, reach=0.2)
    assert near.labels.tolist() == [0, 1, 0, 0]
