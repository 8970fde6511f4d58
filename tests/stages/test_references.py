"""Stage one on real photos, with the shipped models: good ones, bad ones, and ones that the manifest says more of."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from examples.demo_photos import load_portrait
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.outcomes import items_path, read_outcomes
from s3pot_batch.manifests.plan import make_plan, write_plan
from s3pot_batch.stages import references, store
from s3pot_batch.stages.attempts import HOPELESS, Attempts
from s3pot_batch.stages.base import ShardTask, StageContext, run_task
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.alignment import Alignment
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.method.stage_one import StageOne
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.settings import changed
from tests.stages.conftest import prepare

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript
MARKS = [206.0, 107, 242, 107, 224, 128, 210, 144, 238, 144]
IMAGES = ("astronaut.png", "grey.png", "text.png", "nowhere.png", "astronaut.png", "astronaut.png")
LANDMARKS = (None, None, None, None, MARKS, [3.0] * 10)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A run folder of six photos, stage one done in one shard, without a plan by then; and the outcomes."""
    folder = tmp_path_factory.mktemp("references")
    Image.fromarray(load_portrait("astronaut")).save(folder / "astronaut.png")
    Image.fromarray(np.full((80, 100, 3), 127, np.uint8)).save(folder / "grey.png")
    (folder / "text.png").write_text("no photo")
    write_parquet(pa.table({"image": IMAGES, "landmarks": LANDMARKS}), folder / "in.parquet")
    plan = make_plan(read_manifest(folder / "in.parquet"), shard_size=6, max_faces=4)
    write_plan(plan, folder / "run")
    context = StageContext(folder / "run", EMBEDDED, EMBEDDED.settings, "f")
    prepare("references", context)
    (folder / "run" / "plan.parquet").unlink()
    report = run_task(ShardTask("references", folder / "run", 0, plan.shard(0)), context)
    assert (report.items, report.ok, report.no_face, report.failed) == (6, 2, 1, 3)
    return folder / "run", read_outcomes(folder / "run", "references", 0)


def test_every_photo_has_an_outcome_in_order(outcome):
    _, outcomes = outcome
    assert [one.index for one in outcomes] == list(range(6))
    assert [one.status for one in outcomes] == ["ok", "no_face", "failed", "failed", "ok", "failed"]
    assert [one.error_type for one in outcomes] == [None, None, "NotAnImage", "MissingFile", None, "BadLandmarks"]
    assert all(one.seconds > 0 for one in outcomes[:5])


def test_errors_say_in_one_line_which_photo_and_what_to_do(outcome):
    _, outcomes = outcome
    for number, words in (
        (2, "text.png: not a photo"),
        (3, "nowhere.png: no such file"),
        (5, "give left eye, right eye, nose tip"),
    ):
        assert words in outcomes[number].error
        assert "\n" not in outcomes[number].error


