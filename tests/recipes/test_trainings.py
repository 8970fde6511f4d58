"""The recipes of the embedded models, run again on two public-domain portraits, give weights that the package loads."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recipes import inpainter, parser, segmenter
from recipes.faces import UNLABELLED, is_held_out
from recipes.parsing_net import ParsingNet
from recipes.prompt_samples import PromptSamples
from recipes.shipping import SHIPPED
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import EMBEDDED, read_state
from s3pot_batch.stages.models.inpainters.controlnet import build
from s3pot_batch.stages.models.protocols import Inpainting
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_small import build_small_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings

pytestmark = [  # facer wants TorchScript, which torch is about to drop
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

QUICK: dict[str, Any] = {"steps": 1, "batch": 2, "measured": 1, "workers": 0}
REPEATED: dict[str, Any] = {**QUICK, "steps": 2}
"""What is drawn and what the optimizer remembers come from the first step, too."""


def report(out, name):
    return json.loads((out / f"{name}.json").read_text())


def parser_state(folder):
    return torch.jit.load(str(folder / "parser.pt")).state_dict()


@pytest.fixture(scope="module")
def parsed(data, work, tmp_path_factory):
    """Where a trained parser lies."""
    folder = tmp_path_factory.mktemp("parsed")
    parser.train(parser.ParserRecipe(data=data, work=work, out=folder, seed=3, **REPEATED))
    return folder


def test_a_recipes_weights_are_the_same_again(data, work, parsed, tmp_path):
    parser.train(parser.ParserRecipe(data=data, work=work, out=tmp_path, seed=3, **REPEATED))
    one, again = (parser_state(folder) for folder in (parsed, tmp_path))
    ParsingNet().load_state_dict(one)
    assert all(torch.equal(one[name], again[name]) for name in one)
    told = {"seed": 3, "device": "cpu", "minutes": 15.0, "batch": 2, "rate": 2e-3, "keep": 0.0, "taught": False}
    assert report(parsed, "parser")["recipe"] == told


def test_a_recipe_goes_on_from_the_shipped_weights(data, work, tmp_path):
    parser.train(parser.ParserRecipe(data=data, work=work, out=tmp_path, start=SHIPPED, rate=0.0, **QUICK))
    ours, again = (parser_state(folder) for folder in (EMBEDDED, tmp_path))
    assert ours.keys() == again.keys()
    assert all(torch.allclose(ours[name], again[name]) for name in ours)


def test_parser_inpainter_and_segmenter_are_trained_one_after_the_other(data, work, parsed, tmp_path):
    common = {"data": data, "work": work, **QUICK}
    script = parsed / "parser.pt"
    assert torch.jit.load(str(script)).float()(torch.rand(1, 3, 448, 448))[0].shape[:2] == (1, len(CELEBM.classes))
    inpainter.vae(inpainter.VaeRecipe(**common))
    inpainter.controlnet(inpainter.ControlNetRecipe(out=tmp_path, parser=script, **common))
    trained = build(tmp_path / "inpainter", "cpu", size=128, condition="parse+photo", residual=True)
    photo, holes = np.full((1, 128, 128, 3), 90, np.uint8), np.zeros((1, 128, 128), bool)
    holes[:, 40:80, 40:80] = True
    asked = Inpainting(photo, np.zeros((1, 128, 128), np.uint8), holes, hide=False, taxonomy=CELEBM)
    filled = trained.inpaint(asked, ReferenceSettings(), [torch.Generator().manual_seed(0)])
    assert np.array_equal(filled[~holes], photo[~holes])
    assert not np.array_equal(filled[holes], photo[holes])
    drawn = {"parser": script, "inpainter": tmp_path / "inpainter"}
    segmenter.train(segmenter.SegmenterRecipe(out=tmp_path, **drawn, **common | {"batch": 1}))
    build_small_sam().load_state_dict(read_state(tmp_path / "segmenter.safetensors"))
    assert set(report(tmp_path, "segmenter")["metrics"]) >= {"iou_thing", "iou_face", "iou_part"}


def test_a_segmenters_loss_trains_its_encoder_its_decoder_and_its_mask_prompt(faces, data, work):
    recipe = segmenter.SegmenterRecipe(data=data, work=work, **QUICK)
    sam = segmenter.start_of(recipe)
    loss = segmenter.SegmenterLoss(recipe, SamSegmenter(sam, frozen=False))
    draw, rng = PromptSamples(faces, faces.parsing, dense=1.0), np.random.default_rng(0)
    hinted = next(drawn for drawn in iter(lambda: draw(rng), None) if drawn["hints"].any())
    batch = {name: torch.from_numpy(value)[None] for name, value in hinted.items()}
    torch.stack(list(loss(batch).values())).sum().backward()
    for part in (sam.image_encoder, sam.mask_decoder.transformer, sam.prompt_encoder.mask_downscaling):
        assert all(weight.grad is not None and weight.grad.any() for weight in part.parameters() if weight.ndim > 1)


def test_a_share_of_a_start_that_nobody_named_cannot_be_kept(tmp_path):
    with pytest.raises(ConfigError, match="--start"):
        segmenter.SegmenterRecipe(data=tmp_path, work=tmp_path, keep=0.5)


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
    common = {"data": tmp_path, "work": tmp_path, "out": tmp_path, **QUICK}
    parser.train(parser.ParserRecipe(teacher=EMBEDDED / "parser.pt", **common))
    assert report(tmp_path, "parser")["recipe"]["taught"]
    [labels] = tmp_path.glob("parsing-*.npy")
    assert (np.load(labels) != UNLABELLED).any(axis=(1, 2)).all()
    with pytest.raises(ConfigError, match="no annotated face"):
        parser.train(parser.ParserRecipe(**common))
