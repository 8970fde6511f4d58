"""From a photo to the references of its faces, with the shipped models."""

import numpy as np
import pytest

from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.method.references import ReferenceGenerator, differs
from s3pot_batch.stages.method.region import dilated
from s3pot_batch.stages.method.stage_one import StageOne
from s3pot_batch.stages.models.profiles import EMBEDDED
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
    parsed, raw = [face.parsed], face.aligned.raw[None]
    settings = SETTINGS.references
    once, twice = (
        ReferenceGenerator(shipped.inpainter, CELEBM, settings.model_copy(update={"seeds": seeds}))
        for seeds in (1, 2)
    )  # fmt: skip
    [mean] = twice.generate(raw, parsed, [("astronaut", 0)])
    [first] = once.generate(raw, parsed, [("astronaut", 0)])
    [second] = once._once(raw, parsed, [("astronaut", 0, 1)])
    assert np.array_equal(mean, np.mean([first, second], axis=0).round())
    assert np.array_equal(first, face.reference)


def test_a_second_pass_keeps_what_agrees_with_the_first(shipped, found, face):
    raw, parsed = face.aligned.raw[None], [face.parsed]
    settings = SETTINGS.references.model_copy(update={"passes": 2, "second_pass_contrast": 0.3})
    [second] = ReferenceGenerator(shipped.inpainter, CELEBM, settings).generate(raw, parsed, [("astronaut", 0)])
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
    face = found[0]
    every, nose = (FaceParser(shipped.parser, classes) for classes in (CELEBM.face, CELEBM.nose))
    [whole] = every.parse(face.raw[None], face.landmarks[None])
    [part] = nose.parse(face.raw[None], face.landmarks[None])
    assert 0 < part.region.sum() < 0.3 * whole.region.sum()
    assert (whole.parsing == part.parsing).all()
    assert every.taxonomy is CELEBM


def test_a_class_that_the_parser_has_not_is_named(shipped):
    with pytest.raises(ValueError, match="no class typo"):
        FaceParser(shipped.parser, ["face", "typo"])