def test_a_photo_that_kills_its_process_is_left_out_and_its_neighbours_are_not(tmp_path):
    for name in ("one", "two"):
        Image.fromarray(np.full((80, 100, 3), 127, np.uint8)).save(tmp_path / f"{name}.png")
    write_parquet(pa.table({"image": ["one.png", "two.png"]}), tmp_path / "in.parquet")
    plan = make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=2, max_faces=1)
    trying = items_path(tmp_path, "references", 0).with_suffix(".trying")
    for _ in range(HOPELESS):
        Attempts(trying).begin(1)
    context = StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f")
    result = references.work(plan.shard(0), context)
    assert context.headway.done == 2
    assert [(one.status, one.error_type) for one in result.outcomes] == [("no_face", None), ("failed", "KilledWorker")]
    assert "the process that worked on it died" in result.outcomes[1].error
    assert not trying.exists()


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # the latter is to the stages a card
def test_of_a_process_that_dies_what_came_through_before_is_known(tmp_path, monkeypatch, device):
    """Three photos of one face each; at the third one's reference the process ends."""
    refer, asked = StageOne.refer, []

    def dies(self, faces, names):
        asked.append(names)
        if len(asked) == 3:
            raise SystemExit
        return refer(self, faces, names)

    monkeypatch.setattr(StageOne, "refer", dies)
    Image.fromarray(load_portrait("astronaut")).save(tmp_path / "one.png")
    write_parquet(pa.table({"image": ["one.png"] * 3}), tmp_path / "in.parquet")
    items = make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=3, max_faces=1).shard(0)
    context = StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f", device=device, batch_size=1)
    stage_one, attempts = StageOne(context.models, context.settings), Attempts(tmp_path / "x.trying")
    with pytest.raises(SystemExit):
        references._worked_on(items, stage_one, attempts, context)
    assert context.headway.done == 2
    left = Attempts(tmp_path / "x.trying")
    assert (left.harmless, left.suspects) == ({0, 1}, {2})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("too much"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        IndexError("odd"),
        ValueError(),
    ],
)
def test_whatever_a_photo_raises_is_its_own(tmp_path, monkeypatch, error):
    def raises(self, photo, hint):
        if photo[0, 0, 0] == 1:
            raise error
        yield from ()
        return []

    monkeypatch.setattr(StageOne, "search", raises)
    for value in (0, 1, 2):
        Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(tmp_path / f"{value}.png")
    write_parquet(pa.table({"image": ["0.png", "1.png", "2.png"]}), tmp_path / "in.parquet")
    plan = make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=3, max_faces=1)
    result = references.work(plan.shard(0), StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f"))
    assert [one.status for one in result.outcomes] == ["no_face", "failed", "no_face"]
    assert result.outcomes[1].error_type == type(error).__name__
    assert result.outcomes[1].error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ConfigError("a setting"),
    ],
)
def test_what_is_not_of_a_photo_is_not_blamed_on_it(tmp_path, monkeypatch, error):
    def raises(self, photo, hint):
        yield from ()
        raise error

    monkeypatch.setattr(StageOne, "search", raises)
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "0.png")
    write_parquet(pa.table({"image": ["0.png"]}), tmp_path / "in.parquet")
    plan = make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=3, max_faces=1)
    with pytest.raises(type(error)):
        references.work(plan.shard(0), StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f"))


def test_models_are_loaded_before_any_photo_can_be_blamed_for_it(tmp_path):
    Image.fromarray(np.full((80, 100, 3), 127, np.uint8)).save(tmp_path / "0.png")
    write_parquet(pa.table({"image": ["0.png"]}), tmp_path / "in.parquet")
    plan = make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=1, max_faces=1)
    profile = replace(EMBEDDED, inpainter=replace(EMBEDDED.inpainter, kind="nowhere"))
    with pytest.raises(ConfigError, match="there is no inpainter nowhere"):
        references.work(plan.shard(0), StageContext(tmp_path, profile, EMBEDDED.settings, "f"))
    assert not (tmp_path / "items").exists(), "no attempt at a photo was noted"


def test_sizes_are_those_of_photos_that_could_be_read(outcome):
    _, outcomes = outcome
    assert [(one.height, one.width) for one in outcomes] == [
        (512, 512), (80, 100), (None, None), (None, None), (512, 512), (None, None),
    ]  # fmt: skip


def test_a_face_is_described_and_stored_at_its_row(outcome):
    run, outcomes = outcome
    [face] = outcomes[0].faces
    assert face.row == 0
    assert EMBEDDED.settings.faces.min_score <= face.score <= 1
    assert face.parse_confidence > EMBEDDED.settings.faces.min_parse_confidence
    matrix, landmarks = np.array(face.matrix).reshape(2, 3), np.array(face.landmarks).reshape(5, 2)
    np.testing.assert_allclose(Alignment.by_landmarks(landmarks, 256).matrix, matrix)
    assert np.linalg.norm(landmarks.mean(0) - np.array(MARKS).reshape(5, 2).mean(0)) < 10
    pair = read_pair(run, 0)
    assert (pair.raw == Alignment(matrix, 256).warp(load_portrait("astronaut"))).all()
    assert 0.1 < pair.region.mean() < 0.6
    assert pair.region.dtype == bool
    assert (pair.reference != pair.raw).any()


def test_a_reference_is_seeded_by_its_photos_id_and_its_number_in_there(outcome):
    run, outcomes = outcome
    stage_one = StageOne(Models(EMBEDDED), EMBEDDED.settings)
    found = stage_one.find(load_portrait("astronaut"))
    [expected] = stage_one.refer(found, [(outcomes[0].image_id, 0)])
    assert (read_pair(run, 0).reference == expected.reference).all()


def test_given_landmarks_are_believed(outcome):
    run, outcomes = outcome
    [face] = outcomes[4].faces
    assert (face.row, face.score, list(face.landmarks)) == (16, 1.0, MARKS)
    assert face.bbox == (206.0, 107.0, 242.0, 144.0)
    assert read_pair(run, 16).region.any()


def test_slots_without_a_face_stay_empty(outcome):
    run, _ = outcome
    filled = [bool(row.any()) for row in store.read_rows(run / "references.zarr", "raw", slice(0, 24))]
    assert [row for row, any_pixel in enumerate(filled) if any_pixel] == [0, 16]


def test_arrays_say_what_they_hold(outcome):
    run, _ = outcome
    raw, reference, parsing, region = store.read_row(
        run / "references.zarr", 0, "raw", "reference", "parsing", "region"
    )
    assert raw.shape == reference.shape == (256, 256, 3)
    assert parsing.shape == region.shape == (256, 256)
    assert parsing.max() < 19
    assert set(np.unique(region)) == {0, 1}


