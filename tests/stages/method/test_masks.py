"""From pairs to masks in the frame, and into the photo."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from s3pot_batch.stages.method.alignment import Alignment
from s3pot_batch.stages.method.masks import (
    SPECKS,
    FaceMask,
    decode_pairs,
    draw,
    nothing_hidden,
    paste,
    prompt_map,
    ratio,
    to_frame,
)
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.pairs import Pair, encode_pair
from s3pot_batch.stages.method.selection import Prompts
from s3pot_batch.stages.settings import SegmentSettings

PLACE = Alignment(np.array([[1.0, 0, -10], [0, 1, -20]]), 64)
"""Where a frame lies whose corner is the photo's pixel x 10, y 20."""


@pytest.fixture
def pair(face_pair):
    return face_pair


@pytest.fixture
def nothing(face_pair):
    """A pair whose face region is empty."""
    return replace(face_pair, region=np.zeros((64, 64), bool))


def test_what_is_decoded_is_zero_outside_the_region(network, pair):
    [found] = decode_pairs(network, [pair])
    assert {array.shape for array in (found.occlusion, found.contrast, found.prompts)} == {(64, 64)}
    assert (found.occlusion.dtype, found.contrast.dtype, found.prompts.dtype) == (np.float32, np.float32, np.int8)
    assert not found.occlusion[~pair.region].any()


def test_what_the_decoder_takes_for_face_is_not_hidden(network, pair):
    [segmentation] = network([encode_pair(network, pair).prompted])
    [found] = decode_pairs(network, [pair])
    seen = to_frame(segmentation.logits.detach(), 64) > 0
    assert 0 < seen[pair.region].mean() < 1
    assert ((found.occlusion < 0.5) == seen)[pair.region].all()


def test_a_mask_is_what_was_decoded(network, pair):
    [found] = decode_pairs(network, [pair])
    mask = draw(pair, found.occlusion, network.settings)
    assert mask.occlusion.dtype == np.float32
    assert (mask.occlusion == found.occlusion).all()
    assert 0 <= mask.occlusion.min() < mask.occlusion.max() <= 1
    assert mask.region is pair.region


def test_contrast_marks_what_differs(network, pair):
    [mask] = decode_pairs(network, [pair])
    assert mask.contrast[28:48, 20:40].mean() > 2 * mask.contrast[:20].mean()


