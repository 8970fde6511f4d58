"""Drawn occluders and photo edges: what the recipes tell their networks about a sample is true."""

import numpy as np
import pytest
import torch

from recipes.faces import bare_faces, jitter, outside_is_grey, relight, seen, worsened
from recipes.inpainter import misread
from recipes.occluders import KINDS, NAMELESS, Occluded, drawn_thing, occlude, paste
from recipes.schedule import mixed
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.alignment import moved_landmarks
from s3pot_batch.stages.models.protocols import GREY
from s3pot_batch.stages.models.taxonomy import CELEBM

SIDE = 128
LANDMARKS = np.array([(48, 60), (80, 60), (64, 76), (52, 92), (76, 92)], np.float32)


def pictures(seed):
    return np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_changes_the_photo_where_it_is_and_nowhere_else(kind):
    face = np.full((SIDE, SIDE, 3), 128, np.uint8)
    donor, rng = pictures(0)[0], np.random.default_rng(1)
    for _ in range(20):
        drawn = drawn_thing(rng, kind, face, donor, LANDMARKS)
        assert drawn.paint.shape == face.shape
        assert drawn.paint.dtype == np.uint8
        assert 0 <= drawn.opacity.min() <= drawn.opacity.max() <= 1
        assert 0 <= drawn.extent.min() <= drawn.extent.max() <= 1
        assert (drawn.names[drawn.extent <= 0.5] == NAMELESS).all()
        image, extent = paste(rng, face, drawn)
        assert image.shape == face.shape
        assert extent.dtype == np.float32


def test_the_same_seed_draws_the_same_things():
    face, donor = pictures(2)
    one, again = (occlude(np.random.default_rng(3), face, donor, LANDMARKS) for _ in range(2))
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.alpha, again.alpha)


def test_a_mirrored_crops_left_eye_is_on_the_left():
    rng = np.random.default_rng(4)
    for _ in range(20):
        points = moved_landmarks(LANDMARKS, jitter(rng, SIDE, SIDE))
        assert points[0, 0] < points[1, 0]
        assert points[3, 0] < points[4, 0]


def test_outside_the_photo_is_flat_grey():
    rng, valid = np.random.default_rng(5), np.zeros((SIDE, SIDE), np.uint8)
    valid[:, 20:] = 1
    identity = np.eye(2, 3)
    inside = seen(rng, valid, identity, SIDE, LANDMARKS, cut=0.0)
    assert np.array_equal(inside, valid)
    photo = outside_is_grey(pictures(6)[0], inside)
    assert (photo[:, :20] == GREY).all()
    assert np.array_equal(photo[:, 20:], pictures(6)[0][:, 20:])
    cut = [seen(rng, valid, identity, SIDE, LANDMARKS, cut=1.0) for _ in range(20)]
    assert all((one <= inside).all() and one.sum() > 0 for one in cut)
    assert any(one.sum() < inside.sum() for one in cut)


def test_a_worse_camera_treats_all_pictures_alike():
    rng, picture = np.random.default_rng(7), pictures(8)[0]
    for _ in range(30):
        one, same = worsened(rng, relight(rng, picture), relight(np.random.default_rng(9), picture))
        assert one.shape == same.shape == picture.shape
    rng = np.random.default_rng(10)
    pairs = [worsened(rng, picture, picture) for _ in range(30)]
    assert all(np.array_equal(one, same) for one, same in pairs)
    assert any(not np.array_equal(one, picture) for one, _ in pairs)


def test_what_is_worn_before_a_face_is_skin_to_the_inpainter():
    skin, worn, hat, hair = CELEBM.ids(("face", CELEBM.worn[0], "hat", "hair"))
    labels = np.array([[skin, hair, skin, hair]], np.uint8)
    names = np.array([[worn, worn, hat, NAMELESS]], np.uint8)
    nothing = Occluded(np.zeros((1, 4, 3), np.uint8), np.zeros((1, 4), np.float32), names)
    assert misread(np.random.default_rng(0), labels, nothing).tolist() == [[skin, skin, skin, hair]]


def test_a_face_with_glasses_is_no_clean_target(faces):
    parsing = faces.parsing.copy()
    known = bare_faces(faces, parsing, held_out=False)
    parsing[known[0], 80:90, 60:70] = CELEBM.ids(CELEBM.worn)[0]
    assert bare_faces(faces, parsing, held_out=False).tolist() == known[1:].tolist()
    with pytest.raises(ConfigError, match="no clean face"):
        bare_faces(faces, np.zeros_like(parsing), held_out=False)


@pytest.mark.parametrize(("instructions", "quick"), [({"avx2": True}, False), ({"avx512_bf16": True}, True)])
def test_a_cpu_without_instructions_for_bf16_trains_in_float32(monkeypatch, instructions, quick):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    with mixed("cpu"):
        assert torch.is_autocast_enabled("cpu") == quick
