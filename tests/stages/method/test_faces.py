"""Which of a detector's candidates are faces: the shipped parser judges patches of a public-domain portrait."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest
import skimage.data

from examples.demo_photos import PORTRAITS
from s3pot_batch.stages.method.alignment import NotAFace
from s3pot_batch.stages.method.candidates import SAME_BOX, around, at_box, iou, same_face, shared, turned_back
from s3pot_batch.stages.method.faces import FaceFinder, Hint
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.protocols import Detection

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
(X, Y), (ACROSS, ALONG) = PORTRAITS["astronaut"]
MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)]) * (ACROSS, ALONG)
BOX = (X - ACROSS, Y - ALONG, X + ACROSS, Y + ALONG)


def candidate(x, y, score):
    return Detection((x - ACROSS, y - ALONG, x + ACROSS, y + ALONG), score, MARKS + (x, y))


@dataclass
class Proposals:
    """A detector that proposes what it was given, of a photo as it is; of one that was turned, nothing."""

    candidates: tuple[Detection, ...]
    photo: np.ndarray
    turns: list[tuple[int, ...]] = field(default_factory=list)

    def detect(self, photo, min_score):
        if not np.shares_memory(photo, self.photo):
            self.turns.append(photo.shape)
            return []
        down, across = divmod(photo.ctypes.data - self.photo.ctypes.data, self.photo.strides[0])
        corner = np.array([across // self.photo.strides[1], down])  # of a cut-out
        found = sorted(self.candidates, key=lambda one: -one.score)
        return [
            replace(one, bbox=tuple((np.reshape(one.bbox, (2, 2)) - corner).ravel()), landmarks=one.landmarks - corner)
            for one in found
            if one.score >= min_score
        ]


@pytest.fixture
def parser(shipped):
    return FaceParser(shipped.parser, EMBEDDED.settings.references.face_classes)


@pytest.fixture
def finder(parser, astronaut):
    """A finder of the given candidates, with some settings changed."""

    def build(*candidates, **changes):
        settings = EMBEDDED.settings.faces.model_copy(update=changes)
        return FaceFinder(Proposals(candidates, astronaut), parser, settings)

    return build


@pytest.fixture
def shipped_finder(shipped, parser):
    return FaceFinder(shipped.detector, parser, EMBEDDED.settings.faces)


def detection(face):
    return face.aligned.detection


def centre(face):
    return detection(face).landmarks.mean(0)


def test_a_detection_beside_the_face_is_moved_onto_it(finder, astronaut):
    [face] = finder(candidate(X + 0.5 * ACROSS, Y + 0.5 * ALONG, 0.9)).find(astronaut)
    x0, y0, x1, y1 = detection(face).bbox
    assert np.linalg.norm(centre(face) - (X, Y)) < 0.4 * ACROSS
    assert np.linalg.norm(np.array([x0 + x1, y0 + y1]) / 2 - (X, Y)) < 0.4 * ACROSS


def test_a_frame_that_lies_well_is_not_moved_and_not_parsed_again(finder, shipped, astronaut):
    [seen, *_] = shipped.detector.detect(astronaut, min_score=0.1)
    [face] = finder(seen).find(astronaut)
    assert np.array_equal(detection(face).landmarks, seen.landmarks)


def test_of_two_in_one_place_the_surer_parse_wins_and_not_the_surer_detection(finder, astronaut):
    face, suit = candidate(X, Y, 0.5), candidate(130, 400, 0.9)
    [best] = finder(replace(suit, bbox=face.bbox), face).find(astronaut)
    assert np.linalg.norm(centre(best) - (X, Y)) < 0.3 * ACROSS


def test_two_detections_of_one_face_are_one_and_only_one_is_parsed(finder, astronaut, monkeypatch):
    parsed, look = [], FaceFinder._looked

    def noted(self, photo, one, least):
        parsed.append(one.score)
        return look(self, photo, one, least)

    monkeypatch.setattr(FaceFinder, "_looked", noted)
    [face] = finder(candidate(X, Y, 0.6), candidate(X + 4, Y - 3, 0.8)).find(astronaut)
    assert np.linalg.norm(centre(face) - (X, Y)) < 0.3 * ACROSS
    assert parsed == [0.8]


def test_what_cannot_be_parsed_surely_is_no_face(finder, astronaut):
    backdrop = candidate(90, 240, 0.9)
    assert finder(backdrop).find(astronaut) == []


def test_the_less_the_detector_believes_the_surer_the_parser_has_to_be(finder, parser, astronaut):
    [sure] = finder(candidate(X, Y, 1.0)).find(astronaut)
    least = sure.parsed.confidence - 0.08
    assert len(finder(candidate(X, Y, 0.9), min_parse_confidence=least).find(astronaut)) == 1
    assert finder(candidate(X, Y, 0.2), min_parse_confidence=least).find(astronaut) == []


def test_a_found_face_lies_in_its_frame_and_is_parsed_there(finder, parser, astronaut):
    [face] = finder(candidate(X, Y, 0.6)).find(astronaut)
    aligned = face.aligned
    assert (aligned.raw.shape, aligned.raw.dtype) == ((256, 256, 3), np.uint8)
    np.testing.assert_allclose(aligned.landmarks, aligned.alignment.to_frame(aligned.detection.landmarks))
    assert ((aligned.landmarks > 40) & (aligned.landmarks < 216)).all()
    assert (aligned.raw == aligned.alignment.warp(astronaut)).all()
    [again] = parser.parse([aligned])
    assert (again.parsing == face.parsed.parsing).all()
    assert (again.region == face.parsed.region).all()


class TestAsDetected:
    """Without refinement, detections are judged and stay where they are."""

    def test_they_stay_as_they_are(self, finder, astronaut):
        here = candidate(X, Y, 0.9)
        [face] = finder(here, candidate(X + 3, Y, 0.7), refine=False).find(astronaut)
        assert (detection(face).score, detection(face).bbox) == (0.9, here.bbox)
        assert np.array_equal(detection(face).landmarks, here.landmarks)

    def test_the_settings_bound_what_is_worked_on_and_not_what_is_found(self, shipped_finder, astronaut):
        grid = six_portraits(astronaut)
        few = replace_settings(shipped_finder, max_faces=1)
        assert len(few.find(grid)) == len(shipped_finder.find(grid)) == 6

    def test_none_below_the_least_score(self, finder, astronaut):
        assert len(finder(candidate(X, Y, 0.5), refine=False, min_score=0.4).find(astronaut)) == 1
        assert finder(candidate(X, Y, 0.5), refine=False, min_score=0.6).find(astronaut) == []

    def test_none_far_below_the_best(self, finder, astronaut):
        suit, face = candidate(130, 400, 0.9), candidate(X, Y, 0.5)
        assert len(finder(suit, face, relative_score=0.5).find(astronaut)) == 1
        assert finder(suit, face, relative_score=0.6).find(astronaut) == []

    def test_those_that_do_not_span_a_face_are_left_out(self, finder, astronaut):
        flat = replace(candidate(130, 400, 0.95), landmarks=np.full((5, 2), 9.0))
        [face] = finder(flat, candidate(X, Y, 0.6), refine=False).find(astronaut)
        assert detection(face).score == 0.6


def replace_settings(finder, **changes):
    return FaceFinder(finder.detector, finder.parser, finder.settings.model_copy(update=changes))


def six_portraits(astronaut):
    portrait = astronaut[:256, 96:352]
    return np.vstack([np.hstack([portrait] * 3)] * 2)


class TestHints:
    """What is known of a photo beforehand."""

    def test_landmarks_are_believed_and_nothing_is_detected(self, finder, astronaut):
        points = MARKS + (X, Y)
        [face] = finder().find(astronaut, Hint(landmarks=points))
        assert np.array_equal(detection(face).landmarks, points)
        assert detection(face).bbox == (*points.min(0), *points.max(0))
        assert detection(face).score == 1

    def test_a_box_beside_landmarks_is_the_faces(self, finder, astronaut):
        [face] = finder().find(astronaut, Hint((1.0, 2.0, 3.0, 4.0), MARKS + (X, Y)))
        assert detection(face).bbox == (1.0, 2.0, 3.0, 4.0)

    def test_landmarks_that_do_not_span_a_face_are_an_error(self, finder, astronaut):
        with pytest.raises(NotAFace):
            finder().find(astronaut, Hint(landmarks=np.zeros((5, 2))))

    def test_of_all_detections_the_one_at_the_box_is_meant(self, finder, astronaut):
        here, there = candidate(X, Y, 0.5), candidate(130, 400, 0.9)
        [face] = finder(there, here, refine=False).find(astronaut, Hint(here.bbox))
        assert detection(face).score == 0.5
        np.testing.assert_allclose(detection(face).landmarks, here.landmarks)

    def test_a_box_is_believed_where_nothing_is_detected(self, finder, astronaut):
        [face] = finder(candidate(130, 400, 0.9)).find(astronaut, Hint(BOX))
        assert np.linalg.norm(centre(face) - (X, Y)) < 0.4 * ACROSS
        assert detection(face).score == 0

    def test_the_face_in_a_box_needs_no_sure_parser(self, finder, astronaut):
        unsure = finder(candidate(X, Y, 0.9), min_parse_confidence=1.0)
        assert unsure.find(astronaut) == []
        assert len(unsure.find(astronaut, Hint(BOX))) == 1

    def test_a_box_is_searched(self, shipped_finder, astronaut):
        [face] = shipped_finder.find(astronaut, Hint((X - 40.0, Y - 70.0, X + 60.0, Y + 50.0)))
        assert np.linalg.norm(centre(face) - (X, Y)) < 0.3 * ACROSS
        assert detection(face).score > 0.9

    def test_a_box_chooses_among_many_faces(self, shipped_finder, astronaut):
        grid = six_portraits(astronaut)
        [face] = shipped_finder.find(grid, Hint((256 + 80.0, 256 + 60.0, 256 + 175.0, 256 + 180.0)))
        assert ((centre(face) > 256) & (centre(face) < 512)).all()

    @pytest.mark.parametrize(
        "box",
        [(300.0, 20.0, 400.0, 120.0), (600.0, 600.0, 700.0, 700.0), (520.0, 100.0, 620.0, 200.0),
         (-200.0, -200.0, -100.0, -100.0)],
        ids=["on the backdrop", "outside", "just outside", "before the corner"],
    )  # fmt: skip
    def test_in_a_box_without_a_face_none_is_found(self, shipped_finder, astronaut, box):
        assert shipped_finder.find(astronaut, Hint(box)) == []


class TestTurned:
    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_a_turned_photos_face_is_found_where_it_is(self, shipped_finder, astronaut, quarters):
        [upright] = shipped_finder.find(astronaut)
        points = detection(upright).landmarks
        for _ in range(quarters):
            points = np.stack([points[:, 1], astronaut.shape[1] - points[:, 0]], 1)  # a quarter turn to the left
        [face] = shipped_finder.find(np.ascontiguousarray(np.rot90(astronaut, quarters)))
        assert np.linalg.norm(detection(face).landmarks - points, axis=1).max() < 6
        x0, y0, x1, y1 = detection(face).bbox
        assert x0 < points[:, 0].min() < points[:, 0].max() < x1
        assert y0 < points[:, 1].min() < points[:, 1].max() < y1
        likeness = np.abs(face.aligned.raw.astype(int) - upright.aligned.raw).mean()
        assert likeness < 20  # it stands upright in its frame

    def test_one_whose_face_stands_upright_for_sure_is_not_turned(self, finder, astronaut):
        upright, leaning = finder(candidate(X, Y, 0.995)), finder(candidate(X, Y, 0.9))
        assert len(upright.find(astronaut)) == len(leaning.find(astronaut)) == 1
        assert upright.detector.turns == []
        assert len(leaning.detector.turns) == 3

    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_back_is_the_way_that_pixels_go(self, quarters):
        photo = np.zeros((30, 50), np.uint8)
        marks = [(4, 7), (9, 7), (6, 11), (3, 15), (11, 16)]
        for number, (x, y) in enumerate(marks, 1):
            photo[y, x] = number
        turned = np.rot90(photo, quarters)
        there = np.array([np.argwhere(turned == n)[0][::-1] for n in range(1, 6)]) + 0.5
        found = Detection((*there.min(0), *there.max(0)), 0.7, there)
        back = turned_back(found, quarters, photo.shape)
        np.testing.assert_allclose(back.landmarks, np.array(marks) + 0.5)
        assert back.bbox == (3.5, 7.5, 11.5, 16.5)
        assert back.score == 0.7


def test_a_small_face_in_a_large_photo_is_found(shipped_finder, astronaut):
    photo = np.random.default_rng(0).normal(128, 10, (1000, 4000, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    photo[500:750, 2500:2750] = cv2.resize(astronaut, (250, 250), interpolation=cv2.INTER_AREA)
    [face] = shipped_finder.find(photo)
    expected = np.array([2500, 500]) + np.array([X, Y]) * 250 / 512
    assert np.linalg.norm(centre(face) - expected) < 0.3 * ACROSS * 250 / 512


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_a_texture_has_no_face(shipped_finder, name):
    assert shipped_finder.find(np.dstack([getattr(skimage.data, name)()] * 3)) == []


class TestBoxes:
    def test_what_two_share_is_a_part_of_the_smaller(self):
        boxes = [(0.0, 0.0, 10.0, 10.0), (8.1, 0.0, 18.1, 10.0), (7.9, 0.0, 17.9, 10.0), (2.0, 2.0, 4.0, 4.0)]
        assert shared(boxes[0], boxes[1]) == pytest.approx(0.19)
        assert shared(boxes[0], boxes[3]) == 1
        assert shared(boxes[1], boxes[3]) == 0
        assert iou(boxes[0], boxes[1]) == pytest.approx(19 / 181)
        assert iou(boxes[0], boxes[3]) == pytest.approx(0.04)

    def test_looks_at_one_face_hold_each_others_middle(self):
        face = candidate(100, 100, 0.9)
        assert same_face(face, candidate(100 + 0.9 * ACROSS, 100, 0.5))
        assert not same_face(face, candidate(100 + 1.1 * ACROSS, 100, 0.5))
        small = Detection((95.0, 140.0, 99.0, 144.0), 0.5, MARKS / 20 + (97, 142))
        assert same_face(face, small)
        assert same_face(small, face)

    def test_at_a_box_is_the_detection_that_fits_it_best_and_then_the_box(self):
        box = candidate(100, 100, 0.0).bbox
        beside = candidate(100 + 2 * ACROSS * (1 - SAME_BOX / 2), 100, 0.99)
        near, nearer = candidate(100 + ACROSS, 100, 0.9), candidate(102, 100, 0.8)
        found = at_box([beside, near, nearer], box)
        assert [one.score for one in found] == [0.8, 0.0]
        assert found[1].bbox == box
        inside = found[1].landmarks
        assert ((inside > box[:2]) & (inside < box[2:])).all()
        assert [one.score for one in at_box([beside], box)] == [0.0]

    def test_around_a_box_is_half_of_it_again_as_far_as_the_photo_goes(self):
        photo = np.arange(80 * 100 * 3).reshape(80, 100, 3).astype(np.uint8)
        shown, corner = around(photo, (40.0, 30.0, 60.0, 40.0))
        assert corner == (30, 20)
        assert (shown == photo[20:51, 30:71]).all()
        shown, corner = around(photo, (-5.0, 70.0, 15.0, 90.0))
        assert corner == (0, 60)
        assert (shown == photo[60:, :26]).all()
        assert not around(photo, (150.0, 0.0, 170.0, 20.0))[0].size
