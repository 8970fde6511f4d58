"""Batched decoding is the package's own decoder, one image after the other; other decoders have their own layout."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from s3pot_batch.manifests.outcomes import read_outcomes
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.learning import fit_face
from s3pot_batch.stages.method.masks import decode_pairs
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.pairs import encode_pair
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from s3pot_batch.stages.models.profiles import EMBEDDED, PAPER, PartSpec
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.registry import SEGMENTERS, token_shape
from s3pot_batch.stages.models.segmenters._decoding import decode_masks
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_small import build_small_sam
from s3pot_batch.stages.settings import TrainingSettings
from tests.stages.conftest import TINY, do, fresh_network, with_segmenter, with_settings
from tests.stages.models.scored import ScoredSegmenter


@torch.no_grad()
def one_by_one(sam, tokens, prompts):
    dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(tokens[:1])
    found = [
        sam.mask_decoder(image[None], sam.prompt_encoder.get_dense_pe(), own[None], dense, multimask_output=False)
        for image, own in zip(tokens, prompts, strict=True)
    ]
    return torch.stack([logits[0, 0] for logits, _ in found]), torch.stack([iou[0, 0] for _, iou in found])


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(5,), (4, 4), (3, 11, 1)])
def test_the_answer_is_that_of_the_packages_decoder(sam, segmenter, lengths):
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(lengths), 32, 8, 8, generator=rng)
    prompts = [torch.randn(length, 32, generator=rng) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=7.0)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    logits, iou = segmenter.decode(tokens, padded, padding)
    expected = one_by_one(sam, tokens, prompts)
    torch.testing.assert_close(logits, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou, expected[1], atol=1e-5, rtol=1e-4)
    if len(set(lengths)) == 1:
        assert torch.equal(segmenter.decode(tokens, padded)[0], logits)


@torch.no_grad()
def test_the_embedded_size_decodes_alike():
    torch.manual_seed(0)
    sam = build_small_sam(img_size=64, embed_dim=32, widths=(8, 8, 16, 16))
    network = fresh_network(SamSegmenter(sam))
    tokens = torch.randn(2, 32, 32, 32)
    pair = network.prompt(tokens[0], tokens[1], torch.ones(64, 64, dtype=torch.bool))
    sparse = network.adapter(network._embed(pair, flip=False)[None])
    expected, _ = one_by_one(sam, tokens[:1], sparse)
    torch.testing.assert_close(network([pair])[0].logits, expected[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mask_prompt_is_the_packages(sam, segmenter, tokens):
    maps = torch.zeros(2, 8, 8)
    maps[0, 2:5, 3:6], maps[1, 4:] = 1, -1
    prompts, padding = torch.randn(2, 3, 32), torch.zeros(2, 3, dtype=torch.bool)
    size = sam.prompt_encoder.mask_input_size[0] // 8
    masks = maps.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, None]
    expected, quality = [], []
    for image, own, mask in zip(tokens[:2], prompts, masks, strict=True):
        _, dense = sam.prompt_encoder(points=None, boxes=None, masks=mask[None])
        logits, iou = sam.mask_decoder.predict_masks(image[None], sam.prompt_encoder.get_dense_pe(), own[None], dense)
        expected.append(logits[0])
        quality.append(iou[0])
    hinted = tokens[:2] + segmenter.embed_maps(maps)
    found, predicted = decode_masks(sam.mask_decoder, hinted, segmenter.places, prompts, padding, masks=4)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predicted, torch.stack(quality), atol=1e-5, rtol=1e-4)
    first, best = segmenter.decode(tokens[:2], prompts, padding, segmenter.embed_maps(maps))
    torch.testing.assert_close(first, torch.stack(expected)[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(best, torch.stack(quality)[:, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_published_sam_gets_its_mask_prompt_as_logits_and_ours_as_it_was_trained(sam, segmenter, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    published: Any = SEGMENTERS.load(PartSpec("sam_vit", str(tmp_path / "sam.pth"), options=tuple(TINY.items())), "cpu")
    maps = torch.zeros(1, 8, 8)
    maps[0, 2:5, 3:6], maps[0, 6:] = 1, -1
    seen = []
    for one in (published, segmenter):
        hook = one.sam.prompt_encoder.mask_downscaling.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        one.embed_maps(maps)
        hook.remove()
    assert [set(one.unique().tolist()) for one in seen] == [{-10, 0, 10}, {-1, 0, 1}]


@torch.no_grad()
def test_the_segmenters_precision_is_that_of_its_encoder(sam, pictures, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    spec = PartSpec("sam_vit", str(tmp_path / "sam.pth"), options=tuple(TINY.items()))
    exact, half = (cast("Any", SEGMENTERS.load(replace(spec, dtype=dtype), "cpu")) for dtype in ("float32", "bfloat16"))
    assert next(half.sam.image_encoder.parameters()).dtype == torch.bfloat16
    assert next(half.sam.mask_decoder.parameters()).dtype == torch.float32
    tokens, near = exact.encode(pictures), half.encode(pictures)
    assert near.dtype == torch.float32
    assert not torch.equal(tokens, near)
    assert torch.nn.functional.cosine_similarity(tokens, near, dim=1).mean() > 0.999


@pytest.mark.parametrize(("kind", "dtype"), [("sam_small", "float16"), ("sam_vit", "int8")])
def test_a_precision_that_a_segmenter_has_not_is_refused(kind, dtype):
    with pytest.raises(ConfigError, match=f"float32.*, not {dtype}"):
        SEGMENTERS.load(PartSpec(kind, "embedded:segmenter.safetensors", dtype=dtype), "cpu")


@torch.no_grad()
def test_prompts_are_the_packages_whatever_the_pictures_size(sam, segmenter):
    points, labels = torch.tensor([[[0.25, 0.5], [1.0, 0.125]]]), torch.tensor([[1.0, 0.0]])
    expected, _ = sam.prompt_encoder(points=(points * 64, labels), boxes=None, masks=None)
    assert torch.equal(segmenter.embed_points(points, labels), expected)
    boxes = torch.tensor([[0.25, 0.125, 0.75, 1.0]])
    expected, _ = sam.prompt_encoder(points=None, boxes=boxes * 64, masks=None)
    assert torch.equal(segmenter.embed_boxes(boxes), expected)


def test_encoding_normalises_by_sams_mean_and_deviation(sam, segmenter):
    mean = sam.pixel_mean.flatten().round().to(torch.uint8).expand(1, 64, 64, 3)
    raw = sam.image_encoder(mean.permute(0, 3, 1, 2).float()).detach()
    normalised = sam.image_encoder(sam.preprocess(mean.permute(0, 3, 1, 2).float())).detach()
    assert torch.equal(segmenter.encode(mean), normalised)
    assert not torch.allclose(raw, normalised)


def test_pictures_of_another_size_are_resized(segmenter, pictures):
    plain = (pictures // 64 * 64)[:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2)  # larger patches
    larger = plain.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found, expected = segmenter.encode(larger), segmenter.encode(plain)
    assert found.shape == (2, 32, 8, 8)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.95


def test_weights_are_frozen_and_encoding_keeps_no_graph(segmenter, tokens):
    assert not any(parameter.requires_grad for parameter in segmenter.sam.parameters())
    assert not segmenter.sam.training
    assert not tokens.requires_grad


def test_the_shape_is_known_without_loading():
    options = (("img_size", 64), ("patch_size", 8), ("out_chans", 32))
    assert token_shape(PartSpec("sam_vit", options=options)) == TokenShape(channels=32, side=8)
    assert token_shape(PAPER.segmenter) == TokenShape(256, 64)
    assert token_shape(PartSpec("sam_small", options=(("img_size", 64), ("embed_dim", 32)))) == TokenShape(32, 32)
    assert token_shape(EMBEDDED.segmenter) == SEGMENTERS.load(EMBEDDED.segmenter, "cpu").shape
    with pytest.raises(ConfigError, match="there is no segmenter facer; known are sam_small, sam_vit"):
        token_shape(PartSpec("facer"))
    with pytest.raises(ConfigError, match=r"sam_small cannot have.*'depth'"):
        token_shape(PartSpec("sam_small", options=(("depth", 3),)))


class TestAnotherDecoder:
    """A segmenter whose decoder has other tokens in front works behind the protocol, in every room."""

    @pytest.fixture
    def scored(self, sam):
        return ScoredSegmenter(sam)

    @torch.no_grad()
    def test_it_decodes_as_its_own_transformer_does(self, sam, scored, tokens):
        prompts = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
        decoder, encoder = sam.mask_decoder, sam.prompt_encoder
        own = torch.cat([scored.score, decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(2, -1, -1)
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        position = encoder.get_dense_pe().expand(2, -1, -1, -1)
        hidden, keys = decoder.transformer(tokens + dense, position, torch.cat([own, prompts], 1))
        upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(2, 32, 8, 8))
        expected = torch.einsum("bc,bchw->bhw", decoder.output_hypernetworks_mlps[0](hidden[:, 2]), upscaled)
        torch.testing.assert_close(scored.decode(tokens, prompts)[0], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scored.attend(tokens, prompts), keys, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(scored.decode(tokens, prompts)[0], SamSegmenter(sam).decode(tokens, prompts)[0])

    def test_the_method_needs_nothing_else_of_it(self, sam, scored, face_pair):
        network, plain = fresh_network(scored), fresh_network(SamSegmenter(sam))
        [mask], [of_sam] = decode_pairs(network, [face_pair]), decode_pairs(plain, [face_pair])
        assert mask.occlusion.shape == (64, 64)
        assert not np.allclose(mask.occlusion, of_sam.occlusion)
        features = encode_pair(network, face_pair).prompted
        torch.testing.assert_close(network([features])[0].logits, network([features, features])[1].logits)

    def test_a_torch_module_does_not_train_with_the_adapter(self, scored, face_pair):
        network = fresh_network(scored)
        before = {name: value.clone() for name, value in scored.state_dict().items()}
        adapter = {name: value.clone() for name, value in network.adapter.state_dict().items()}
        assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"adapter"}
        fit = fit_face(network, encode_pair(network, face_pair).prompted, TrainingSettings(epochs=3, learning_rate=0.1))
        assert all(torch.equal(value, before[name]) for name, value in scored.state_dict().items())
        assert all(torch.equal(value, adapter[name]) for name, value in network.adapter.state_dict().items())
        assert fit.network.segmenter is scored
        assert any(not torch.equal(value, adapter[name]) for name, value in fit.adapter.state_dict().items())

    @pytest.mark.usefixtures("toy_parts")
    def test_every_stage_runs_with_it(self, run):
        context = with_settings(with_segmenter(run[1], "scored"), "segments", per_image=True)
        for stage in ("tokens", "train", "fits", "segments"):
            do(stage, context)
        statuses = [outcome.status for outcome in read_outcomes(context.run, "segments", 0)]
        assert statuses == ["ok", "ok", "no_face"]
        assert store.read_rows(context.run / "masks.zarr", "occlusion", slice(0, 3))[0].any()

    def test_an_adapter_of_another_width_is_refused(self, scored):
        with pytest.raises(ConfigError, match="the adapter has 64 channels and the segmenter 32; train one"):
            S3POT(scored, AttentionAdapter(64))


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 37])
def test_points_are_embedded_as_the_library_does(segmenter, count):
    rng = torch.Generator().manual_seed(count)
    points, labels = torch.rand(3, count, 2, generator=rng), torch.randint(-1, 2, (3, count), generator=rng).float()
    side = segmenter.sam.image_encoder.img_size
    expected, _ = segmenter.sam.prompt_encoder(points=(points * side, labels), boxes=None, masks=None)
    assert torch.equal(segmenter.embed_points(points, labels), expected)
