"""Our models and the reference libraries, called by hand as their documentation says, give the same answers."""

import warnings
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetInpaintPipeline, UniPCMultistepScheduler
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.build_sam import _build_sam
from segment_anything.modeling.image_encoder import Attention

from examples.demo_photos import load_portrait
from s3pot_batch.stages.method.seeds import generator
from s3pot_batch.stages.models.compiling import BatchSizes
from s3pot_batch.stages.models.inpainters.controlnet import build
from s3pot_batch.stages.models.parsers import facer as parser_module
from s3pot_batch.stages.models.protocols import Inpainting
from s3pot_batch.stages.models.segmenters import sam_vit
from s3pot_batch.stages.models.segmenters._attention import FoldedAttention
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.published import write_farl, write_stable_diffusion

SIDE = 64
LAYERS: dict[str, Any] = {"depth": 2, "num_heads": 3, "global_attn_indexes": (1,)}
WIDTH = 192
"""A windowed layer and a global one, with a quarter of ViT-B's heads: all twelve layers take a minute and a half."""


@pytest.fixture(scope="module")
def portrait():
    """Of a public-domain photo, 1024×1024."""
    return np.ascontiguousarray(cv2.resize(load_portrait("astronaut")[:256, 96:352], (1024, 1024)))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A file of SAM's published format, and the library's own predictor from it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = _build_sam(WIDTH, LAYERS["depth"], LAYERS["num_heads"], LAYERS["global_attn_indexes"])
        for name, weight in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:  # zero in a new network
                torch.nn.init.normal_(weight, std=0.02)
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.save(sam.state_dict(), path)
    return path, SamPredictor(sam)


