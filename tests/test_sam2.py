"""The worked example of a segmenter whose decoder reads finer maps: SAM 2, tiny, in transformers' format."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam2Config, Sam2Model

from s3pot_batch.stages.method.masks import decode_pairs
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.pairs import Pair, encode_pair
from s3pot_batch.stages.models.adapters.attention import untrained
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.settings import SegmentSettings
from s3pot_batch.stages.tokens import cached
from tests.segmenting import asked, assert_as_the_models_forward, assert_it_attends_as_its_decoder

EXAMPLES = Path(__file__).parent.parent / "examples" / "extending"
BACKBONE = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
    "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [4, 4, 4, 4],
    "global_attention_blocks": [3],
}  # fmt: skip
TINY: dict[str, Any] = {
    "vision_config": {
        "backbone_config": BACKBONE, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}  # fmt: skip
"""8×8 tokens of 32 channels from 128 px."""


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = Sam2Model(Sam2Config(**TINY))
        torch.nn.init.normal_(sam.no_memory_embedding)  # zero in a new network, and added to the tokens
    sam.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return import_module("segmenter_sam2").build(folder, "cpu", channels=32, side=8)


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 128, 128, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_its_steps_are_the_models_own_forward(segmenter, images):
    whole, (tokens, _) = assert_as_the_models_forward(segmenter, images), asked(segmenter, images)
    torch.testing.assert_close(tokens[:, :32], whole.image_embeddings[-1])
    assert whole.pred_masks.shape[-2:] == (32, 32)
    assert segmenter.shape == TokenShape(32, 8, fine=96)
    assert tokens.shape == (2, segmenter.shape.stored, 8, 8)


def test_the_finer_maps_count_in_its_masks(segmenter, images):
    tokens, prompts = asked(segmenter, images)
    logits, _ = segmenter.decode(tokens, prompts)
    for fine in (slice(32, 64), slice(64, 128)):
        without = tokens.clone()
        without[:, fine] = 0
        assert not torch.allclose(segmenter.decode(without, prompts)[0], logits)


def test_it_attends_as_its_decoder_does(segmenter, images):
    assert_it_attends_as_its_decoder(segmenter, images)


def test_padding_is_as_if_it_were_not_there(segmenter, images):
    tokens, prompts = asked(segmenter, images)
    padded = torch.cat([prompts, torch.full((2, 3, 32), 9.0)], 1)
    padding = torch.arange(padded.shape[1]).expand(2, -1) >= prompts.shape[1]
    torch.testing.assert_close(segmenter.decode(tokens, padded, padding)[0], segmenter.decode(tokens, prompts)[0])


@pytest.mark.parametrize("enhanced", [True, False])
def test_the_method_compares_its_tokens_and_not_the_finer_maps(segmenter, images, enhanced):
    network = S3POT(segmenter, untrained(segmenter), SegmentSettings(enhance=enhanced, mask_prompt=True))
    region = np.zeros((128, 128), bool)
    region[20:100, 30:90] = True
    pair = Pair(images[0].numpy(), images[1].numpy(), region)
    encoded = encode_pair(network, pair)
    assert encoded is not None
    expected = torch.nn.functional.cosine_similarity(encoded.raw[:32], encoded.reference[:32], dim=0)
    torch.testing.assert_close(encoded.prompted.contrast, expected)
    assert cached(encoded)["raw"].shape == (8, 8, segmenter.shape.stored)
    other = encoded.reference.clone()
    other[32:] = torch.randn_like(other[32:])
    again = network.prompt(encoded.raw, other, torch.from_numpy(region))
    assert torch.equal(again.prompts.similarity, encoded.prompted.prompts.similarity)
    [mask] = decode_pairs(network, [pair])
    assert mask.occlusion.shape == (128, 128)
    assert mask.occlusion[region].min() > 0
