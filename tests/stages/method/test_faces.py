"""Which of a detector's candidates are faces: the shipped parser judges patches of a public-domain portrait."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from examples.demo_photos import PORTRAITS
from s3pot_batch.stages.method.alignment import NotAFace
from s3pot_batch.stages.method.faces import FaceFinder, Hint, distinct, shared
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.protocols import Detection

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
(X, Y), (ACROSS, ALONG) = PORTRAITS["astronaut"]
MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)]) * (ACROSS, ALONG)


def candidate(x, y, score):
    return Detection((x - ACROSS, y - ALONG, x + ACROSS, y + ALONG), score, MARKS + (x, y))


@dataclass
class Proposals:
    """A detector that proposes what it was given."""

    candidates: tuple[Detection, ...]

    def detect(self, photo, min_score):
        assert photo.ndim == 3
        return [one for one in self.candidates if one.score >= min_score]


@pytest.fixture
def parser(shipped):
    return FaceParser(shipped.parser, EMBEDDED.settings.references.face_classes)


@pytest.fixture
def finder(parser):
    """A finder of the given candidates, with some settings changed."""

    def build(*candidates, **changes):
        return FaceFinder(Proposals(candidates), parser, EMBEDDED.settings.faces.model_copy(update=changes))

    return build


def centre(face):
    return face.detection.landmarks.mean(0)


def test_a_detection_beside_the_face_is_moved_onto_it(finder, astronaut):
    [face] = finder(candidate(X + ACROSS, Y + ALONG, 0.9)).find(astronaut)
    x0, y0, x1, y1 = face.detection.bbox
    assert np.linalg.norm(centre(face) - (X, Y)) < 0.4 * ACROSS
    assert np.linalg.norm(np.array([x0 + x1, y0 + y1]) / 2 - (X, Y)) < 0.4 * ACROSS


def test_of_two_in_one_place_the_surer_parse_wins_and_not_the_surer_detection(finder, astronaut):
    face, suit = candidate(X, Y, 0.5), candidate(130, 400, 0.9)
    [best] = finder(replace(suit, bbox=face.bbox), face).find(astronaut)
    assert np.linalg.norm(centre(best) - (X, Y)) < 0.3 * ACROSS


def test_two_looks_at_one_face_are_one(finder, astronaut):
    [face] = finder(candidate(X, Y, 0.6), candidate(X + 4, Y - 3, 0.8)).find(astronaut)
    assert np.linalg.norm(centre(face) - (X, Y)) < 0.3 * ACROSS


def test_what_cannot_be_parsed_surely_is_no_face(finder, astronaut):
    backdrop = candidate(90, 240, 0.9)
    assert finder(backdrop).find(astronaut) == []
    assert len(finder(backdrop, min_parse_confidence=0.0).find(astronaut)) == 1


def test_a_found_face_lies_in_its_frame(finder, astronaut):
    [face] = finder(candidate(X, Y, 0.6)).find(astronaut)
    assert (face.raw.shape, face.raw.dtype) == ((256, 256, 3), np.uint8)
    np.testing.assert_allclose(face.landmarks, face.alignment.to_frame(face.detection.landmarks))
    assert ((face.landmarks > 40) & (face.landmarks < 216)).all()
    assert (face.raw == face.alignment.warp(astronaut)).all()


class TestAsDetected:
    """Without refinement, detections are believed."""

    def test_they_stay_as_they_are_the_surest_first(self, finder, astronaut):
        here, there = candidate(X, Y, 0.9), candidate(130, 400, 0.6)
        found = finder(here, candidate(X + 3, Y, 0.7), there, refine=False).find(astronaut)
        assert [face.detection for face in found] == [here, there]

    def test_no_more_than_the_settings_allow(self, finder, astronaut):
        here, there = candidate(X, Y, 0.9), candidate(130, 400, 0.6)
        assert len(finder(here, there, refine=False, max_faces=1).find(astronaut)) == 1

    def test_none_below_the_least_score(self, finder, astronaut):
        assert finder(candidate(X, Y, 0.5), refine=False, min_score=0.6).find(astronaut) == []

    def test_those_that_do_not_span_a_face_are_left_out(self, finder, astronaut):
        flat = replace(candidate(130, 400, 0.95), landmarks=np.full((5, 2), 9.0))
        [face] = finder(flat, candidate(X, Y, 0.6), refine=False).find(astronaut)
        assert face.detection.score == 0.6


class TestHints:
    """What is known of a photo beforehand."""

    def test_landmarks_are_believed_and_nothing_is_detected(self, finder, astronaut):
        points = MARKS + (X, Y)
        [face] = finder().find(astronaut, Hint(landmarks=points))
        assert np.array_equal(face.detection.landmarks, points)
        assert face.detection.bbox == (*points.min(0), *points.max(0))
        assert face.detection.score == 1

    def test_a_box_beside_landmarks_is_the_faces(self, finder, astronaut):
        [face] = finder().find(astronaut, Hint((1.0, 2.0, 3.0, 4.0), MARKS + (X, Y)))
        assert face.detection.bbox == (1.0, 2.0, 3.0, 4.0)

    def test_landmarks_that_do_not_span_a_face_are_an_error(self, finder, astronaut):
        with pytest.raises(NotAFace):
            finder().find(astronaut, Hint(landmarks=np.zeros((5, 2))))

    def test_of_all_detections_the_one_at_the_box_is_meant(self, finder, astronaut):
        here, there = candidate(X, Y, 0.5), candidate(130, 400, 0.9)
        [face] = finder(there, here, refine=False).find(astronaut, Hint(here.bbox))
        assert face.detection is here
        assert finder(there, refine=False).find(astronaut, Hint(here.bbox)) == []
        assert finder(refine=False).find(astronaut, Hint(here.bbox)) == []


def test_boxes_that_share_a_fifth_of_the_smaller_are_one():
    boxes = [(0.0, 0.0, 10.0, 10.0), (8.1, 0.0, 18.1, 10.0), (7.9, 0.0, 17.9, 10.0), (2.0, 2.0, 4.0, 4.0)]
    faces = [Detection(box, 1 - n / 10, MARKS) for n, box in enumerate(boxes)]
    assert shared(boxes[0], boxes[1]) == pytest.approx(0.19)
    assert shared(boxes[0], boxes[3]) == 1
    assert shared(boxes[1], boxes[3]) == 0
    assert distinct(faces) == faces[:2]
