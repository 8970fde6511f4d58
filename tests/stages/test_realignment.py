"""Which of a detector's candidates are faces: the shipped parser judges patches of a public-domain portrait."""

import numpy as np
import pytest

from manifests.plan import PlannedItem
from stages.base import StageContext
from stages.evaluation.demo import PORTRAITS, load_portrait
from stages.faces.detection import Face
from stages.models.catalog import EMBEDDED
from stages.references import align, realign

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
CONTEXT = StageContext(EMBEDDED, EMBEDDED.settings, "")
ITEM = PlannedItem(0, "astronaut", "astronaut", None, None, 0, 0)
(X, Y), (ACROSS, ALONG) = PORTRAITS["astronaut"]
MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)]) * (ACROSS, ALONG)


def candidate(x, y, score):
    return Face((x - ACROSS, y - ALONG, x + ACROSS, y + ALONG), score, MARKS + (x, y))


def chosen(*candidates):
    photo = load_portrait("astronaut")
    return realign(photo, align(ITEM, photo, candidates, EMBEDDED.settings.faces.frame), CONTEXT)


def test_a_detection_beside_the_face_is_moved_onto_it():
    [face] = chosen(candidate(X + ACROSS, Y + ALONG, 0.9))
    x0, y0, x1, y1 = face.face.bbox
    assert np.linalg.norm(face.face.landmarks.mean(0) - (X, Y)) < 0.4 * ACROSS
    assert np.linalg.norm(np.array([x0 + x1, y0 + y1]) / 2 - (X, Y)) < 0.4 * ACROSS


def test_a_sure_detection_on_the_hair_loses_to_an_unsure_one_on_the_face():
    [face] = chosen(candidate(X, Y - ALONG, 0.9), candidate(X, Y, 0.5))
    assert np.linalg.norm(face.face.landmarks.mean(0) - (X, Y)) < 0.3 * ACROSS


def test_two_looks_at_one_face_are_one():
    [face] = chosen(candidate(X, Y, 0.6), candidate(X + 4, Y - 3, 0.8))
    assert face.slot == 0


def test_clothes_are_no_face():
    assert chosen(candidate(230.0, 380.0, 0.9)) == []
