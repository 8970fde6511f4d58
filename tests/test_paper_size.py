"""What a face costs at paper size, and how that is measured: the tiny size of both, held to what really runs."""

import json

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

import benchmarks.gpu
from benchmarks.costs import flops_of, generating, segmenting, stored
from benchmarks.gpu import covered, gpu
from benchmarks.paper_size import SIZES, WRITERS, Generator, Parser, Unfilled, profile, write
from benchmarks.ways import STEPS, disc
from s3pot_batch.stages.method.enhancement import token_region
from s3pot_batch.stages.models.inpainters.controlnet import ControlNetInpainter
from s3pot_batch.stages.models.protocols import Inpainting
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM

TINY = SIZES["tiny"]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write(TINY, folder)
    return folder


def test_networks_are_called_as_often_as_the_costs_say(written):
    inpainter = Models(profile(TINY, written, "exact")).inpainter
    pipeline = inpainter.pipeline  # type: ignore[attr-defined]
    seen = dict.fromkeys(("VAE encodes the photo", "ControlNet", "UNet", "VAE draws the reference"), 0)

    def count(name, batch):
        seen[name] += len(batch)

    parts = (pipeline.vae.encoder, pipeline.controlnet, pipeline.unet, pipeline.vae.decoder)
    for name, part in zip(seen, parts, strict=True):
        part.register_forward_pre_hook(lambda _, args, name=name: count(name, args[0]))
    photos = torch.randint(0, 256, (1, TINY.frame, TINY.frame, 3), dtype=torch.uint8).numpy()
    holes = disc(TINY.frame)[None]
    asked = Inpainting(photos, holes.astype("uint8"), holes, hide=False, taxonomy=CELEBM)
    inpainter.inpaint(asked, TINY.settings.references, [torch.Generator()])
    assert {step.name: step.calls for step in generating(TINY)} == seen


def test_operations_without_weights_are_those_with_them():
    sam = build_vit_sam(**TINY.sam)
    pictures = torch.zeros(2, 3, TINY.sam["img_size"], TINY.sam["img_size"])
    [encoder] = [step for step in segmenting(TINY) if step.name.startswith("image encoder")]
    assert encoder.all_flops == flops_of(lambda: sam.image_encoder(pictures)) > 0
    assert encoder.weights == sum(one.numel() for one in sam.image_encoder.parameters())
    layer = torch.nn.Linear(5, 7)
    assert flops_of(lambda: layer(torch.zeros(3, 5))) == 2 * 3 * 5 * 7


def test_the_full_size_has_the_published_numbers_of_weights():
    with torch.device("meta"):
        parts, parser = Generator.of(SIZES["full"]), Parser(SIZES["full"].parser)
    millions = [
        round(sum(one.numel() for one in net.parameters()) / 1e6) for net in (parts.unet, parts.controlnet, parser)
    ]
    assert millions == [860, 361, 86]
    assert stored()["references.zarr"] == 512 * 512 * 8
    assert 1600 < int(token_region(torch.from_numpy(disc(512)), 64).sum()) < 1700


def test_both_ways_are_measured_in_one_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmarks.gpu, "TIMES", 1)
    for kind in (SamSegmenter, ControlNetInpainter):  # test_compiling.py has them compiled
        monkeypatch.setattr(kind, "compile", lambda _: None)
    gpu("tiny", out=tmp_path / "found.json", batches=[3], compiled=True)
    first, *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "found.json").read_text())
    assert "TFLOP/s" in first
    assert [line.split(":")[0] for line in lines] == [
        "image encoder", "FE and matching", "adapter and mask decoder", *found["checks"], "stage two", "parser",
        "inpainter", "inpainter, few steps", "stage one", "stage one, few steps", "in all", "in all, few steps",
        "image encoder, 3 faces at once", *["paper-lcm as it runs"] * 2, "image encoder", "image encoder, compiled",
        "inpainter, few steps", "inpainter, few steps, compiled", *["paper-lcm as it runs, compiled"] * 2,
        "inpainter", "inpainter, compiled", *["paper as it runs, compiled"] * 2,
        "encoder", "stage two", "stage one", *["stage one, few steps"] * 2, "in all", "in all, few steps",
        "paper-lcm as it runs", "paper-lcm as it runs, compiled", "paper as it runs, compiled",
    ]  # fmt: skip
    assert all(any(f"{one['name']}: " in line and "% of the peak" in line for line in lines) for one in found["steps"])
    seconds = sum(one["ours"]["seconds"] for one in found["steps"])
    [few] = [one for one in found["steps"] if one["name"] == STEPS["inpainter"][1]]
    assert any(f"in all: {seconds - few['ours']['seconds']:.4f} s a face, published" in line for line in lines)
    assert all(min(stages.values()) > 0 for stages in found["stages"].values())
    cosine, _, attention, matching = found["checks"].values()
    assert cosine > 0.9999  # a CPU works in float32 both ways
    assert attention < 1e-5
    assert matching == 1
    assert "s" in last
    assert not found["failed"]


def test_what_fails_and_what_is_late_keeps_nothing_else_from_being_measured(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.gpu, "TIMES", 1)
    monkeypatch.setitem(WRITERS, "parser", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as stopped:
        gpu("tiny")
    assert "parser's weights: ZeroDivisionError" in str(stopped.value)
    assert "; parser: ConfigError" in str(stopped.value)
    told = capsys.readouterr().out
    assert "stage two: " in told
    assert "inpainter: " in told
    assert "stage one: " not in told
    gpu("tiny", seconds=0)
    assert capsys.readouterr().out.count("left out, 0 s are over") == 15


def test_time_in_which_a_device_works_is_counted_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_networks_that_are_not_filled_take_a_files_weights():
    with Unfilled():
        empty = build_vit_sam(**TINY.sam)
    full = build_vit_sam(**TINY.sam)
    empty.load_state_dict(full.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(empty.parameters(), full.parameters(), strict=True))
    torch.manual_seed(0)
    after = torch.nn.Linear(2, 2)
    assert after.weight.abs().max() < 1  # drawn again
    assert after.weight.std() > 0


def test_the_published_way_has_the_published_attention(written):
    kinds = {}
    for way in ("published", "exact"):
        encoder = Models(profile(TINY, written, way)).segmenter.sam.image_encoder  # type: ignore[attr-defined]
        assert isinstance(encoder, ImageEncoderViT)
        kinds[way] = type(encoder.blocks[0].attn).__name__
    assert kinds == {"published": "Attention", "exact": "FoldedAttention"}
