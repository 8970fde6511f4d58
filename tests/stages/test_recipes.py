"""The recipes of the embedded models, run again on two public-domain portraits, give weights that the package loads."""

import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from manifests.files import write_parquet
from stages.embedded import train_detector, train_inpainter, train_parser, train_segmenter
from stages.embedded.faces import UNLABELLED, is_held_out, load_faces
from stages.embedded.prompt_samples import PromptSamples
from stages.embedded.weights import FILES, SHIPPED, WEIGHTS, keep_some, start_from
from stages.errors import ConfigError
from stages.evaluation.demo import PORTRAITS, load_portrait
from stages.models.detection_net import DetectionNet
from stages.models.inpainter import ControlNetInpainter
from stages.models.palette import MIRRORED
from stages.models.parsing_net import ParsingNet
from stages.models.sam import build_small_sam
from stages.models.weights import read_state
from stages.settings import ReferenceSettings

pytestmark = [  # facer wants TorchScript, which torch is about to drop
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

QUICK = {"steps": 2, "batch": 2, "measured": 2, "workers": 0}
MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)])
"""Eyes, nose tip and mouth corners, in units of the face's half axes."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A ``faces.parquet`` of five photos, one of them held out by its name, with drawn annotations."""
    folder = tmp_path_factory.mktemp("faces")
    numbers = range(1000)
    held_out = next(n for n in numbers if is_held_out(f"{n}.png"))
    names = [f"{held_out}.png", *[f"{n}.png" for n in numbers if not is_held_out(f"{n}.png")][:4]]
    rows = []
    for name, portrait in zip(names, ["astronaut", "hopper"] * 3, strict=False):
        photo, (centre, axes) = load_portrait(portrait), PORTRAITS[portrait]
        cv2.imwrite(str(folder / name), photo[..., ::-1])
        annotation = np.zeros(photo.shape[:2], np.uint8)
        cv2.ellipse(annotation, centre, axes, 0, 0, 360, 1, -1)  # 1 is skin
        cv2.imwrite(str(folder / f"parse-{name}"), annotation)
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        oval = np.stack([np.cos(angles), np.sin(angles)], 1) * axes + centre
        rows.append({"image": name, "landmarks": (MARKS * axes + centre).tolist(), "face_oval": oval.tolist(),
                     "parse": f"parse-{name}"})  # fmt: skip
    write_parquet(pa.Table.from_pylist(rows), folder / "faces.parquet")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def report(out, name):
    return json.loads((out / f"{name}.json").read_text())


def test_the_detectors_weights_load_and_are_the_same_again(data, work, tmp_path):
    train_detector.main(data, work, tmp_path / "a", seed=3, **QUICK)
    train_detector.main(data, work, tmp_path / "b", seed=3, **QUICK)
    one, again = (read_state(tmp_path / run / "detector.safetensors") for run in "ab")
    DetectionNet().load_state_dict(one)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert report(tmp_path / "a", "detector")["recipe"] == {"seed": 3, "minutes": 8.0, "batch": 2, "rate": 2e-3}


def test_a_recipe_goes_on_from_the_shipped_weights(data, work, tmp_path):
    train_detector.main(data, work, tmp_path, start=SHIPPED, rate=0.0, **QUICK)
    ours, again = (read_state(folder / "detector.safetensors") for folder in (WEIGHTS, tmp_path))
    assert ours.keys() == again.keys()
    assert all(torch.allclose(ours[name], again[name]) for name in ours)


@pytest.mark.parametrize("name", FILES)
def test_every_recipes_module_takes_the_shipped_weights(name):
    generator = {part: getattr(train_inpainter, f"build_{part}") for part in ("vae", "unet", "controlnet")}
    builders = {"detector": DetectionNet, "parser": ParsingNet, "sam": build_small_sam, **generator}
    models = torch.nn.ModuleDict({name: builders[name]()})
    before = {key: value.clone() for key, value in models.state_dict().items()}
    start_from(SHIPPED, models)
    assert any(not torch.equal(value, before[key]) for key, value in models.state_dict().items())


