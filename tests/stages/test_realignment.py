"""Which of a detector's candidates are faces: the shipped parser judges patches of a public-domain portrait."""

from dataclasses import replace

import numpy as np
import pytest

from manifests.plan import PlannedItem
from stages.base import StageContext
from stages.evaluation.demo import PORTRAITS, load_portrait
from stages.faces.detection import Face
from stages.models.catalog import EMBEDDED
from stages.references import align, realign

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
ITEM = PlannedItem(0, "astronaut", "astronaut", None, None, 0, 0)
(X, Y), (ACROSS, ALONG) = PORTRAITS["astronaut"]
MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)]) * (ACROSS, ALONG)


def candidate(x, y, score):
    return Face((x - ACROSS, y - ALONG, x + ACROSS, y + ALONG), score, MARKS + (x, y))


def chosen(*candidates, floor=EMBEDDED.settings.faces.min_parse_confidence):
    photo, faces = load_portrait("astronaut"), replace(EMBEDDED.settings.faces, min_parse_confidence=floor)
    context = StageContext(EMBEDDED, replace(EMBEDDED.settings, faces=faces), "")
    return realign(ITEM, photo, align(ITEM, photo, candidates, faces.frame), context)


def test_a_detection_beside_the_face_is_moved_onto_it():
    [face] = chosen(candidate(X + ACROSS, Y + ALONG, 0.9))
    x0, y0, x1, y1 = face.face.bbox
    assert np.linalg.norm(face.face.landmarks.mean(0) - (X, Y)) < 0.4 * ACROSS
    assert np.linalg.norm(np.array([x0 + x1, y0 + y1]) / 2 - (X, Y)) < 0.4 * ACROSS


def test_of_two_in_one_place_the_surer_parse_wins_and_not_the_surer_detection():
    face, suit = candidate(X, Y, 0.5), candidate(130, 400, 0.9)
    [best] = chosen(replace(suit, bbox=face.bbox), face)
    assert np.linalg.norm(best.face.landmarks.mean(0) - (X, Y)) < 0.3 * ACROSS


def test_two_looks_at_one_face_are_one():
    [face] = chosen(candidate(X, Y, 0.6), candidate(X + 4, Y - 3, 0.8))
    assert face.slot == 0


def test_what_cannot_be_parsed_surely_is_no_face():
    backdrop = candidate(90, 240, 0.9)
    assert chosen(backdrop) == []
    assert len(chosen(backdrop, floor=0.0)) == 1
