"""The door for Python: what it takes, what it gives, and that it gives the same as the command line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from PIL import Image
from typer.testing import CliRunner

import s3pot_batch
from s3pot_batch import ConfigError, ItemError, PhotoAnswer, Segmenter, Settings, segment_many
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.cli import app
from s3pot_batch.stages.method.alignment import NotAFace
from s3pot_batch.stages.method.faces import Hint
from s3pot_batch.stages.models.profiles import find_profile
from s3pot_batch.stages.rle import encode_rle
from tests.portraits import MARKS, blank, occluded, portrait

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript

FRAME = find_profile("embedded").settings.faces.frame
PER_IMAGE = {"segments": {"per_image": True, "prompt_step": 4}, "training": {"epochs": 2, "learning_rate": 1e-3}}
"""Few steps that are long enough to be seen."""


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(device="cpu")


@pytest.fixture(scope="module")
def answer(segmenter) -> PhotoAnswer:
    return segmenter.segment(occluded(), image_id="photo")


def two_faces():
    return np.hstack([occluded(), portrait()[:, ::-1]])


@pytest.fixture(scope="module")
def two(segmenter) -> PhotoAnswer:
    return segmenter.segment(two_faces())


@pytest.fixture
def path(tmp_path):
    Image.fromarray(occluded()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def settings(**changes) -> Settings:
    from s3pot_batch.stages.settings import changed

    return changed(find_profile("embedded").settings, changes)


def same(one: PhotoAnswer, other: PhotoAnswer) -> bool:
    """To the last bit."""
    pairs = list(zip(one.faces, other.faces, strict=True))
    return one.shape == other.shape and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in pairs
        for name in ("bbox", "landmarks", "score", "reference", "contrast", "occlusion", "probability", "region",
                     "predicted_iou", "parse_confidence", "ratio")
    )  # fmt: skip


def by_command_line(folder, photo, *options) -> dict:
    """The row of ``segments.parquet``, and with it the fine figures that only the run's own files have."""
    Image.fromarray(photo).save(folder / "photo.png")
    write_parquet(pa.table({"image": ["photo.png"]}), folder / "in.parquet")
    words = ["segment", "--manifest", folder / "in.parquet", "--run", folder / "run", "--device", "cpu", "--workers", 0]
    done = CliRunner().invoke(app, [str(word) for word in [*words, *options]])
    assert done.exit_code == 0, done.output
    return pq.read_table(folder / "run" / "segments.parquet").to_pylist()[0]


@pytest.mark.parametrize("name", s3pot_batch.__all__)
def test_every_name_of_the_package_is_there(name):
    assert getattr(s3pot_batch, name).__name__ == name


def test_a_name_that_the_package_lacks_is_not_there():
    assert not hasattr(s3pot_batch, "typo")


def test_array_picture_and_path_are_one_photo(segmenter, answer, path):
    photo = occluded()
    assert same(segmenter.segment(photo, image_id="photo"), answer)
    assert np.array_equal(photo, occluded()), "the photo that was given was changed"
    with Image.open(path) as picture:
        assert same(segmenter.segment(picture, image_id="photo"), answer)
    assert same(segmenter.segment(path), answer)  # the id is the file's stem
    assert same(segmenter.segment(str(path)), answer)


def test_an_array_may_lie_in_memory_as_it_likes(segmenter, answer):
    turned = np.ascontiguousarray(occluded()[..., ::-1])[..., ::-1]  # as OpenCV's BGR is made RGB
    turned.flags.writeable = False
    assert same(segmenter.segment(turned, image_id="photo"), answer)


def test_a_picture_is_turned_as_its_camera_says(segmenter, tmp_path):
    picture, exif = Image.fromarray(occluded()).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[274] = 6  # to be seen upright, turn it by 90° clockwise
    picture.save(tmp_path / "photo.png", exif=exif)
    by_path = segmenter.segment(tmp_path / "photo.png")
    assert len(by_path.faces) == 1
    with Image.open(tmp_path / "photo.png") as opened:
        assert same(segmenter.segment(opened, image_id="photo"), by_path)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16"])
def test_a_picture_of_any_mode_is_a_photo(segmenter, mode):
    assert segmenter.segment(Image.fromarray(blank()).convert("L").convert(mode)).shape == (8, 128)


