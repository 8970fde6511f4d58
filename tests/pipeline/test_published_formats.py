"""The paper profile's loading code, on files of the published formats with random weights and small sizes."""

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from segment_anything import sam_model_registry
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import read_outcomes
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
from s3pot_batch.stages.models.registry import DETECTORS, INPAINTERS, PARSERS, SEGMENTERS, taxonomy_of, token_shape
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.stages.conftest import TINY

BASELINES = ["parser alone", "SAM, face box", "SAM, best points", "contrast + GrabCut"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    write_retinaface(folder / "mobilenet0.25_Final.pth")
    write_farl(folder / "farl_jit.pt")
    write_stable_diffusion(folder / "sd15-inpaint-controlnet")
    torch.save(build_vit_sam(**TINY).state_dict(), folder / "sam_vit.pth")
    save(folder / "adapter", AttentionAdapter(TINY["out_chans"]), {}, "card")
    return folder


def write_retinaface(path: Path) -> None:
    """As in facer's release: a state dictionary saved from DataParallel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from facer.face_detection.retinaface import RetinaFace, cfg_mnet
    net = RetinaFace(cfg=dict(cfg_mnet, pretrain=False), phase="test")
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, path)


def write_farl(path: Path) -> None:
    """As in FaRL's release: TorchScript that maps 448 px images to (19 logit maps, something else)."""

    class Farl(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Conv2d(3, 19, 9, stride=4, padding=4)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            small = self.net(images)
            return torch.nn.functional.interpolate(small, (448, 448), mode="bilinear"), small

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and what the published files are
        torch.jit.save(torch.jit.script(Farl()), str(path))


def write_stable_diffusion(folder: Path) -> None:
    """A Stable Diffusion inpainting pipeline with text and an 8-fold VAE, and a ControlNet of three channels."""
    folder.mkdir()
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, **{f"{c}</w>": n + 2 for n, c in enumerate("abcdefgh")}}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, projection_dim=16))  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4)  # fmt: skip
    shape = {"block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 4,
             "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}  # fmt: skip
    unet = UNet2DConditionModel(
        in_channels=9, out_channels=4, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **shape)  # fmt: skip
    control = ControlNetModel(in_channels=4, conditioning_embedding_out_channels=(4, 4, 8, 8), **shape)
    pipeline = StableDiffusionControlNetInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, controlnet=control,
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)  # fmt: skip
    pipeline.save_pretrained(folder)


@pytest.fixture
def paper(weights, tmp_path):
    """A TOML profile: the paper's, with these files in their places."""
    sizes = ", ".join(f"{name} = {value}" for name, value in TINY.items())
    text = f"""base = "paper"
[detector]
weights = "{weights / "mobilenet0.25_Final.pth"}"
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
        "decoded face",
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


def test_the_detector_reads_facers_release(weights):
    detector = DETECTORS.load(PartSpec("retinaface", str(weights / "mobilenet0.25_Final.pth")), "cpu")
    faces = detector.detect(photo(), 0.0)
    assert all(len(face.bbox) == 4 and face.landmarks.shape == (5, 2) for face in faces)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


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
                    options=(("six_channels", False), ("size", 64)))  # fmt: skip
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
    with pytest.raises(ConfigError, match="offline"):
        pull(mine, offline=True)
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
