"""The face region: the same at every size of the frame, and complete where a parser stops at what covers the face."""

import cv2
import numpy as np
import pytest
import torch

from s3pot_batch.stages.method import region
from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.edges import cut_along_edges
from s3pot_batch.stages.method.parsing import MOST, FaceParser
from s3pot_batch.stages.method.references import differs
from s3pot_batch.stages.method.region import BOUND, CORE, LARGE, dilated, disc, face_region
from s3pot_batch.stages.models.protocols import Detection
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings

SKIN = CELEBM.ids(("face",))


def oval(side, axes=(0.26, 0.34)):
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return ((x - 0.5) / axes[0]) ** 2 + ((y - 0.56) / axes[1]) ** 2 < 1


def parsed(skin):
    """Class probabilities of a parser that is sure of itself: face or background."""
    probabilities = np.zeros((len(CELEBM.classes), *skin.shape), np.float32)
    probabilities[SKIN[0]], probabilities[0] = skin, ~skin
    return probabilities


def likely(skin):
    return skin.astype(np.float32)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def shrunk(mask):
    return cv2.resize(mask.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA) > 0.5


@pytest.mark.parametrize("side", [512, 1024])
def test_a_large_frame_has_the_region_of_a_small_one(side):
    def seen(size):
        skin = oval(size)
        skin[int(0.5 * size) : int(0.58 * size), : int(0.6 * size)] = False  # a finger's width across
        return skin

    large, small = face_region(likely(seen(side))), face_region(likely(seen(256)))
    assert iou(shrunk(large), small) > 0.99
    assert large[seen(side)].all()  # every pixel that was parsed, with its own edge


def test_a_region_of_nothing_is_empty_even_if_completed():
    for side in (256, 512):
        assert not face_region(likely(np.zeros((side, side), bool)), complete=True).any()


@pytest.mark.parametrize("side", [256, 512])
def test_a_covered_chin_is_part_of_a_completed_region(side):
    seen = oval(side)
    seen[int(0.62 * side) :] = False  # a mask, which the parser calls something else
    truth = oval(side)
    cut, complete = (face_region(likely(seen), complete=complete) for complete in (False, True))
    assert iou(cut, truth) < 0.7
    assert iou(complete, truth) > 0.85
    assert complete[round(0.8 * side), side // 2]
    corners = (CORE.mean(0) + 0.98 * (CORE - CORE.mean(0))) * side
    assert all(complete[int(y), int(x)] for x, y in corners)


@pytest.mark.parametrize("radius", [LARGE, 31])
def test_a_wide_dilation_is_that_of_a_disc(radius):
    mask = oval(256)
    mask[10, 10] = True
    grown = dilated(mask, radius)
    expected = cv2.dilate(mask.astype(np.uint8), disc(radius)) > 0
    inner, outer = (cv2.dilate(mask.astype(np.uint8), disc(radius + n)) > 0 for n in (-1, 1))
    assert iou(grown, expected) > 0.985
    assert not (inner & ~grown).any()
    assert not (grown & ~outer).any()
    assert not dilated(np.zeros((256, 256), bool), radius).any()


def test_a_large_frame_is_cut_along_the_same_edges():
    rng = np.random.default_rng(0)
    side = 768
    reference = (np.full((side, side, 3), (200, 150, 130)) + rng.integers(-6, 7, (side, side, 3))).astype(np.uint8)
    photo, truth = reference.copy(), np.zeros((side, side), bool)
    truth[240:520, 200:480] = True
    photo[truth] = (30, 60, 160)
    decoded = cv2.GaussianBlur(np.roll(truth, (12, 12), (0, 1)).astype(np.float32), (0, 0), 20)
    cut = cut_along_edges(photo, reference, np.ones((side, side), bool), decoded, 0.5)
    assert set(np.unique(cut)) == {0.0, 1.0}
    assert iou(cut > 0.5, truth) > 0.97


def test_a_large_reference_differs_where_a_small_one_does():
    def marked(side):
        reference = np.full((side, side, 3), 120, np.uint8)
        photo = reference.copy()
        photo[side // 4 : side // 2, side // 4 : side // 2] = 20
        return differs(photo, reference, ReferenceSettings())

    assert iou(shrunk(marked(1024)), marked(256)) > 0.97


def test_a_texture_finer_than_what_is_looked_at_is_no_difference():
    photo = np.full((4 * BOUND, 4 * BOUND, 3), 127, np.uint8)
    stripes = np.tile(np.array([-60, 60, 60, -60]), BOUND)[:, None]
    assert not differs(photo, (photo + stripes).astype(np.uint8), ReferenceSettings()).any()
    assert differs(photo, (photo + abs(stripes)).astype(np.uint8), ReferenceSettings()).all()


def aligned(side):
    """A face that fills a photo of 400 pixels."""
    points = np.array([[140, 170], [260, 170], [200, 230], [150, 300], [250, 300]], float)
    return AlignedFace.drawn(np.full((400, 400, 3), 90, np.uint8), Detection((0, 0, 400, 400), 1.0, points), side)


class Watched:
    """A parser that notes the frames and landmarks that it is asked about."""

    taxonomy = CELEBM

    def parse(self, frames, landmarks):
        self.frames, self.landmarks = frames, landmarks
        return np.stack([parsed(oval(frames.shape[1])) for _ in frames])


@pytest.mark.parametrize("side", [BOUND, MOST, 1024])
def test_a_parser_looks_at_no_more_than_it_needs(side):
    watched = Watched()
    [found] = FaceParser(watched, CELEBM.face).parse([aligned(side)])
    size = min(side, MOST)
    assert watched.frames.shape == (1, size, size, 3)
    np.testing.assert_allclose(watched.landmarks[0], aligned(side).landmarks * size / side)
    assert found.parsing.shape == found.region.shape == (side, side)
    assert iou(found.region, oval(side)) > 0.98
    assert found.confidence == 1.0


def test_a_smaller_map_has_the_mean_of_what_each_pixel_covers():
    stripes = np.zeros((4 * BOUND, 4 * BOUND), np.float32)
    stripes[::4] = 1
    np.testing.assert_allclose(region.shrunk(stripes), 0.25)


class Given:
    """A parser that gives what it was given."""

    taxonomy = CELEBM

    def __init__(self, found):
        self.found = found

    def parse(self, *_):
        return self.found


def test_maps_on_a_card_are_reduced_there_to_what_is_asked_of_them():
    found = np.random.default_rng(0).dirichlet(np.ones(19), (2, 8, 8)).astype(np.float32).transpose(0, 3, 1, 2)

    parser = FaceParser(Given(found), CELEBM.face)
    for there, here in zip(parser.maps([aligned(8)] * 2), parser._reduced(torch.from_numpy(found)), strict=True):
        assert (there.labels == here.labels).all()
        assert here.labels.dtype == np.uint8
        assert (there.surest == here.surest).all()
        np.testing.assert_allclose(there.face, here.face, rtol=1e-6)
