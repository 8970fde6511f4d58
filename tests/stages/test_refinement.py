import numpy as np

from stages.faces.refinement import OFFSETS, refined
from stages.models.palette import CLASSES

GUESS = np.array([[90.0, 110], [160, 112], [128, 150], [100, 180], [150, 182]])


def drawn(**parts):
    """19×256×256 probabilities of rectangles (x0, y0, x1, y1) on skin."""
    labels = np.full((256, 256), CLASSES.index("face"))
    for name, (x0, y0, x1, y1) in parts.items():
        labels[y0:y1, x0:x1] = CLASSES.index(name)
    return np.eye(len(CLASSES), dtype=np.float32)[labels].transpose(2, 0, 1)


def test_points_move_to_the_parts():
    found = refined(GUESS, drawn(re=(80, 100, 100, 110), le=(150, 100, 170, 110), nose=(120, 110, 140, 150),
                                 ulip=(100, 180, 150, 186), llip=(104, 186, 146, 192)))  # fmt: skip
    assert found.parts == 4
    found = found.landmarks
    np.testing.assert_allclose(found[0], [90, 105] + OFFSETS[0] * 256)
    np.testing.assert_allclose(found[1], [160, 105] + OFFSETS[1] * 256)
    np.testing.assert_allclose(found[2], [130, 130] + OFFSETS[2] * 256)
    assert 98 < found[3, 0] + 0.018 * 256 < 103
    assert 147 < found[4, 0] - 0.012 * 256 < 151


def test_what_is_not_found_stays():
    found = refined(GUESS, drawn(re=(80, 100, 100, 110), le=(150, 100, 151, 101)))
    assert found.parts == 1
    assert not np.array_equal(found.landmarks[0], GUESS[0])
    assert np.array_equal(found.landmarks[1:], GUESS[1:])
