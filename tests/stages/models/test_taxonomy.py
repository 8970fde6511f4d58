"""What a parser's classes are called and mean."""

import numpy as np
import pytest

from s3pot_batch.stages.models.profiles import EMBEDDED, PartSpec
from s3pot_batch.stages.models.registry import PARSERS, taxonomy_of
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.stages.models.two_classes import TAXONOMY as TWO


def test_a_mirrored_photo_exchanges_ears_brows_and_eyes():
    assert CELEBM.mirrored == (0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19))
    pairs = {(CELEBM.classes[one], CELEBM.classes[other]) for one, other in enumerate(CELEBM.mirrored) if one < other}
    assert pairs == {("rr", "lr"), ("rb", "lb"), ("re", "le")}


@pytest.mark.parametrize("taxonomy", [CELEBM, TWO], ids=lambda taxonomy: taxonomy.name)
def test_every_taxonomy_is_of_one_piece(taxonomy):
    mirrored = np.array(taxonomy.mirrored)
    assert (mirrored[mirrored] == np.arange(len(taxonomy.classes))).all()  # twice mirrored is as it was
    assert len(set(taxonomy.classes)) == len(taxonomy.classes) == len(taxonomy.colours)
    parts = (taxonomy.face, *taxonomy.eyes, taxonomy.nose, taxonomy.mouth, taxonomy.skin, taxonomy.worn)
    for names in (*parts, *taxonomy.sides):
        assert set(names) <= set(taxonomy.classes)
    assert {*taxonomy.worn, *taxonomy.skin} <= set(taxonomy.face)
    assert taxonomy.skin or not taxonomy.worn  # what is worn is told to the inpainter as skin


def test_an_eye_changes_sides_in_a_mirrored_photo():
    assert CELEBM.eyes == (("re",), ("le",))  # the person's right eye is on the image's left
    parsing = np.zeros((4, 8), np.uint8)
    parsing[1:3, 1:3], parsing[1:3, 5:7] = CELEBM.ids(["re", "le"])
    flipped = np.array(CELEBM.mirrored)[parsing[:, ::-1]]
    assert CELEBM.where(flipped, CELEBM.eyes[0])[:, :4].any()
    assert not CELEBM.where(flipped, CELEBM.eyes[0])[:, 4:].any()
    assert (flipped == parsing).all()  # what was drawn is symmetrical


def test_classes_are_asked_for_by_name():
    assert CELEBM.ids(["face", "eyeg", "background"]) == [2, 15, 0]
    parsing = np.array([[2, 15], [0, 13]])
    assert CELEBM.where(parsing, ["face", "ulip"]).tolist() == [[True, False], [False, True]]
    assert not CELEBM.where(parsing, []).any()
    with pytest.raises(ValueError, match="celebm/448 has no class typo; it has background, neck"):
        CELEBM.ids(["typo"])


def test_colours_tell_all_classes_apart():
    drawn = CELEBM.colourise(np.arange(19, dtype=np.uint8).reshape(1, 19))
    assert (drawn.shape, drawn.dtype) == ((1, 19, 3), np.uint8)
    assert len({tuple(colour) for colour in drawn[0].tolist()}) == 19
    assert drawn[0, 2].tolist() == [230, 180, 140]


def test_the_settings_face_is_the_parsers():
    assert ReferenceSettings().face_classes == CELEBM.face
    assert ReferenceSettings().hidden_classes == CELEBM.worn


def test_a_parser_says_what_its_classes_are_before_it_is_loaded(toy_parts):
    assert taxonomy_of(PartSpec("facer", "/no/such/file")) is CELEBM
    assert taxonomy_of(PartSpec("two_classes")) is TWO


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
def test_a_loaded_parser_has_that_taxonomy():
    assert PARSERS.load(EMBEDDED.parser, "cpu").taxonomy is taxonomy_of(EMBEDDED.parser)