@torch.no_grad()
def test_sam_at_its_own_size_is_the_librarys(vit, portrait):
    path, predictor = vit
    ours = sam_vit.build(path, "cpu", embed_dim=WIDTH, **LAYERS)
    predictor.set_image(portrait)
    tokens = ours.encode(torch.from_numpy(portrait)[None])
    torch.testing.assert_close(tokens, predictor.get_image_embedding(), atol=1e-5, rtol=1e-5)
    points, labels = np.array([[512.0, 400.0], [300.0, 640.0], [100.0, 90.0]]), np.array([1, 1, 0])
    _, quality, logits = predictor.predict(points, labels, multimask_output=False, return_logits=True)
    prompts = ours.embed_points(torch.from_numpy(points / 1024).float()[None], torch.from_numpy(labels).float()[None])
    found, predicted = ours.decode(tokens, prompts)
    np.testing.assert_allclose(found[0], logits[0], atol=1e-4)
    assert np.array_equal(found[0] > 0, logits[0] > 0)
    assert predicted.item() == pytest.approx(quality.item(), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("side", [5, 14])
def test_fused_attention_is_the_librarys(side):
    torch.manual_seed(0)
    plain = Attention(80, 2, use_rel_pos=True, input_size=(side, side + 1)).eval()
    for position in (plain.rel_pos_h, plain.rel_pos_w):
        torch.nn.init.normal_(position)  # as large as the scores themselves, and zero in a new network
    folded = FoldedAttention(plain)
    assert {n: v.shape for n, v in folded.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
    x = torch.randn(3, side, side + 1, 80)
    expected = plain(x)
    torch.testing.assert_close(folded(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(folded(x)[1], folded(x[1:2])[0], atol=1e-6, rtol=1e-5)
    half = folded.to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert torch.nn.functional.cosine_similarity(half, expected, dim=-1).min() > 0.999
    half = plain.to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert torch.nn.functional.cosine_similarity(half, expected, dim=-1).min() > 0.99


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd") / "pipeline"
    write_stable_diffusion(folder)
    return folder


def asked(count):
    photos = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    holes = np.zeros((count, SIDE, SIDE), bool)
    holes[:, 20:44, 16:40] = True
    return Inpainting(photos, np.zeros((count, SIDE, SIDE), np.uint8), holes, hide=False, taxonomy=CELEBM)


SETTINGS = ReferenceSettings(steps=3, guidance_scale=4.0, prompt="a b", negative_prompt="c", scheduler="unipc")


def test_inpainting_is_diffusers_as_the_controlnets_model_card_calls_it(pipeline):
    wanted = asked(1)
    found = build(pipeline, "cpu", size=SIDE, condition="inpaint").inpaint(wanted, SETTINGS, [generator(0)])
    theirs = StableDiffusionControlNetInpaintPipeline.from_pretrained(
        pipeline, safety_checker=None, feature_extractor=None, low_cpu_mem_usage=False
    )
    theirs.scheduler = UniPCMultistepScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    condition = wanted.photos[0].astype(np.float32) / 255
    condition[wanted.holes[0]] = -1.0
    [picture] = theirs(
        "a b", Image.fromarray(wanted.photos[0]), Image.fromarray(wanted.holes[0].astype(np.uint8) * 255),
        torch.from_numpy(condition.transpose(2, 0, 1))[None], num_inference_steps=3, guidance_scale=4.0,
        negative_prompt="c", generator=generator(0), controlnet_conditioning_scale=1.0,
    ).images  # fmt: skip
    hole = wanted.holes[0]
    assert np.abs(found[0][hole].astype(int) - np.asarray(picture)[hole]).max() <= 1


def test_faces_are_inpainted_in_a_batch_as_one_by_one(pipeline):
    inpainter, wanted = build(pipeline, "cpu", size=SIDE, condition="inpaint"), asked(3)
    together = inpainter.inpaint(wanted, SETTINGS, [generator(n) for n in range(3)])
    for n in range(3):
        one = Inpainting(wanted.photos[n : n + 1], wanted.parsing[n : n + 1], wanted.holes[n : n + 1], False, CELEBM)
        alone = inpainter.inpaint(one, SETTINGS, [generator(n)])
        assert np.abs(together[n].astype(int) - alone[0]).max() <= 1


def test_parsing_is_facer_called_by_hand(tmp_path, portrait):
    torch.manual_seed(0)
    write_farl(tmp_path / "farl.pt")
    frame = cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA)
    points = np.array([[98, 100], [158, 100], [128, 140], [104, 176], [152, 176]], np.float64)
    ours = parser_module.build(tmp_path / "farl.pt", "cpu")
    found = ours.parse(np.stack([frame, frame[:, ::-1]]), np.stack([points, points]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import facer

        make: Any = facer.face_parser
        theirs = make("farl/celebm/448", device="cpu", model_path=str(tmp_path / "farl.pt"))
    faces = {"points": torch.from_numpy(points).float()[None], "image_ids": torch.zeros(1, dtype=torch.long)}
    with torch.inference_mode():
        seg = theirs(facer.hwc2bchw(torch.from_numpy(frame)), faces)["seg"]
    assert list(seg["label_names"]) == list(CELEBM.classes)
    np.testing.assert_allclose(found[0], seg["logits"].softmax(1)[0], atol=1e-5)
    np.testing.assert_allclose(ours.parse(frame[None], points[None])[0], found[0], atol=1e-5)


def test_a_batch_is_encoded_once_and_the_prompt_once_in_a_run(pipeline):
    inpainter, wanted = build(pipeline, "cpu", size=SIDE, condition="inpaint"), asked(3)
    encoded, told = list[int](), list[int]()
    inpainter.pipeline.vae.encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    inpainter.pipeline.text_encoder.register_forward_hook(lambda *_: told.append(1))
    for _ in range(2):
        inpainter.inpaint(wanted, SETTINGS, [generator(n) for n in range(3)])
    assert set(encoded) == {3}
    assert len(told) == 2  # the prompt and what it is not
    other = inpainter.inpaint(wanted, SETTINGS.model_copy(update={"prompt": "f g h"}), [generator(n) for n in range(3)])
    assert len(told) == 4
    assert not np.array_equal(other, inpainter.inpaint(wanted, SETTINGS, [generator(n) for n in range(3)]))


def test_the_faces_of_a_batch_that_is_filled_up_stay_as_they_are(pipeline):
    inpainter, wanted = build(pipeline, "cpu", size=SIDE, condition="inpaint"), asked(3)
    as_it_is = inpainter.inpaint(wanted, SETTINGS, [generator(n) for n in range(3)])
    inpainter.sizes = BatchSizes(known={4})  # a compiled one's, without the compilation: it takes half a minute
    seen = list[int]()
    inpainter.pipeline.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    filled = inpainter.inpaint(wanted, SETTINGS, [generator(n) for n in range(3)])
    assert set(seen) == {4}
    assert np.abs(filled.astype(int) - as_it_is).max() <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_parses_almost_as_full_does(tmp_path, portrait, dtype):
    torch.manual_seed(0)
    write_farl(tmp_path / "farl.pt")
    frame = cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA)[None]
    points = np.array([[[98, 100], [158, 100], [128, 140], [104, 176], [152, 176]]], np.float64)
    full, half = (
        np.asarray(parser_module.build(tmp_path / "farl.pt", "cpu", name).parse(frame, points))
        for name in ("float32", dtype)
    )
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert np.abs(half - full).mean() < 1e-3
    assert (half.argmax(1) == full.argmax(1)).mean() > 0.97  # random weights are sure of nothing
