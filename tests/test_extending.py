"""The worked examples of docs/extending.md, each run through the real machinery with tiny weights."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline import export as exports
from s3pot_batch.pipeline.config import resolve
from s3pot_batch.pipeline.job import open_job, work
from s3pot_batch.pipeline.options import Options
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.alignment import Alignment
from s3pot_batch.stages.method.objectives import find_objective, total
from s3pot_batch.stages.models import parsers, segmenters
from s3pot_batch.stages.models.profiles import PartSpec
from s3pot_batch.stages.models.registry import PARSERS, SEGMENTERS
from tests.segmenting import asked, assert_as_the_models_forward, assert_it_attends_as_its_decoder

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "extending"
MARKS = np.array([[206, 107], [242, 107], [224, 128], [210, 144], [238, 144]], float)
"""The astronaut's eyes, nose tip and mouth corners."""
FRAME = 256
SAM = {
    "vision_config": {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}  # fmt: skip
"""8×8 tokens of 16 channels from 64 px."""
PLAIN = {"channels": 16, "side": 8}

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory):
    """The examples as pip installs them: modules on the path, and entry points in a dist-info folder beside them."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = [
        line for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]  # fmt: skip
    info.joinpath("entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A parser that has learnt one face by heart, and a random SAM."""
    folder = tmp_path_factory.mktemp("weights")
    torch.jit.script(ByHeart(drawn_parse())).save(str(folder / "lapa.pt"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SamModel(SamConfig(**SAM)).save_pretrained(folder / "sam")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights):
    """A run on a photo with a face and one without, with all the examples at once: trained, segmented, exported."""
    folder = tmp_path_factory.mktemp("run")
    photo = skimage.data.astronaut().copy()
    photo[136:160, 196:252] = (70, 120, 150)
    Image.fromarray(photo).save(folder / "face.png")
    Image.fromarray(skimage.data.rocket()).save(folder / "none.png")
    photos = [{"image": "face.png", "landmarks": MARKS.tolist()}, {"image": "none.png", "landmarks": None}]
    write_parquet(pa.Table.from_pylist(photos), folder / "in.parquet")
    (folder / "profile.toml").write_text(
        f'[parser]\nkind = "lapa"\nweights = "{weights / "lapa.pt"}"\n'
        f'[segmenter]\nkind = "transformers"\nweights = "{weights / "sam"}"\noptions = {{ channels = 16, side = 8 }}\n'
    )
    (folder / "settings.toml").write_text('[training]\nobjectives = ["face_recall", "occlusion_hinge"]\n')
    options = Options(
        folder / "in.parquet", folder / "run", profile=str(folder / "profile.toml"), config=folder / "settings.toml",
        device="cpu", workers=0,
    )  # fmt: skip
    for target in ("train", "segments"):
        assert work(open_job(options, target)).exit_code == 0
    return folder / "run"


class ByHeart(torch.nn.Module):
    """The same logits for every image, as facer expects them: a pair, of which it takes the first."""

    logits: torch.Tensor

    def __init__(self, parse: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", 12 * parse)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.logits.expand(len(images), -1, -1, -1)
        return logits, logits


def drawn_labels():
    """The astronaut's face in its frame, drawn around its landmarks: 256×256 ids of LaPa's classes."""
    labels = np.zeros((FRAME, FRAME), np.uint8)
    left, right, nose, *mouth = Alignment.by_landmarks(MARKS, FRAME).to_frame(MARKS)
    middle, across = (left + right) / 2, np.linalg.norm(right - left)
    for centre, axes, name in (
        (middle, (1.3, 1.6), "hair"), ((middle + nose) / 2 + (0, 0.2 * across), (1.0, 1.35), "face"),
        (left, (0.2, 0.1), "re"), (right, (0.2, 0.1), "le"), (nose, (0.2, 0.2), "nose"),
        (sum(mouth) / 2, (0.4, 0.15), "llip"),
    ):  # fmt: skip
        size = [round(axis * across) for axis in axes]
        cv2.ellipse(labels, np.round(centre).astype(int), size, 0, 0, 360, classes().index(name), -1)
    return labels


def drawn_parse():
    """The same as one-hot 1×11×448×448, where facer's warp puts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
        from facer.face_parsing.farl import pretrain_settings

    points = Alignment.by_landmarks(MARKS, FRAME).to_frame(MARKS)
    setting = pretrain_settings["lapa/448"]
    matrix = setting["get_matrix_fn"](torch.tensor(points, dtype=torch.float32)[None])
    grid = setting["get_grid_fn"](matrix=matrix, orig_shape=(FRAME, FRAME))
    one_hot = F.one_hot(torch.from_numpy(drawn_labels()).long(), len(classes())).permute(2, 0, 1)[None].float()
    return F.grid_sample(one_hot, grid, mode="nearest", padding_mode="border", align_corners=False)


def classes():
    return PARSERS.module("lapa").TAXONOMY.classes


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


# A parser


def test_the_parsers_own_classes_make_the_face_region(run):
    parsing, region = store.read_row(run / "references.zarr", 0, "parsing", "region")
    drawn = drawn_labels()
    assert (parsing == drawn).mean() > 0.97
    assert iou(region > 0, (drawn > 0) & (drawn != classes().index("hair"))) > 0.95
    assert resolve(file=run / "config.toml").settings.references.face_classes == PARSERS.module("lapa").TAXONOMY.face
    assert resolve(file=run / "config.toml").settings.references.hidden_classes == ()


def test_a_class_that_the_parser_lacks_is_named(run, tmp_path):
    (tmp_path / "in.toml").write_text('[references]\nface_classes = ["face", "eyeg"]\n')
    with pytest.raises(ConfigError, match="there is no eyeg; choose from background, face, rb"):
        resolve(file=tmp_path / "in.toml", profile=str(run.parent / "profile.toml"))


def test_the_types_of_every_example_are_checked():
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["modules"]
    assert {path.stem for path in EXAMPLES.glob("*.py")} < set(checked)
    assert {f"examples.{path.stem}" for path in EXAMPLES.parent.glob("*.py")} < set(checked)


# A segmenter


@pytest.fixture(scope="module")
def segmenter(weights):
    return SEGMENTERS.load(PartSpec("transformers", str(weights / "sam"), options=tuple(PLAIN.items())), "cpu")


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_its_steps_are_the_models_own_forward(segmenter, images):
    assert_as_the_models_forward(segmenter, images)
    assert segmenter.encode(images).shape == (2, 16, 8, 8)


def test_it_attends_as_its_decoder_does(segmenter, images):
    assert_it_attends_as_its_decoder(segmenter, images)


def test_its_points_spread_as_it_says(segmenter):
    points = torch.rand(1, 4000, 2, generator=torch.Generator().manual_seed(0))
    embedded = segmenter.embed_points(points, torch.arange(4000)[None].remainder(2).float())
    assert segmenter.point_spread == pytest.approx(float(embedded[:, :-1].std()), rel=0.05)
    assert segmenter.embed_boxes(torch.tensor([[0.1, 0.2, 0.6, 0.7]])).shape == (1, 2, 16)


def test_padding_changes_no_mask(segmenter, images):
    tokens, prompts = asked(segmenter, images)
    maps = segmenter.embed_maps(torch.linspace(-1, 1, 128).reshape(2, 8, 8))
    filled = torch.cat([prompts, torch.full((2, 5, 16), 7.0)], 1)
    padding = torch.arange(filled.shape[1]).expand(2, -1) >= prompts.shape[1]
    for found, alone in zip(
        segmenter.decode(tokens, filled, padding, maps), segmenter.decode(tokens, prompts, maps=maps), strict=True
    ):
        torch.testing.assert_close(found, alone)


def test_the_segmenter_works_in_a_run(run):
    [tokens] = store.read_row(run / "tokens.zarr", 0, "raw")
    assert tokens.shape == (8, 8, 16)
    answer = pq.read_table(run / "segments.parquet").to_pylist()
    assert [row["status"] for row in answer] == ["ok", "no_face"]
    assert answer[0]["occlusion"]["size"] == [512, 512]


def test_options_that_do_not_fit_the_weights_are_refused(weights):
    with pytest.raises(ConfigError, match="channels=16, side=8"):
        SEGMENTERS.load(PartSpec("transformers", str(weights / "sam")), "cpu")


# An objective


def test_the_objective_is_summed_with_ours():
    logits, labels = torch.tensor([0.2, -0.3, 0.1]), torch.tensor([1.0, 0.0, 0.0])
    p = torch.sigmoid(10 * logits)
    expected = 0.5 * (p[2] - 0.5) / 2  # the point at −0.3 is below the margin
    torch.testing.assert_close(total(logits, labels, ["occlusion_hinge"]), expected)
    torch.testing.assert_close(total(logits, labels, ["face_recall", "occlusion_hinge"]), expected - p[0])
    assert total(logits[:1], labels[:1], ["occlusion_hinge"]) == 0
    assert find_objective("occlusion_hinge") is not find_objective("face_hinge")


def test_the_adapter_is_trained_with_it(run):
    facts = json.loads((run / "checkpoint" / "config.json").read_text())
    assert facts["settings"]["objectives"] == ["face_recall", "occlusion_hinge"]
    assert all(-1 < loss < 0.25 for loss in facts["losses"])


def test_a_misspelt_objective_is_told_what_there_is(tmp_path):
    (tmp_path / "in.toml").write_text('[training]\nobjectives = ["oclusion_hinge"]\n')
    with pytest.raises(ConfigError, match="choose from face_recall, occlusion_rejection, face_hinge, occlusion_hinge"):
        resolve(file=tmp_path / "in.toml")


# An export


def test_the_cut_out_is_opaque_where_the_face_is_seen(run):
    done = exports.export(run, "cutout")
    assert (done.folder, done.count) == (run / "cutouts", 1)
    assert [path.name for path in done.folder.iterdir()] == ["face.png"]
    with Image.open(done.folder / "face.png") as found, Image.open(run.parent / "face.png") as photo:
        *colours, alpha = np.moveaxis(np.asarray(found), 2, 0)
        np.testing.assert_array_equal(np.dstack(colours), np.asarray(photo))
    row = pq.read_table(run / "segments.parquet").to_pylist()[0]
    assert set(np.unique(alpha)) == {0, 255}
    share = (alpha > 0).sum() / (drawn_area(row["face_region"]))
    assert share == pytest.approx(1 - row["occlusion_ratio"], abs=1e-6)


def drawn_area(rle):
    from pycocotools import mask

    return int(mask.area({"size": rle["size"], "counts": rle["counts"].encode()}))


# As a file in our folders


@pytest.mark.parametrize(
    ("package", "example", "known", "find"),
    [
        (parsers, "parser_lapa.py", PARSERS.kinds, PARSERS.module),
        (segmenters, "segmenter_transformers.py", SEGMENTERS.kinds, SEGMENTERS.module),
        (exports, "export_cutout.py", exports.FORMATS.names, exports.find_format),
    ],
    ids=["parser", "segmenter", "export"],
)
def test_a_file_in_our_folder_needs_nothing_else(package, example, known, find, tmp_path, monkeypatch):
    assert "in_our_folder" not in known()
    shutil.copy(EXAMPLES / example, tmp_path / "in_our_folder.py")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "in_our_folder" in known()
    assert Path(find("in_our_folder").__file__).parent == tmp_path
    monkeypatch.delitem(sys.modules, f"{package.__name__}.in_our_folder")


# A setting


def test_a_setting_is_one_field(tmp_path):
    copy = tmp_path / "s3pot_batch"
    shutil.copytree(ROOT / "s3pot_batch", copy, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (copy / "stages" / "models" / "weights").symlink_to(ROOT / "stages" / "models" / "weights")
    document = (ROOT / "docs" / "extending.md").read_text()
    [field] = re.findall(r"## A setting\n.*?```python\n(.*?)```", document, re.DOTALL)
    settings = copy / "stages" / "settings.py"
    section = re.compile(r'(class SegmentSettings\(Section\):\n    """.*?"""\n)')
    text, inserted = section.subn(lambda head: f"{head[0]}\n{field}", settings.read_text())
    assert inserted == 1
    settings.write_text(text)
    code = (
        "import json\nfrom pathlib import Path\n"
        "from s3pot_batch.pipeline.config import Config, write_run\nfrom s3pot_batch.stages.base import STAGES\n"
        "from s3pot_batch.stages.models.profiles import EMBEDDED\n"
        "before = Config('embedded', EMBEDDED, EMBEDDED.settings)\n"
        "after = before.with_settings({'segments': {'smallest': 0.02}})\n"
        "names = [stage.name for stage in STAGES]\n"
        "write_run(after, Path('run'), names)\n"
        "try: before.with_settings({'segments': {'smallest': 2}})\n"
        "except Exception as error: refused = str(error)\n"
        "print(json.dumps([[n for n in names if before.fingerprint(n) != after.fingerprint(n)], refused]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    changed, refused = json.loads(done.stdout.splitlines()[-1])
    assert changed == ["segments"]
    assert refused == "settings: segments.smallest = 2: should be less than or equal to 1"
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["segments"]["smallest"] == 0.02
