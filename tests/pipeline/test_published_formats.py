"""The paper profile's loading code, on files of the published formats with random weights and small sizes."""

import json
import os
import socket
import sys
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from segment_anything import sam_model_registry
from typer.testing import CliRunner

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import read_outcomes
from s3pot_batch.pipeline.cli import app
from s3pot_batch.pipeline.evaluation.ablation import VARIANTS
from s3pot_batch.pipeline.evaluation.run import run_evaluation
from s3pot_batch.pipeline.job import open_job, work
from s3pot_batch.pipeline.options import EvaluationOptions, Options
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.seeds import generator
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter, save
from s3pot_batch.stages.models.downloads import pull, verify
from s3pot_batch.stages.models.inpainters.controlnet import ControlNetInpainter
from s3pot_batch.stages.models.profiles import PartSpec, find_profile
from s3pot_batch.stages.models.protocols import Inpainting, TokenShape
from s3pot_batch.stages.models.registry import INPAINTERS, PARSERS, SEGMENTERS, taxonomy_of, token_shape
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.published import write_farl, write_stable_diffusion
from tests.stages.conftest import TINY

BASELINES = ["parser alone", "SAM, face box", "SAM, best points", "contrast + GrabCut"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    write_farl(folder / "farl_jit.pt")
    write_stable_diffusion(folder / "sd15-inpaint-controlnet")
    torch.save(build_vit_sam(**TINY).state_dict(), folder / "sam_vit.pth")
    save(folder / "adapter", AttentionAdapter(TINY["out_chans"]), {}, "card")
    return folder


@pytest.fixture
def paper(weights, tmp_path):
    """A TOML profile: the paper's, with these files in their places."""
    sizes = ", ".join(f"{name} = {value}" for name, value in TINY.items())
    text = f"""base = "paper"
[parser]
weights = "{weights / "farl_jit.pt"}"
[inpainter]
weights = "{weights / "sd15-inpaint-controlnet"}"
dtype = "float32"
options = {{ size = 64 }}
[segmenter]
weights = "{weights / "sam_vit.pth"}"
options = {{ {sizes}, size = "" }}
[adapter]
weights = "{weights / "adapter"}"
"""
    path = tmp_path / "tiny-paper.toml"
    path.write_text(text)
    return path


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (160, 128, 3), dtype=np.uint8)


