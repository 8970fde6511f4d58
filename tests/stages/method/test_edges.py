"""GrabCut moves a mask's edge to the photo's, and only where the decoder was unsure."""

import cv2
import numpy as np
import pytest

from s3pot_batch.stages.method.edges import cut_along_edges, grabcut

REGION = np.ones((64, 64), bool)
REGION[:4] = False
SKIN = np.full((64, 64, 3), (200, 150, 130), np.uint8)


@pytest.fixture
def photo():
    """Skin with a blue square in front, 64×64."""
    noise = np.random.default_rng(0).integers(-6, 7, (64, 64, 3))
    picture = np.full((64, 64, 3), (200, 150, 130))
    picture[20:44, 16:40] = (30, 60, 160)
    return (picture + noise).astype(np.uint8)


def soft(rows, columns):
    """A decoder's answer: sure in the middle of a rectangle, unsure around it."""
    occlusion = np.zeros((64, 64), np.float32)
    y, x = np.mgrid[:64, :64]
    outside = np.maximum(np.maximum(rows[0] - y, y - rows[1] + 1), np.maximum(columns[0] - x, x - columns[1] + 1))
    return (occlusion + 1 / (1 + np.exp(outside.astype(np.float32)))) * REGION


def test_a_soft_mask_ends_where_the_thing_ends(photo):
    decoded = soft((17, 47), (18, 38))  # too high and too narrow
    cut = cut_along_edges(photo, SKIN, REGION, decoded, 0.5) > 0.5
    truth = np.zeros((64, 64), bool)
    truth[20:44, 16:40] = True
    assert (cut & truth).sum() / (cut | truth).sum() > 0.97 > ((decoded > 0.5) & truth).sum() / (truth.sum())


def test_a_larger_frame_is_cut_as_the_same_picture_would_be_at_256_pixels(photo):
    decoded = soft((17, 47), (18, 38))
    region = REGION.copy()
    region[:, :19] = False  # through the square

    def cut_at(side):
        large = [cv2.resize(one, (side, side), interpolation=cv2.INTER_NEAREST) for one in (photo, SKIN, decoded)]
        inside = cv2.resize(region.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
        return cut_along_edges(large[0], large[1], inside, large[2] * inside, 0.5), inside

    cut, inside = cut_at(512)
    expected = np.kron(cut_at(256)[0], np.ones((2, 2))) > 0.5
    assert cut.shape == (512, 512)
    assert ((cut > 0.5) & expected).sum() / ((cut > 0.5) | expected).sum() > 0.98
    assert not cut[~inside].any()
    assert cut[168:344, 154:312].mean() > 0.9


def test_what_the_decoder_is_sure_of_stays(photo):
    decoded = np.where(soft((20, 44), (16, 40)) > 0.5, 0.5, 0.0).astype(np.float32)
    decoded[46:54, 46:54] = 1.0  # skin, by its colour
    cut = cut_along_edges(photo, SKIN, REGION, decoded, 0.4) > 0.5
    assert cut[47:53, 47:53].all()  # the corners of a square are thin parts
    assert not cut[56:].any()


def test_of_a_hand_that_colours_do_not_tell_from_the_face_the_decoders_word_stands():
    skin = (SKIN + np.random.default_rng(1).integers(-6, 7, SKIN.shape)).astype(np.uint8)
    skin[:18, 40:] = (30, 60, 160)  # something else of another colour, of which the decoder is surer
    decoded = np.zeros((64, 64), np.float32)
    decoded[30:54, 10:34] = 0.7
    decoded[6:18, 44:60] = 0.8
    cut = cut_along_edges(skin, SKIN, REGION, decoded, 0.5) > 0.5
    assert cut[30:54, 10:34].mean() > 0.98  # all but its corners


def test_a_thin_frame_is_what_differs_from_the_reference():
    reference = np.random.default_rng(1).integers(-6, 7, (256, 256, 3)) + SKIN[0, 0]
    truth, decoded = np.zeros((2, 256, 256), np.uint8)
    cv2.circle(truth, (128, 128), 60, 1, 3)
    cv2.circle(decoded, (128, 128), 60, 1, 14)  # sure of itself, and far too thick
    photo = np.where(truth[..., None] > 0, 40, reference).astype(np.uint8)
    occlusion = 0.99 * decoded.astype(np.float32)
    cut = cut_along_edges(photo, reference.astype(np.uint8), np.ones((256, 256), bool), occlusion, 0.5) > 0.5
    assert (cut & (truth > 0)).sum() / (cut | (truth > 0)).sum() > 0.9


def test_a_hair_thin_line_of_the_hairs_own_colour_is_not_cut_off():
    reference = np.random.default_rng(1).integers(-45, 46, (256, 256, 1)) + SKIN[0, 0]  # a rough skin
    reference = reference.clip(0, 255)
    reference[:40], reference[200:] = reference[:40] * 0.4, reference[200:] * 0.4  # hair, coloured as the line
    truth, decoded = np.zeros((2, 256, 256), np.uint8)
    cv2.ellipse(truth, (128, 115), (70, 50), 0, 0, 300, 1, 2)
    cv2.ellipse(decoded, (128, 115), (70, 50), 0, 0, 300, 1, 12)
    photo = np.where(truth[..., None] > 0, reference * 0.4, reference).astype(np.uint8)
    occlusion = 0.8 * decoded.astype(np.float32)
    cut = cut_along_edges(photo, reference.astype(np.uint8), np.ones((256, 256), bool), occlusion, 0.5) > 0.5
    assert cut[truth > 0].mean() > 0.9
    assert not cut[cv2.dilate(truth, np.ones((5, 5), np.uint8)) == 0].any()


def test_nothing_outside_the_region_is_marked(photo):
    photo[:12] = photo[30, 30]
    cut = cut_along_edges(photo, SKIN, REGION, soft((0, 14), (0, 64)), 0.5) > 0.5
    assert cut[5:10].all()
    assert not cut[~REGION].any()


def test_a_thing_that_goes_on_outside_the_face_is_not_taken_for_its_background(photo):
    photo[20:44, 40:50] = photo[20:44, 16:26]
    region = REGION.copy()
    region[:, 36:] = False
    decoded = np.where(region, np.minimum(soft((18, 46), (14, 50)), 0.9), 0).astype(np.float32)  # nowhere sure
    cut = cut_along_edges(photo, SKIN, region, decoded, 0.5) > 0.5
    assert cut[22:42, 18:36].mean() > 0.95
    assert not cut[~region].any()


def test_nothing_found_stays_nothing(photo):
    empty = np.full((64, 64), 0.3, np.float32)
    assert cut_along_edges(photo, SKIN, REGION, empty, 0.5) is empty


def test_a_wholly_hidden_photo_is_no_error(photo):
    everywhere = np.full((64, 64), 0.9, np.float32)
    assert (cut_along_edges(photo, SKIN, np.ones((64, 64), bool), everywhere, 0.5) == 1).all()


def test_the_same_labels_give_the_same_cut(photo):
    labels = np.where(soft((10, 50), (10, 50)) > 0.3, 3, 2).astype(np.uint8)
    first = grabcut(photo, labels)
    assert 0 < first.sum() < first.size
    assert (grabcut(photo, labels) == first).all()