FACE, BESIDE = [180.0, 60, 270, 180], [300.0, 20, 400, 120]
SIX = (None, None, FACE, BESIDE, [520.0, 100, 620, 200])
"""The boxes of five photos: of six portraits, of the astronaut, and of her with a box on her face, beside, outside."""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Outcomes by the most faces that a photo may have: stage one on those photos, without an inpainter's time."""
    folder = tmp_path_factory.mktemp("many")
    portrait = load_portrait("astronaut")
    tile = portrait[:256, 96:352]
    Image.fromarray(np.vstack([np.hstack([tile] * 3)] * 2)).save(folder / "six.png")
    Image.fromarray(portrait).save(folder / "astronaut.png")
    write_parquet(pa.table({"image": ["six.png"] + 4 * ["astronaut.png"], "bbox": SIX}), folder / "in.parquet")
    found = {}
    for most, photos in ((4, 5), (6, 1)):  # the other four are found alike
        settings = changed(EMBEDDED.settings, {"faces": {"max_faces": most}, "references": {"passes": 1}})
        plan = make_plan(read_manifest(folder / "in.parquet", photos), shard_size=5, max_faces=most)
        run = folder / f"run{most}"
        write_plan(plan, run)
        context = StageContext(run, EMBEDDED, settings, "f")
        prepare("references", context)
        report = run_task(ShardTask("references", run, 0, plan.shard(0)), context)
        assert (report.ok, report.no_face, report.failed) == ((3, 1, 1) if photos == 5 else (1, 0, 0))
        found[most] = read_outcomes(run, "references", 0)
    return found


def test_faces_beyond_the_most_are_counted_and_left_out(many):
    assert [(len(one.faces), one.faces_left_out) for one in many[4]] == [
        (4, 2), (1, 0), (1, 0), (0, None), (0, None),
    ]  # fmt: skip
    assert (len(many[6][0].faces), many[6][0].faces_left_out) == (6, 0)
    assert [face.row for face in many[4][0].faces] == [0, 1, 2, 3]
    centres = [np.array(face.landmarks).reshape(5, 2).mean(0) // 256 for face in many[6][0].faces]
    assert sorted(tuple(map(int, centre)) for centre in centres) == [(x, y) for x in range(3) for y in range(2)]


def test_a_given_box_is_searched_and_believed(many):
    _, unaided, at_the_face, beside, outside = many[4]
    here, there = (np.array(one.faces[0].landmarks).reshape(5, 2) for one in (unaided, at_the_face))
    assert np.abs(here - there).max() < 8
    assert [one.status for one in (beside, outside)] == ["no_face", "failed"]
    assert beside.error is None
    assert (outside.error_type, "lies outside the photo of 512×512 pixels" in outside.error) == ("BadBox", True)


def test_beside_a_card_photos_are_found_in_batches_and_a_bad_one_costs_no_other(tmp_path, outcome, monkeypatch):
    """``cpu:0`` is to torch the processor, and to the stages a device like any other."""
    run, expected = outcome
    maps, batches = FaceParser.maps, []

    def noted(self, faces):
        batches.append(len(faces))
        return maps(self, faces)

    monkeypatch.setattr(FaceParser, "maps", noted)
    items = make_plan(read_manifest(run.parent / "in.parquet"), shard_size=6, max_faces=4).shard(0)
    context = StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f", device="cpu:0", batch_size=5)
    found = references.work(items, context)
    assert batches[0] == 2  # of two photos
    facts = [
        [(one.status, one.error_type, one.error, one.content, len(one.faces)) for one in some]
        for some in (found.outcomes, expected)
    ]
    assert facts[0] == facts[1]
    assert list(found.arrays) == [0, 16]
    assert context.headway.done == 6
    for row, arrays in found.arrays.items():
        pair = read_pair(run, row)
        assert (arrays["raw"] == pair.raw).all()
        assert np.abs(arrays["reference"].astype(int) - pair.reference).max() <= 1  # a batch rounds otherwise


def test_a_face_that_the_parser_fails_at_is_its_photos(tmp_path, outcome, monkeypatch):
    run, _ = outcome
    maps = FaceParser.maps

    def fails(self, faces):
        if any((face.detection.landmarks.ravel() == MARKS).all() for face in faces):
            raise IndexError("odd")
        return maps(self, faces)

    monkeypatch.setattr(FaceParser, "maps", fails)
    items = make_plan(read_manifest(run.parent / "in.parquet"), shard_size=6, max_faces=4).shard(0)
    context = StageContext(tmp_path, EMBEDDED, EMBEDDED.settings, "f", device="cpu:0", batch_size=6)
    found = references.work(items, context)
    assert [one.status for one in found.outcomes] == ["ok", "no_face", "failed", "failed", "failed", "failed"]
    assert (found.outcomes[4].error_type, found.outcomes[4].error) == ("IndexError", "odd")