def test_a_trained_model_keeps_a_share_of_what_it_started_from(tmp_path):
    start, models = (torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)}) for _ in range(2))
    torch.save(start.state_dict(), tmp_path / "start.pt")
    trained = {name: value.clone() for name, value in models.state_dict().items()}
    keep_some(models, tmp_path / "start.pt", 0.25)
    for name, value in models.state_dict().items():
        torch.testing.assert_close(value, 0.25 * start.state_dict()[name] + 0.75 * trained[name])
    with pytest.raises(ConfigError, match="--start"):
        train_segmenter.main(tmp_path, tmp_path, keep=0.5)


def test_parser_generator_and_segmenter_are_trained_one_after_the_other(data, work, tmp_path):
    train_parser.main(data, work, tmp_path, **QUICK)
    parser = torch.jit.load(str(tmp_path / "parser.pt")).float()
    assert parser(torch.rand(1, 3, 448, 448))[0].shape[:2] == (1, 19)
    train_inpainter.vae(data, work, **QUICK)
    train_inpainter.controlnet(data, work, tmp_path, tmp_path / "parser.pt", **QUICK)
    inpainter = ControlNetInpainter(tmp_path / "inpainter", "cpu", size=128, six_channels=True, residual=True)
    photo, holes = np.full((1, 128, 128, 3), 90, np.uint8), np.zeros((1, 128, 128), bool)
    holes[:, 40:80, 40:80] = True
    filled = inpainter.inpaint(
        photo, np.zeros((1, 128, 128), np.uint8), holes, hide=False, settings=ReferenceSettings(),
        generators=[torch.Generator().manual_seed(0)],
    )  # fmt: skip
    assert np.array_equal(filled[~holes], photo[~holes])
    assert not np.array_equal(filled[holes], photo[holes])
    train_segmenter.main(
        data, work, tmp_path, tmp_path / "parser.pt", inpainter=tmp_path / "inpainter", **QUICK
    )  # fmt: skip
    build_small_sam().load_state_dict(read_state(tmp_path / "segmenter.safetensors"))
    assert set(report(tmp_path, "segmenter")["metrics"]) >= {"iou_thing", "iou_face", "iou_part"}


def test_a_teacher_labels_the_faces_that_nobody_annotated(data, tmp_path):
    rows = pq.read_table(data / "faces.parquet").to_pylist()
    for row in rows:
        if not is_held_out(row["image"]):
            row["parse"] = None
        row["image"] = str(data / row["image"])
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "faces.parquet")
    for row in rows:
        if row["parse"]:
            (tmp_path / row["parse"]).write_bytes((data / row["parse"]).read_bytes())
    train_parser.main(tmp_path, tmp_path, tmp_path, teacher=WEIGHTS / "parser.pt", **QUICK)
    assert report(tmp_path, "parser")["recipe"]["taught"]
    [labels] = tmp_path.glob("parsing-*.npy")
    assert (np.load(labels) != UNLABELLED).any(axis=(1, 2)).all()
    with pytest.raises(ConfigError, match="no annotated face"):
        train_parser.main(tmp_path, tmp_path, tmp_path, **QUICK)


def test_a_prompts_points_lie_on_what_they_ask_for(data, work):
    faces = load_faces(data, work)
    draw, rng = PromptSamples(faces, faces.parsing, single=True), np.random.default_rng(0)
    for _ in range(20):
        sample = draw(rng)
        for mask, points, labels in zip(sample["masks"], sample["points"], sample["labels"], strict=True):
            x, y = (points[labels >= 0] * len(mask) / len(sample["image"])).astype(int).T
            assert np.array_equal(mask[y, x], labels[labels >= 0])


def test_the_shipped_parser_finds_a_mirrored_faces_parts_on_the_other_side():
    parser = torch.jit.load(str(WEIGHTS / "parser.pt")).float()
    photo = torch.from_numpy(cv2.resize(load_portrait("astronaut"), (448, 448))).permute(2, 0, 1)[None] / 255
    logits, mirrored = parser(photo)[0], parser(photo.flip(-1))[0]
    assert torch.allclose(mirrored, logits.flip(-1)[:, list(MIRRORED)], atol=1e-2)
    assert not torch.allclose(logits, logits.flip(-1), atol=1e-2)
