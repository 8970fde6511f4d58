"""The aligned frame, the way back, and what a mirror does to landmarks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pot_batch.stages.method.alignment import (
    MIRROR,
    OUTSIDE,
    AlignedFace,
    Alignment,
    NotAFace,
    moved,
    moved_landmarks,
)
from s3pot_batch.stages.models.protocols import Detection

FACE = np.array([[206.0, 107], [242, 107], [224, 128], [210, 144], [238, 144]])
FLIP = np.array([[-1.0, 0, 511], [0, 1, 0]])
"""Mirrors a photo of 512 px."""


@pytest.fixture(scope="module")
def alignment():
    return Alignment.by_landmarks(FACE, 256)


def test_a_face_comes_to_lie_upright_in_the_middle_of_the_frame(alignment):
    left, right, nose, mouth_left, mouth_right = alignment.to_frame(FACE)
    assert left[0] < 128 < right[0]
    assert left[1] == pytest.approx(right[1], abs=1)
    assert nose[0] == pytest.approx(128, abs=6)
    assert left[1] < nose[1] < mouth_left[1]
    assert mouth_left[0] < nose[0] < mouth_right[0]


def test_a_turned_and_larger_face_lies_where_the_upright_one_does(alignment):
    turn, scale = np.deg2rad(25), 1.7
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0.3], [np.sin(turn), np.cos(turn), -0.2]]) * scale
    turned = Alignment.by_landmarks(moved(FACE, matrix), 256)
    np.testing.assert_allclose(
        turned.to_frame(moved(FACE, matrix)), alignment.to_frame(FACE), atol=1
    )  # facer counts half pixels


@given(st.lists(st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)), min_size=1, max_size=6))
def test_to_the_frame_and_back(alignment, points):
    there = alignment.to_frame(np.array(points))
    np.testing.assert_allclose(alignment.to_photo(there), points, atol=1e-6)


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.tile([3.0, 4.0], (5, 1))])
def test_points_that_do_not_span_a_face_are_refused(landmarks):
    with pytest.raises(NotAFace, match="do not span a face"):
        Alignment.by_landmarks(landmarks, 256)


def test_a_mirror_exchanges_left_and_right_so_that_order_stays_as_seen():
    mirrored = moved_landmarks(FACE, FLIP)
    assert mirrored.tolist() == [[511 - 242, 107], [511 - 206, 107], [511 - 224, 128], [511 - 238, 144],
                                 [511 - 210, 144]]  # fmt: skip
    assert mirrored[0, 0] < mirrored[1, 0]
    assert mirrored[3, 0] < mirrored[4, 0]
    np.testing.assert_array_equal(moved_landmarks(mirrored, FLIP), FACE)
    assert [MIRROR[n] for n in MIRROR] == list(range(5))


@given(st.floats(0.1, 10), st.floats(-np.pi, np.pi), st.tuples(st.floats(-99, 99), st.floats(-99, 99)), st.booleans())
def test_only_what_mirrors_exchanges_them(scale, turn, shift, mirror):
    side = -1 if mirror else 1
    matrix = np.array([
        [side * scale * np.cos(turn), -scale * np.sin(turn), shift[0]],
        [side * scale * np.sin(turn), scale * np.cos(turn), shift[1]],
    ])  # fmt: skip
    plain = moved(FACE, matrix)
    np.testing.assert_array_equal(moved_landmarks(FACE, matrix), plain[list(MIRROR)] if mirror else plain)


def test_a_mirrored_face_lies_in_its_frame_as_the_face_does(alignment):
    mirrored = Alignment.by_landmarks(moved_landmarks(FACE, FLIP), 256)
    assert np.linalg.det(mirrored.matrix[:, :2]) > 0  # no face is turned over
    here, there = alignment.to_frame(FACE), mirrored.to_frame(moved_landmarks(FACE, FLIP))
    np.testing.assert_allclose(there[:, 1], here[list(MIRROR), 1], atol=1)


def test_what_is_drawn_in_the_frame_is_pasted_back_where_it_was(alignment):
    y, x = np.mgrid[:300, :400]
    photo = np.stack([x // 2, y // 2, x * 0 + 7], axis=2).astype(np.uint8)
    frame = alignment.warp(photo)
    assert (frame.shape, frame.dtype) == ((256, 256, 3), np.uint8)
    back = alignment.paste(frame[..., 0].astype(np.float32), (300, 400))
    inside = alignment.paste(np.ones((256, 256), np.float32), (300, 400)) == 1
    assert back.shape == (300, 400)
    assert np.abs(back - photo[..., 0])[inside].max() <= 2
    assert inside[107:144, 206:242].all()
    assert not inside[:, 390:].any()


def test_labels_keep_their_values_and_end_with_the_photo(alignment):
    labels = np.zeros((300, 400), np.uint8)
    labels[:, 200:] = 13
    drawn = alignment.warp_labels(labels)
    assert drawn.shape == (256, 256)
    assert set(np.unique(drawn)) == {0, 13}
    outside = Alignment(np.array([[1.0, 0, 100], [0, 1, 0]]), 256).warp_labels(np.full((300, 400), 5, np.uint8))
    assert not outside[:, :100].any()
    assert (outside[:, 100:] == 5).all()


def test_a_large_photo_is_made_smaller_without_aliasing():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    frame = Alignment(np.array([[0.25, 0, 0], [0, 0.25, 0]]), 256).warp(stripes)
    assert np.abs(frame.astype(int) - 127).max() < 40  # grey, not stripes


class TestBeyondThePhoto:
    """Where a photo ends, its frame is grey, and nothing there is of the photo."""

    AT_THE_EDGE = FACE - (206, 95)
    """Its left eye is in the first column, and its forehead is cut."""

    @pytest.fixture
    def face(self):
        photo = np.random.default_rng(0).integers(0, 100, (160, 200, 3), np.uint8)  # nothing as bright as the grey
        return photo, AlignedFace.drawn(photo, Detection((0.0, 0.0, 40.0, 60.0), 1.0, self.AT_THE_EDGE), 256)

    def test_the_frame_is_grey_there_and_nowhere_else(self, face):
        photo, aligned = face
        x, y = aligned.alignment.to_photo(np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2)).T
        beyond = ((x < -1) | (y < -1) | (x > photo.shape[1]) | (y > photo.shape[0])).reshape(256, 256)
        assert 0.1 < beyond.mean() < 0.9
        assert (aligned.raw[beyond] == OUTSIDE).all()
        assert (aligned.raw[aligned.inside] < 100).all()
        assert not (aligned.inside & beyond).any()
        within = ((x > 1) & (y > 1) & (x < photo.shape[1] - 2) & (y < photo.shape[0] - 2)).reshape(256, 256)
        assert aligned.inside[within].all()

    def test_of_a_face_in_the_middle_all_is_inside(self, alignment):
        assert alignment.inside((300, 400, 3)).all()
        assert alignment.inside((300, 400)).all()
        assert not alignment.inside((10, 10)).any()

    def test_a_face_says_where_it_is(self, face):
        _, aligned = face
        np.testing.assert_allclose(aligned.landmarks, aligned.alignment.to_frame(self.AT_THE_EDGE))
        assert aligned.inside.shape == (256, 256)

    def test_landmarks_of_no_face_are_refused(self):
        with pytest.raises(NotAFace):
            AlignedFace.drawn(np.zeros((9, 9, 3), np.uint8), Detection((0.0,) * 4, 1.0, np.zeros((5, 2))), 256)