def test_the_command_line_gives_the_same_mask(answer, tmp_path):
    row = by_command_line(tmp_path, occluded())
    assert row["occlusion"] == encode_rle(answer.occlusion)
    assert row["face_region"] == encode_rle(answer.region)
    assert row["occlusion_ratio"] == answer.ratio
    (face,), (ours,) = row["faces"], answer.faces
    assert face["bbox"] == list(ours.bbox)
    assert (face["score"], face["parse_confidence"]) == (ours.score, ours.parse_confidence)
    assert (face["occlusion_ratio"], face["predicted_iou"]) == (ours.ratio, ours.predicted_iou)


def test_the_command_line_gives_the_same_mask_with_per_image_fitting(answer, tmp_path):
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(PER_IMAGE))
    row = by_command_line(tmp_path, occluded(), "--config", tmp_path / "mine.toml")
    fitted = Segmenter(device="cpu", config=tmp_path / "mine.toml").segment(occluded(), image_id="photo")
    assert row["occlusion"] == encode_rle(fitted.occlusion)
    assert row["face_region"] == encode_rle(fitted.region)
    assert row["faces"][0]["predicted_iou"] == fitted.faces[0].predicted_iou
    assert Segmenter(settings=settings(**PER_IMAGE)).settings == Segmenter(config=tmp_path / "mine.toml").settings
    assert fitted.faces[0].predicted_iou != answer.faces[0].predicted_iou, "the fit changed nothing"


def test_every_field_has_its_shape_and_type(answer):
    assert answer.shape == (256, 256)
    assert len(answer.faces) == 1
    (face,) = answer.faces
    arrays = {
        "landmarks": ((5, 2), np.float64), "reference": ((FRAME, FRAME, 3), np.uint8),
        "contrast": ((FRAME, FRAME), np.float32), "region": ((256, 256), np.bool_),
        "occlusion": ((256, 256), np.bool_), "probability": ((256, 256), np.float32),
    }  # fmt: skip
    for name, (shape, dtype) in arrays.items():
        assert (getattr(face, name).shape, getattr(face, name).dtype) == (shape, dtype), name
    assert face.aligned.raw.shape == (FRAME, FRAME, 3)
    assert face.aligned.raw.dtype == np.uint8
    for name in ("score", "parse_confidence", "predicted_iou", "ratio"):
        assert type(getattr(face, name)) is float, name
        assert 0 <= getattr(face, name) <= 1, name
    assert [type(edge) for edge in face.bbox] == [float] * 4
    for name in ("occlusion", "region"):
        assert (getattr(answer, name).shape, getattr(answer, name).dtype) == ((256, 256), np.bool_), name
    assert type(answer.ratio) is float


def test_what_is_said_of_a_face_agrees_with_itself_and_with_the_photo(answer):
    (face,) = answer.faces
    assert np.abs(face.landmarks - MARKS).max() < 12
    x0, y0, x1, y1 = face.bbox
    assert x0 < MARKS[:, 0].min() < MARKS[:, 0].max() < x1
    assert y0 < MARKS[:, 1].min() < MARKS[:, 1].max() < y1
    assert not (face.occlusion & ~face.region).any()
    assert np.array_equal(face.occlusion, face.probability > 0.5)
    assert not face.probability[~face.region].any()
    assert face.ratio == face.occlusion.sum() / face.region.sum()
    bar = np.abs(occluded().astype(int) - portrait()).any(-1) & face.region
    assert (face.occlusion & bar).sum() > 0.5 * bar.sum()
    assert np.array_equal(answer.occlusion, face.occlusion)
    assert np.array_equal(answer.region, face.region)
    assert answer.ratio == face.ratio


def test_a_photo_without_a_face_has_empty_masks(segmenter):
    found = segmenter.segment(blank())
    assert found.faces == ()
    assert found.shape == found.occlusion.shape == found.region.shape == (8, 128)
    assert found.occlusion.dtype == found.region.dtype == np.bool_
    assert not found.occlusion.any()
    assert not found.region.any()
    assert found.ratio == 0


def test_many_photos_in_batches_are_the_same_as_one_by_one(segmenter, answer, two, path):
    singles = [answer, segmenter.segment(blank()), two]
    many = list(segmenter.segment_many(iter([path, blank(), two_faces()]), batch_size=2))
    assert all(same(*pair) for pair in zip(many, singles, strict=True))


def test_many_photos_are_read_when_their_turn_comes(segmenter):
    read = []

    def photos():
        for n in range(5):
            read.append(n)
            yield blank()

    answers = segmenter.segment_many(photos(), batch_size=2)
    assert read == []
    next(answers)
    assert read == [0, 1]
    assert len(list(answers)) == 4


def test_many_photos_without_a_segmenter(segmenter):
    (found,) = segment_many([blank()])
    assert same(found, segmenter.segment(blank()))