def test_the_whole_pipeline_runs_on_the_published_formats(paper, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    points = [44.0, 60.0, 84.0, 60.0, 64.0, 84.0, 50.0, 104.0, 78.0, 104.0]
    write_parquet(pa.table({"image": ["a.png"], "landmarks": [points]}), tmp_path / "in.parquet")
    config = tmp_path / "config.toml"
    config.write_text("[faces]\nframe = 64\n[references]\nsteps = 2\n")
    options = Options(tmp_path / "in.parquet", tmp_path / "run", str(paper), config, device="cpu", workers=0)
    summary = work(open_job(options, "segments"))
    assert (summary.ok, summary.failed) == (1, 0), summary.text()
    [outcome] = read_outcomes(tmp_path / "run", "segments", 0)
    assert outcome.occlusion["size"] == [160, 128]


def test_segmenting_before_training_works_and_says_what_it_lacks(paper, tmp_path, capsys):
    text = paper.read_text()
    paper.write_text(text[: text.index("[adapter]")])
    Image.fromarray(photo()).save(tmp_path / "a.png")
    points = [44.0, 60.0, 84.0, 60.0, 64.0, 84.0, 50.0, 104.0, 78.0, 104.0]
    Image.fromarray(np.full((160, 128), 255, np.uint8)).save(tmp_path / "mask.png")
    row = {"image": "a.png", "landmarks": points, "mask": "mask.png"}
    write_parquet(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    config = tmp_path / "config.toml"
    config.write_text("[faces]\nframe = 64\n[references]\nsteps = 2\n[training]\nepochs = 1\n")
    options = Options(tmp_path / "in.parquet", tmp_path / "run", str(paper), config, device="cpu", workers=0)
    for target, said in (("segments", True), ("train", False), ("segments", False)):
        summary = work(open_job(options, target))
        assert (summary.ok, summary.failed) == (1, 0), summary.text()
        assert ("untrained" in capsys.readouterr().err) == said
    if not torch.cuda.is_available():  # the baselines' segmenter goes where --device says
        with pytest.raises(ConfigError, match="no CUDA device"):
            run_evaluation(EvaluationOptions(options.manifest, options.run, baselines=True, device="cuda", workers=0))


def together(rank, port, words):
    """One of two processes, as torchrun starts them."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    sys.exit(CliRunner().invoke(app, words).exit_code)


def test_two_processes_train_as_one_does(paper, tmp_path):
    points = [44.0, 60.0, 84.0, 60.0, 64.0, 84.0, 50.0, 104.0, 78.0, 104.0]
    for n in range(3):
        Image.fromarray(np.roll(photo(), 9 * n, 0)).save(tmp_path / f"{n}.png")
    rows = [{"image": f"{n}.png", "landmarks": points} for n in range(3)]
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    config = tmp_path / "config.toml"
    training = "[training]\nepochs = 4\nlearning_rate = 0.01\n"  # a batch of three: one process has two pairs
    config.write_text("[faces]\nframe = 64\n[references]\nsteps = 1\n" + training)
    words = ["train", "--manifest", tmp_path / "in.parquet", "--profile", paper, "--config", config, "--device", "cpu"]
    words = [str(word) for word in (*words, "--workers", 0)]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert CliRunner().invoke(app, [*words, "--run", str(alone)]).exit_code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")  # torch is there already
    processes = [context.Process(target=together, args=(n, port, [*words, "--run", str(both)])) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    losses = [json.loads((run / "checkpoint" / "config.json").read_text())["losses"] for run in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert abs(losses[0][-1] - losses[0][0]) > 1e-3
    assert (both / "checkpoint" / "model.safetensors").exists()


def test_an_adapter_of_another_width_is_refused_before_stage_one(paper, weights, tmp_path):
    save(tmp_path / "wide", AttentionAdapter(2 * TINY["out_chans"]), {}, "card")
    paper.write_text(paper.read_text().replace(str(weights / "adapter"), str(tmp_path / "wide")))
    Image.fromarray(photo()).save(tmp_path / "a.png")
    write_parquet(pa.table({"image": ["a.png"]}), tmp_path / "in.parquet")
    options = Options(tmp_path / "in.parquet", tmp_path / "run", str(paper), device="cpu", workers=0)
    with pytest.raises(ConfigError, match="the adapter has 64 channels and the segmenter 32"):
        work(open_job(options, "segments"))
    assert not list((tmp_path / "run").glob("items/**/*.parquet"))


def test_the_ablation_runs_every_variant_that_differs(paper, tmp_path):
    rows = []
    for n in range(2):
        Image.fromarray(np.roll(photo(), 9 * n, 0)).save(tmp_path / f"{n}.png")
        mask = np.zeros((160, 128), np.uint8)
        mask[70:100, 50:80] = 255
        Image.fromarray(mask).save(tmp_path / f"{n}_mask.png")
        points = [44.0, 60.0, 84.0, 60.0, 64.0, 84.0, 50.0, 104.0, 78.0, 104.0]
        rows.append({"image": f"{n}.png", "landmarks": points, "mask": f"{n}_mask.png"})
    manifest, run = tmp_path / "in.parquet", tmp_path / "run"
    write_parquet(pa.Table.from_pylist(rows), manifest)
    config = tmp_path / "config.toml"
    config.write_text("[faces]\nframe = 64\n[references]\nsteps = 1\n[training]\nepochs = 1\n")
    options = Options(manifest, run, str(paper), config, device="cpu", workers=0)
    work(open_job(options, "segments"))
    result, plots = run_evaluation(EvaluationOptions(manifest, run, baselines=True, ablate=True, workers=0))
    methods = [entry["method"] for entry in result.summary if entry["photos"] == "all"]
    same = {
        "with FE",
        "without the mask prompt",
        "matching as published",
        "the whole frame",
        "all points",
        "decoded face",
        "without the refiner",
        "edges of the decoder",
        "one pass",
        "not per image",
    }  # the paper's settings are these
    expected = ["S3POT", *(v.name for v in VARIANTS if v.name not in same), *BASELINES]
    assert methods == expected
    assert all(entry["n"] == 2 for entry in result.summary)
    assert all(path.exists() for path in plots)
    borrowed = run / "ablation" / "without-FE" / "photos" / "items" / "references" / "00000.parquet"
    assert borrowed.samefile(run / "items" / "references" / "00000.parquet")
    again, _ = run_evaluation(EvaluationOptions(manifest, run, baselines=True, ablate=True, workers=0))
    assert again.summary == result.summary


def test_the_parser_reads_farls_release(weights):
    spec = PartSpec("facer", str(weights / "farl_jit.pt"))
    parser = PARSERS.load(spec, "cpu")
    assert parser.taxonomy is taxonomy_of(spec)
    points = np.array([[22, 30], [42, 30], [32, 42], [25, 52], [39, 52]], float)
    found = parser.parse(photo()[None, :64, :64], points[None])
    assert found.shape == (1, 19, 64, 64) == (1, len(parser.taxonomy.classes), 64, 64)
    inside = found[0, :, 20:50, 20:44].sum(0)
    np.testing.assert_allclose(inside, 1, atol=1e-4)


def test_the_inpainter_reads_stable_diffusion_with_text(weights):
    spec = PartSpec("controlnet", str(weights / "sd15-inpaint-controlnet"), dtype="float32",
                    options=(("condition", "inpaint"), ("size", 64)))  # fmt: skip
    inpainter = INPAINTERS.load(spec, "cpu")
    assert isinstance(inpainter, ControlNetInpainter)
    assert inpainter.pipeline.text_encoder is not None
    frames, holes = photo()[None, :64, :64], np.zeros((1, 64, 64), bool)
    holes[:, 20:40, 20:40] = True
    asked = Inpainting(frames, np.ones((1, 64, 64), np.uint8), holes, hide=False, taxonomy=CELEBM)
    found = inpainter.inpaint(asked, ReferenceSettings(steps=2), [generator(0)])
    assert np.array_equal(found[~holes], frames[~holes])
    assert not np.array_equal(found[holes], frames[holes])


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_sam_has_the_published_checkpoints_names_and_shapes(size):
    with torch.device("meta"):
        ours, theirs = build_vit_sam(size).state_dict(), sam_model_registry[size]().state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}


def test_a_missing_file_is_named_and_pull_does_not_ask_offline(tmp_path):
    text = f'base = "paper"\n[segmenter]\nweights = "{tmp_path}/sam_vit_h_4b8939.pth"\n'
    (tmp_path / "p.toml").write_text(text)
    mine = find_profile(str(tmp_path / "p.toml"))
    assert any("sam_vit_h_4b8939.pth" in problem for problem in verify(mine))
    assert any("sam_vit_h_4b8939.pth" in line and "offline" in line for line in pull(mine, offline=True).failed)
    with pytest.raises(ConfigError, match="models pull"):
        SEGMENTERS.load(mine.segmenter, "cpu")


def test_a_file_that_does_not_fit_is_named(weights):
    spec = PartSpec("sam_vit", str(weights / "sam_vit.pth"), options=(*TINY.items(), ("size", "")))
    segmenter = SEGMENTERS.load(spec, "cpu")
    assert isinstance(segmenter, SamSegmenter)
    assert segmenter.sam.image_encoder.img_size == TINY["img_size"]
    assert segmenter.shape == token_shape(spec) == TokenShape(TINY["out_chans"], 8)
    wider = (*(TINY | {"out_chans": 2 * TINY["out_chans"]}).items(), ("size", ""))
    with pytest.raises(ConfigError, match="does not fit"):
        SEGMENTERS.load(PartSpec("sam_vit", str(weights / "sam_vit.pth"), options=wider), "cpu")
