import pytest
import torch

from s3pot_batch.stages.method.enhancement import attended, enhance, token_centres, token_region


def test_the_region_is_sampled_at_token_centres():
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[20, 44] = True  # the centre of token (row 2, column 5) of 8×8
    assert token_region(region, 8).nonzero().tolist() == [[2, 5]]
    assert token_region(torch.ones(256, 256, dtype=torch.bool), 8).all()


def test_centres_are_xy_as_fractions_of_the_frame():
    centres = token_centres(8)
    assert (centres[2 * 8 + 5] * 64).tolist() == [44.0, 20.0]


def test_contrast_is_one_where_photo_and_reference_agree(segmenter, tokens):
    inside = torch.ones(8, 8, dtype=torch.bool)
    same = enhance(segmenter, tokens[0], tokens[0], inside)
    torch.testing.assert_close(same.contrast, torch.ones(8, 8))
    assert torch.equal(same.raw, same.reference)
    assert (enhance(segmenter, tokens[0], -tokens[0], inside).contrast < -0.999).all()


def test_the_initial_prompt_is_the_best_agreeing_token_inside(segmenter, tokens, region):
    inside = token_region(region, 8)
    reference = -tokens[0]
    reference[:, 0, 0] = tokens[0][:, 0, 0]  # agrees best, but lies outside M
    reference[:, 3, 4] = tokens[0][:, 3, 4] + 0.01
    assert not inside[0, 0]
    assert enhance(segmenter, tokens[0], reference, inside).initial.mul(64).tolist() == [36.0, 28.0]


@torch.no_grad()
def test_features_are_those_that_the_mask_decoder_decodes(sam, segmenter, tokens):
    point = torch.tensor([36.0, 28.0])
    seen = []
    handle = sam.mask_decoder.transformer.register_forward_hook(lambda _module, _given, found: seen.append(found[1]))
    sparse, dense = sam.prompt_encoder(points=(point.view(1, 1, 2), torch.ones(1, 1)), boxes=None, masks=None)
    for image in tokens:
        sam.mask_decoder.predict_masks(image[None], sam.prompt_encoder.get_dense_pe(), sparse, dense)
    handle.remove()
    found = attended(segmenter, tokens, point / 64)
    assert found.shape == (2, 64, 32)
    torch.testing.assert_close(found, torch.cat(seen))


def test_a_region_without_a_token_is_refused(segmenter, tokens):
    with pytest.raises(ValueError, match="no token"):
        enhance(segmenter, tokens[0], tokens[1], torch.zeros(8, 8, dtype=torch.bool))