def test_prompts_stand_at_their_tokens_centres(network, pair):
    [mask] = decode_pairs(network, [pair])
    prompts = encode_pair(network, pair).prompted.prompts
    y, x = np.nonzero(mask.prompts)
    assert (y % 8 == 4).all()
    assert (x % 8 == 4).all()
    assert sorted(y // 8 * 8 + x // 8) == prompts.cells.tolist()
    assert (mask.prompts == 1).sum() == prompts.labels.sum()
    assert (mask.prompts == 2).sum() == (1 - prompts.labels).sum()


def test_one_batch_or_one_after_the_other_is_the_same(network, pair, nothing):
    mirrored = Pair(pair.raw[:, ::-1].copy(), pair.reference[:, ::-1].copy(), pair.region)
    pairs = [pair, nothing, mirrored]
    together = decode_pairs(network, pairs)
    for one, found in zip(pairs, together, strict=True):
        [alone] = decode_pairs(network, [one])
        np.testing.assert_allclose(found.occlusion, alone.occlusion, atol=1e-5)
        assert (found.prompts == alone.prompts).all()
        assert found.predicted_iou == pytest.approx(alone.predicted_iou, abs=1e-5)


def test_a_face_without_a_region_has_an_empty_mask(network, nothing):
    [found] = decode_pairs(network, [nothing])
    mask = draw(nothing, found.occlusion, network.settings)
    for array in (found.occlusion, found.contrast, found.prompts, mask.occlusion, mask.region):
        assert not array.any()
    assert found.predicted_iou == 0
    assert decode_pairs(network, []) == []


def test_a_network_of_its_own_for_every_face(network, pair, nothing):
    asked = []

    def own(n, prompted):
        asked.append((n, len(prompted.prompts.cells)))
        return S3POT(network.segmenter, None, network.settings)

    masks = decode_pairs(network, [nothing, pair], own)
    assert asked == [(1, len(encode_pair(network, pair).prompted.prompts.cells))]  # the empty one needs none
    [plain] = decode_pairs(S3POT(network.segmenter, None, network.settings), [pair])
    assert np.array_equal(masks[1].occlusion, plain.occlusion)
    assert not np.array_equal(masks[1].occlusion, decode_pairs(network, [pair])[0].occlusion)


def test_edges_are_cut_by_the_settings(network, pair):
    [found] = decode_pairs(network, [pair])
    mask, soft = (draw(pair, found.occlusion, SegmentSettings(edges=edges)) for edges in ("grabcut", "decoder"))
    assert set(np.unique(mask.occlusion)) <= {0.0, 1.0}
    assert len(np.unique(soft.occlusion)) > 2


class Always:
    """A refiner that calls every pixel, M or not, as surely hidden."""

    def __init__(self, surely):
        self.surely = surely

    def refine(self, decisions):
        return np.stack([np.full(one.region.shape, self.surely, np.float32) for one in decisions])


def decoded_bar(pair):
    """Four rows of M's middle are hidden, and all of M might be."""
    occlusion = np.where(pair.region, np.float32(0.2), np.float32(0))
    occlusion[30:34] = np.where(pair.region[30:34], np.float32(0.9), np.float32(0))
    return occlusion


def test_a_refiner_moves_the_edges_of_what_was_decoded_and_finds_nothing_else(pair):
    occlusion, settings = decoded_bar(pair), SegmentSettings(refine=True)
    more = draw(pair, occlusion, settings, Always(0.75)).occlusion
    rows = slice(28, 36)  # of 64, so that a thirty-second of the side is two pixels
    assert more[rows][pair.region[rows]] == pytest.approx((0.75 + occlusion[rows][pair.region[rows]]) / 2)
    assert more[36:][pair.region[36:]] == pytest.approx(0.2)
    less = draw(pair, occlusion, settings, Always(0.1)).occlusion
    assert less[pair.region] == pytest.approx((0.1 + occlusion[pair.region]) / 2)
    assert not more[~pair.region].any()


def test_a_refiner_is_asked_only_where_something_was_decoded_and_the_settings_say_so(pair):
    occlusion, nothing = decoded_bar(pair), np.where(pair.region, np.float32(0.2), np.float32(0))
    assert (draw(pair, occlusion, SegmentSettings(), Always(0.75)).occlusion == occlusion).all()
    assert (draw(pair, nothing, SegmentSettings(refine=True), Always(0.75)).occlusion == nothing).all()
    with pytest.raises(ValueError, match="there is no refiner"):
        draw(pair, occlusion, SegmentSettings(refine=True))


def test_specks_are_no_thing_and_no_refiner_is_asked_of_them(pair):
    speck, more = (np.where(pair.region, np.float32(0.2), np.float32(0)) for _ in range(2))
    speck[32, 30:32] = 0.9
    more[32, 30:40] = 0.9
    assert ratio(speck > 0.5, pair.region) < SPECKS < ratio(more > 0.5, pair.region)
    cleared = draw(pair, speck, SegmentSettings(refine=True), Always(0.75)).occlusion
    assert (cleared == np.where(speck > 0.5, 0, speck)).all()
    assert (draw(pair, more, SegmentSettings(refine=True), Always(0.75)).occlusion > 0.5).any()
    assert (draw(pair, speck, SegmentSettings(), None).occlusion > 0.5).sum() == 2, "it is the refiner's step"


def test_a_prompt_map_tells_face_from_occlusion():
    prompts = Prompts(torch.tensor([0, 3, 4]), torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3))
    assert prompt_map(prompts, 3).tolist() == [[1, 0, 0], [2, 1, 0], [0, 0, 0]]


def face(occlusion, region):
    return FaceMask(occlusion, region)


def test_masks_are_pasted_where_the_face_is():
    occlusion, region = np.zeros((64, 64), np.float32), np.zeros((64, 64), bool)
    region[8:56, 8:56] = True
    occlusion[16:32, 8:56], occlusion[32:40, 8:56] = 0.9, 0.4
    pasted = paste(face(occlusion, region), PLACE, (100, 90), threshold=0.5)
    assert pasted.region.shape == pasted.occlusion.shape == pasted.probability.shape == (100, 90)
    assert (np.argwhere(pasted.region).min(0) == [28, 18]).all()
    assert (np.argwhere(pasted.region).max(0) == [75, 65]).all()
    assert pasted.occlusion[36:52, 18:66].all()
    assert pasted.occlusion.sum() == 16 * 48
    assert pasted.probability[55, 30] == pytest.approx(0.4)
    assert not pasted.probability[~pasted.region].any()
    assert pasted.occlusion_ratio == pytest.approx(16 / 48)


def test_what_lies_outside_the_photo_is_cut_off():
    whole = np.ones((64, 64), bool)
    pasted = paste(face(whole.astype(np.float32), whole), PLACE, (40, 30), threshold=0.5)
    assert pasted.region.sum() == pasted.occlusion.sum() == 20 * 20
    assert pasted.occlusion_ratio == 1


def test_nothing_of_nothing_is_zero(nothing):
    pasted = paste(draw(nothing, nothing_hidden(nothing).occlusion, SegmentSettings()), PLACE, (100, 90), threshold=0.5)
    assert not pasted.region.any()
    assert pasted.occlusion_ratio == 0
    assert ratio(np.ones(3, bool), np.ones(4, bool)) == 0.75
