"""The embedded detector on the two public-domain portraits."""

from typing import Any

import cv2
import numpy as np
import pytest

from examples.demo_photos import PORTRAITS, load_portrait
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.candidates import same_face, shared
from s3pot_batch.stages.models.detectors.tiny_retinaface import TinyRetinaFace
from s3pot_batch.stages.models.profiles import EMBEDDED, PROFILES, PartSpec
from s3pot_batch.stages.models.registry import DETECTORS


@pytest.fixture(scope="module")
def detector():
    return DETECTORS.load(EMBEDDED.detector, "cpu")


def distinct(found):
    """The first look at each face."""
    faces = list[Any]()
    for one in found:
        if not any(same_face(one, face) for face in faces):
            faces.append(one)
    return faces


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_portrait_is_one_face_where_the_face_is(detector, name, scale):
    photo = cv2.resize(load_portrait(name), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    [face] = distinct(detector.detect(photo, min_score=0.4))
    (x, y), (across, along) = np.multiply(PORTRAITS[name], scale)
    oval = (x - across, y - along, x + across, y + along)
    assert shared(face.bbox, oval) > 0.7
    assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert face.landmarks[3, 0] < face.landmarks[4, 0]


def test_two_faces_side_by_side_are_two(detector):
    portrait = load_portrait("astronaut")[:256, 100:356]
    faces = distinct(detector.detect(np.hstack([portrait, portrait[:, ::-1]]), min_score=0.4))
    assert len(faces) == 2
    assert shared(faces[0].bbox, faces[1].bbox) == 0


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_crop_that_is_already_a_face_is_one_face(detector, name):
    (x, y), (across, along) = PORTRAITS[name]
    crop = load_portrait(name)[round(y - along) : round(y + along), round(x - across) : round(x + across)]
    [face] = distinct(detector.detect(cv2.resize(crop, (256, 320)), min_score=0.4))
    assert shared(face.bbox, (0, 0, 256, 320)) > 0.9
    assert (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]) > 0.5 * 256 * 320


def test_detections_come_best_first_and_above_the_least_score(detector):
    found = detector.detect(load_portrait("astronaut"), min_score=0.05)
    scores = [detection.score for detection in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] >= 0.05
    assert all(detection.landmarks.shape == (5, 2) and len(detection.bbox) == 4 for detection in found)
    assert not detector.detect(np.full((40, 300, 3), 127, np.uint8), min_score=0.05)


def test_a_face_lies_in_the_same_place_whatever_the_photos_size(detector):
    photo = load_portrait("astronaut")
    [face] = distinct(detector.detect(photo, min_score=0.4))
    for scale in (0.25, 3.0):
        resized = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        [again] = distinct(detector.detect(resized, min_score=0.4))
        assert np.abs(again.landmarks / scale - face.landmarks).max() < 6


def test_a_large_photo_is_looked_at_twice_and_a_small_one_once(detector, monkeypatch):
    looks: list[float] = []
    monkeypatch.setattr(TinyRetinaFace, "_look", lambda _self, _photo, scale, _score: looks.append(scale) or [])
    detector.detect(np.zeros((400, 600, 3), np.uint8), 0.1)
    assert looks == [640 / 900]
    looks.clear()
    detector.detect(np.zeros((4000, 3000, 3), np.uint8), 0.1)
    assert looks == [640 / 6000, 1600 / 6000]
    looks.clear()
    detector.detect(np.zeros((800, 800, 3), np.uint8), 0.1)
    assert looks == [640 / 1200, 1.0]  # never larger than it is


def test_a_precision_that_a_detector_has_not_is_refused():
    with pytest.raises(ConfigError, match="float32, not float16"):
        DETECTORS.load(PartSpec("tiny_retinaface", "embedded:segmenter.safetensors", dtype="float16"), "cpu")


def test_all_profiles_have_one_detector():
    assert {profile.detector for profile in PROFILES.values()} == {EMBEDDED.detector}
