import numpy as np

from s3pot_batch.stages.method.refinement import OFFSETS, refined
from s3pot_batch.stages.models.taxonomy import CELEBM
from tests.stages.models.two_classes import TAXONOMY as TWO

GUESS = np.array([[90.0, 110], [160, 112], [128, 150], [100, 180], [150, 182]])


def drawn(**parts):
    """256×256 class ids of rectangles (x0, y0, x1, y1) on skin."""
    [skin] = CELEBM.ids(["face"])
    labels = np.full((256, 256), skin, np.uint8)
    for name, (x0, y0, x1, y1) in parts.items():
        labels[y0:y1, x0:x1] = CELEBM.ids([name])
    return labels


def test_points_move_to_the_parts():
    found = refined(GUESS, drawn(re=(80, 100, 100, 110), le=(150, 100, 170, 110), nose=(120, 110, 140, 150),
                                 ulip=(100, 180, 150, 186), llip=(104, 186, 146, 192)), CELEBM)  # fmt: skip
    assert found.parts == 4
    points = found.landmarks
    np.testing.assert_allclose(points[0], [90, 105] + OFFSETS[0] * 256)
    np.testing.assert_allclose(points[1], [160, 105] + OFFSETS[1] * 256)
    np.testing.assert_allclose(points[2], [130, 130] + OFFSETS[2] * 256)
    assert 98 < points[3, 0] + 0.018 * 256 < 103
    assert 147 < points[4, 0] - 0.012 * 256 < 151


def test_what_is_not_found_stays():
    found = refined(GUESS, drawn(re=(80, 100, 100, 110), le=(150, 100, 151, 101)), CELEBM)
    assert found.parts == 1
    assert not np.array_equal(found.landmarks[0], GUESS[0])
    assert np.array_equal(found.landmarks[1:], GUESS[1:])


def test_a_taxonomy_without_parts_leaves_all_points():
    found = refined(GUESS, np.ones((256, 256), np.uint8), TWO)
    assert found.parts == 0
    assert np.array_equal(found.landmarks, GUESS)


def test_the_guess_is_left_alone():
    before = GUESS.copy()
    refined(GUESS, drawn(re=(80, 100, 100, 110)), CELEBM)
    assert np.array_equal(GUESS, before)