def test_two_faces_are_united_in_the_photos_masks(two):
    assert len(two.faces) == 2
    assert [face.bbox[0] < 256 for face in two.faces] != [True, True]
    assert np.array_equal(two.occlusion, two.faces[0].occlusion | two.faces[1].occlusion)
    assert np.array_equal(two.region, two.faces[0].region | two.faces[1].region)
    assert two.ratio == two.occlusion.sum() / two.region.sum()


def test_known_landmarks_are_believed(segmenter):
    found = segmenter.segment(occluded(), hint=Hint(landmarks=MARKS))
    assert np.array_equal(found.faces[0].landmarks, MARKS)
    assert found.faces[0].score == 1
    with pytest.raises(NotAFace):
        segmenter.segment(occluded(), hint=Hint(landmarks=np.zeros((5, 2))))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), "8×8×3 float32"),
        (np.zeros((8, 8), np.uint8), "8×8 uint8"),
        (np.zeros((8, 8, 4), np.uint8), "8×8×4 uint8"),
        (np.zeros((3, 8, 8), np.uint8), "3×8×8 uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), "1×8×8×3 uint8"),
        (np.zeros((0, 8, 3), np.uint8), "0×8×3 uint8"),
        ([[[0.5, 0, 0]]], "1×1×3 float64"),
        (None, "object"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_line(segmenter, wrong, said):
    with pytest.raises(ValueError, match=f"a photo is H×W×3 uint8 RGB, not .*{said}") as refused:
        segmenter.segment(wrong)
    assert "\n" not in str(refused.value)


def test_a_photo_that_cannot_be_read_says_why(segmenter, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(ItemError, match="not a photo that Pillow can read"):
        segmenter.segment(tmp_path / "text.jpg")
    with pytest.raises(ItemError, match="no such file"):
        segmenter.segment(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"profile": "nobody"}, "no profile nobody"),
        ({"device": "typo"}, "device typo cannot be used here: "),
        ({"device": "cuda:99"}, "device cuda:99 cannot be used here: "),
        ({"settings": settings(references={"face_classes": ["typo"]})}, "face_classes: there is no typo"),
        ({"settings": settings(training={"objectives": ["typo"]})}, "objectives: there is no typo"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        Segmenter(**arguments)


def test_files_may_be_named_by_text(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint there"):
        Segmenter(adapter=str(tmp_path))
    (tmp_path / "mine.toml").write_text("[segments]\nthreshold = 0.9\n")
    mine = Segmenter(device="cpu", config=str(tmp_path / "mine.toml"))
    assert mine.settings.segments.threshold == 0.9


def test_the_threads_of_torch_are_given_back(segmenter):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        segmenter.segment(blank())
        assert torch.get_num_threads() == 2
        with pytest.raises(NotAFace):
            segmenter.segment(blank(), hint=Hint(landmarks=np.zeros((5, 2))))
        assert torch.get_num_threads() == 2
        next(iter(segmenter.segment_many([blank(), blank()], batch_size=1)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_answer_shows_what_is_hidden_in_orange(answer):
    picture = np.asarray(answer.to_pil())
    photo = occluded()
    assert picture.shape == photo.shape
    assert (picture[~answer.occlusion] == photo[~answer.occlusion]).all()
    orange = photo[answer.occlusion] * 0.35 + np.array([213, 94, 0]) * 0.65
    assert abs(picture[answer.occlusion] - orange).max() <= 1
    [face] = answer.faces
    assert face.to_pil().size == (3 * FRAME, FRAME)
    assert (np.asarray(face.to_pil())[:, FRAME : 2 * FRAME] == face.reference).all()


def test_a_notebook_shows_picture_and_figures(answer, segmenter):
    html = answer._repr_html_()
    assert f"1 face, {answer.ratio:.1%} hidden, in orange" in html
    assert f"<td>{answer.ratio:.1%}</td>" in html
    assert 'src="data:image/webp;base64,UklGR' in html
    assert answer.faces[0]._repr_html_().count("<td>") == 5
    assert "No face was found" in segmenter.segment(blank())._repr_html_()


def test_faces_go_to_supervision(two, segmenter):
    found = two.to_supervision()
    assert len(found) == 2
    np.testing.assert_allclose(found.xyxy, [face.bbox for face in two.faces], rtol=1e-6)
    assert (found.mask == np.stack([face.occlusion for face in two.faces])).all()
    assert found.data["occlusion_ratio"].tolist() == [face.ratio for face in two.faces]
    assert len(segmenter.segment(blank()).to_supervision()) == 0
