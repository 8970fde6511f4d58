"""From a photo to the references of its faces, with the shipped models."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.parsing import FaceParser, Parsed
from s3pot_batch.stages.method.references import ReferenceGenerator, differs
from s3pot_batch.stages.method.region import dilated
from s3pot_batch.stages.method.stage_one import StageOne
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.protocols import Detection, Inpainting
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings, changed

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
SETTINGS = EMBEDDED.settings


@pytest.fixture(scope="module")
def stage_one(shipped):
    return StageOne(shipped, SETTINGS)


@pytest.fixture(scope="module")
def found(stage_one, astronaut):
    return stage_one.find(astronaut)


@pytest.fixture(scope="module")
def face(stage_one, found):
    [face] = stage_one.refer(found, [("astronaut", 0)])
    return face


def test_a_portrait_has_a_face_with_a_region_and_a_reference(face):
    assert (face.reference.shape, face.reference.dtype) == ((256, 256, 3), np.uint8)
    assert 0.1 < face.parsed.region.mean() < 0.6
    assert face.parsed.confidence > SETTINGS.faces.min_parse_confidence
    assert face.parsed.region[CELEBM.where(face.parsed.parsing, CELEBM.nose)].all()
    assert face.pair.raw is face.aligned.raw
    assert face.pair.region is face.parsed.region


def test_a_reference_is_the_photo_outside_the_dilated_region(face):
    hole = dilated(face.parsed.region, round(SETTINGS.references.dilation * 256))
    assert (face.reference == face.aligned.raw)[~hole].all()
    assert (face.reference != face.aligned.raw)[face.parsed.region].any()


def test_a_face_has_one_reference_alone_or_in_company(stage_one, found, face):
    first, second = stage_one.refer([*found, *found], [("astronaut", 0), ("astronaut", 1)])
    assert np.abs(first.reference.astype(int) - face.reference).max() <= 1  # a batch rounds otherwise
    assert (second.reference != face.reference).any()  # another seed


def test_the_runs_seed_decides_too(shipped, found, face):
    [other] = StageOne(shipped, changed(SETTINGS, {"seed": 1})).refer(found, [("astronaut", 0)])
    [again] = StageOne(shipped, SETTINGS).refer(found, [("astronaut", 0)])
    assert (other.reference != face.reference).any()
    assert (again.reference == face.reference).all()


def test_several_references_are_averaged(shipped, found, face):
    settings = SETTINGS.references
    once, twice = (
        ReferenceGenerator(shipped.inpainter, CELEBM, settings.model_copy(update={"seeds": seeds}))
        for seeds in (1, 2)
    )  # fmt: skip
    [mean] = twice.generate(found, [("astronaut", 0)])
    [first] = once.generate(found, [("astronaut", 0)])
    [second] = once._once(found, [("astronaut", 0, 1)])
    assert np.array_equal(mean, np.mean([first, second], axis=0).round())
    assert np.array_equal(first, face.reference)


def test_a_second_pass_keeps_what_agrees_with_the_first(shipped, found, face):
    settings = SETTINGS.references.model_copy(update={"passes": 2, "second_pass_contrast": 0.3})
    [second] = ReferenceGenerator(shipped.inpainter, CELEBM, settings).generate(found, [("astronaut", 0)])
    hole = dilated(face.parsed.region, round(settings.dilation * 256))
    kept = hole & ~differs(face.aligned.raw, face.reference, settings)
    assert kept.any()
    assert (second == face.aligned.raw)[kept].all()


def test_nothing_to_do_is_nothing_done(stage_one):
    assert stage_one.find(np.full((64, 80, 3), 127, np.uint8)) == []
    assert stage_one.refer([], []) == []


def test_what_differs_is_marked_with_a_margin():
    settings = ReferenceSettings(second_pass_contrast=0.2, dilation=0.0)
    raw = np.full((64, 64, 3), 100, np.uint8)
    reference = raw.copy()
    reference[20:40, 20:40] = 200
    marked = differs(raw, reference, settings)
    assert marked[24:36, 24:36].all()
    assert not marked[:16].any()
    wider = differs(raw, reference, settings.model_copy(update={"dilation": 0.05}))
    assert (wider >= marked).all()
    assert wider.sum() > marked.sum()
    assert not differs(raw, raw, settings).any()


def test_the_region_is_of_the_classes_that_are_asked_for(shipped, found):
    aligned = found[0].aligned
    every, nose = (FaceParser(shipped.parser, classes) for classes in (CELEBM.face, CELEBM.nose))
    [whole] = every.parse([aligned])
    [part] = nose.parse([aligned])
    assert 0 < part.region.sum() < 0.3 * whole.region.sum()
    assert (whole.parsing == part.parsing).all()
    assert every.taxonomy is CELEBM


def test_a_class_that_the_parser_has_not_is_named(shipped):
    with pytest.raises(ValueError, match="no class typo"):
        FaceParser(shipped.parser, ["face", "typo"])


def test_region_and_reference_of_a_face_at_the_edge_end_with_the_photo(stage_one, astronaut):
    photo = np.ascontiguousarray(astronaut[:, 220:])  # half of her face
    found = stage_one.find(photo)
    [face] = stage_one.refer(found, [("edge", 0)])
    there = face.aligned.inside
    assert 0.2 < (~there).mean() < 0.8
    assert face.parsed.region.mean() > 0.05
    assert not (face.parsed.region & ~there).any()
    assert (face.reference == face.aligned.raw)[~there].all()
    assert (face.reference != face.aligned.raw)[face.parsed.region].any()


@dataclass
class Spy:
    """An inpainter that fills holes with the number of its call, and keeps what it was asked."""

    asked: list[Inpainting] = field(default_factory=list)

    def inpaint(self, asked, _settings, seeds):
        assert len(seeds) == len(asked.photos)
        self.asked.append(asked)
        return np.where(asked.holes[..., None], np.uint8(len(self.asked)), asked.photos)


SIDE = 16
SKIN, GLASSES = CELEBM.ids([*CELEBM.skin, *CELEBM.worn])


class TestHiddenClasses:
    """What the parser knows to lie in front of a face is told to the inpainter as skin, and filled unseen."""

    @pytest.fixture
    def face(self):
        """Skin in the middle of a frame of 16 px, glasses across it, the last column beyond the photo."""
        region = np.zeros((SIDE, SIDE), bool)
        region[2:14, 3:15] = True
        parsing = np.where(region, SKIN, 0).astype(np.uint8)
        parsing[5:7, 3:15] = GLASSES
        inside = np.ones_like(region)
        inside[:, 14:] = False
        raw = np.full((SIDE, SIDE, 3), 200, np.uint8)
        aligned = AlignedFace(Detection((0.0, 0.0, 9.0, 9.0), 1.0, np.zeros((5, 2))), None, raw, inside)
        return ParsedFace(aligned, Parsed(parsing, region & inside, 0.9))

    @staticmethod
    def ask(faces, **settings):
        spy = Spy()
        generator = ReferenceGenerator(spy, CELEBM, ReferenceSettings(**{"dilation": 0.0, **settings}))
        return spy.asked, generator.generate(faces, [(n,) for n in range(len(faces))])

    def test_a_second_pass_fills_them_without_seeing_them(self, face):
        (blind, hidden), [reference] = self.ask([face])
        glasses = face.parsed.parsing == GLASSES
        assert (blind.parsing == hidden.parsing).all()
        assert (blind.parsing[0] == np.where(glasses, SKIN, face.parsed.parsing)).all()
        assert not blind.hide
        assert (blind.photos[0] == face.aligned.raw).all()
        assert hidden.hide
        assert (blind.holes[0] == face.parsed.region).all()
        assert (hidden.holes[0] == (glasses & face.aligned.inside)).all()
        assert (hidden.photos[0][face.parsed.region] == 1).all()  # it starts from what the first pass made
        assert (reference[hidden.holes[0]] == 2).all()
        assert (reference[face.parsed.region & ~hidden.holes[0]] == 1).all()
        assert (reference[~face.parsed.region] == 200).all()

    def test_their_margin_is_filled_too_and_ends_with_the_photo(self, face):
        (blind, hidden), _ = self.ask([face], dilation=1 / SIDE)
        assert hidden.holes[0].sum() > (face.parsed.parsing == GLASSES)[face.aligned.inside].sum()
        for asked in (blind, hidden):
            assert not asked.holes[0][~face.aligned.inside].any()

    def test_without_hidden_classes_there_is_one_pass_that_knows_of_them(self, face):
        [blind], [reference] = self.ask([face], hidden_classes=())
        assert (blind.parsing[0] == face.parsed.parsing).all()
        assert (reference[face.parsed.region] == 1).all()

    def test_a_face_that_wears_nothing_has_one_pass(self, face):
        skin_only = np.where(face.parsed.parsing, SKIN, 0).astype(np.uint8)
        bare = replace(face, parsed=replace(face.parsed, parsing=skin_only))
        [_], [reference] = self.ask([bare])
        assert (reference[face.parsed.region] == 1).all()
        (_, hidden), [alone, _] = self.ask([bare, face])
        assert (alone == reference).all()
        assert len(hidden.photos) == 1  # the other one's
        assert hidden.holes.any()

    def test_two_passes_fill_them_with_what_differs_and_start_from_the_photo(self, face):
        (_, second), _ = self.ask([face], passes=2, second_pass_contrast=1.0)
        assert (second.photos[0] == face.aligned.raw).all()
        assert (second.holes[0] == ((face.parsed.parsing == GLASSES) & face.aligned.inside)).all()

    def test_a_taxonomy_without_them_is_asked_for_none(self, face):
        bare = replace(CELEBM, skin=(), worn=())
        spy = Spy()
        ReferenceGenerator(spy, bare, ReferenceSettings(hidden_classes=())).generate([face], [(0,)])
        assert len(spy.asked) == 1
