"""What the recipes draw: landmarks, parts and prompts are where the picture shows them, mirrored or not."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from recipes import adapter_photos, inpainter, parser, prompt_samples, refiner_samples
from recipes.faces import ANNOTATED, UNLABELLED, Faces, crop, is_held_out, read_annotation
from recipes.held_out import wears, write_held_out
from s3pot_batch.stages.models.taxonomy import CELEBM

SAMPLES: dict[ModuleType, Callable[[Faces], Callable[[np.random.Generator], object]]] = {
    adapter_photos: adapter_photos.AdapterPhotos,
    parser: parser.ParserSamples,
    inpainter: lambda faces: inpainter.ReferenceSamples(faces, faces.parsing),
    prompt_samples: lambda faces: prompt_samples.PromptSamples(faces, faces.parsing),
    refiner_samples: lambda faces: refiner_samples.OccludedFaces(faces, np.flatnonzero(~faces.held_out)),
}


@pytest.fixture
def drawn(monkeypatch):
    """Of a module's samples: whether each crop was mirrored, and the landmarks that its things are put on by."""

    def record(module):
        mirrored, placed = [], []
        jitter, occlude = module.jitter, module.occlude

        def jittered(*args, **kwargs):
            matrix = jitter(*args, **kwargs)
            mirrored.append(bool(np.linalg.det(matrix[:, :2]) < 0))
            return matrix

        def occluded(rng, face, donor, landmarks):
            placed.append((mirrored[-1], landmarks))
            return occlude(rng, face, donor, landmarks)

        monkeypatch.setattr(module, "jitter", jittered)
        monkeypatch.setattr(module, "occlude", occluded)
        return placed

    return record


@pytest.mark.parametrize("module", SAMPLES, ids=lambda module: module.__name__)
def test_things_are_put_on_a_mirrored_face_by_landmarks_in_the_order_in_which_they_are_seen(module, drawn, faces):
    placed, rng = drawn(module), np.random.default_rng(0)
    draw = SAMPLES[module](faces)
    for _ in range(20):
        draw(rng)
    assert {mirrored for mirrored, _ in placed} == {False, True}
    for _, (left_eye, right_eye, nose, left_corner, right_corner) in placed:
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_corner[0] < nose[0] < right_corner[0]


def test_the_adapters_photos_have_their_spectacles_the_right_way_up(data, work, drawn, tmp_path):
    placed = drawn(adapter_photos)
    adapter_photos.main(data, work, tmp_path, photos=16)
    assert len(list(tmp_path.glob("*.png"))) == 16
    assert any(mirrored for mirrored, _ in placed)
    for _, points in placed:  # what is down for things on the face leads from its eyes to its mouth
        across = points[1] - points[0]
        down = np.array([-across[1], across[0]])
        assert down @ (points[3:].mean(0) - points[:2].mean(0)) > 0


def test_the_adapters_photos_are_the_same_for_the_same_seed_and_others_for_another(data, work, tmp_path):
    for name, seed in {"a": 6, "b": 6, "c": 7}.items():
        adapter_photos.main(data, work, tmp_path / name, photos=2, seed=seed)
    a, b, c = ([np.asarray(Image.open(path)) for path in sorted((tmp_path / name).iterdir())] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_mirrored_crop_has_its_parts_by_their_names_on_the_other_side():
    size = 8
    image = np.zeros((size, size, 3), np.uint8)
    eyes = CELEBM.ids(("re", "le"))
    parsing = np.full((size, size), UNLABELLED, np.uint8)
    parsing[2, [1, 6]] = eyes  # the person's right eye is seen on the left
    parsing[5, [1, 6]] = CELEBM.ids(("nose", "hair"))
    _, labels = crop(image, parsing, np.array([[-1.0, 0, size - 1], [0, 1, 0]]), size)
    assert labels[2, [1, 6]].tolist() == eyes
    assert labels[5, [1, 6]].tolist() == CELEBM.ids(("hair", "nose"))
    assert labels[0, 0] == UNLABELLED


def test_an_annotations_ids_are_read_by_their_names(tmp_path):
    annotation = np.arange(len(ANNOTATED), dtype=np.uint8)[None]
    cv2.imwrite(str(tmp_path / "parse.png"), annotation)
    read = read_annotation(tmp_path / "parse.png", annotation.shape)
    names = dict(zip(ANNOTATED, (CELEBM.classes[c] for c in read[0]), strict=True))
    assert names | {"skin": "face", "l_eye": "le", "r_brow": "rb", "mouth": "imouth", "cloth": "cloth"} == names
    assert sorted(names.values()) == sorted(CELEBM.classes)


def test_a_prompts_points_lie_on_what_they_ask_for(faces):
    draw, rng = prompt_samples.PromptSamples(faces, faces.parsing, single=True), np.random.default_rng(0)
    for _ in range(20):
        sample = draw(rng)
        for mask, points, labels in zip(sample["masks"], sample["points"], sample["labels"], strict=True):
            x, y = (points[labels >= 0] * len(mask) / len(sample["image"])).astype(int).T
            assert np.array_equal(mask[y, x], labels[labels >= 0])


def test_the_faces_that_nothing_trains_on_are_written_with_their_places(data, tmp_path):
    write_held_out(data, tmp_path / "held.parquet")
    [row] = pq.read_table(tmp_path / "held.parquet").to_pylist()
    assert is_held_out(row["image"])
    assert all(Path(row[name]).is_absolute() and Path(row[name]).is_file() for name in ("image", "parse"))
    assert np.shape(row["landmarks"]) == (5, 2)


@pytest.mark.parametrize(("side", "worn"), [(60, True), (10, False)])
def test_who_wears_glasses_by_its_annotation_is_no_clean_face(tmp_path, side, worn):
    annotation = np.ones((512, 512), np.uint8)  # 1 is skin, and 3 are glasses
    annotation[200 : 200 + side, 100 : 100 + side] = 3
    cv2.imwrite(str(tmp_path / "parse.png"), annotation)
    assert wears(tmp_path / "parse.png") == worn
