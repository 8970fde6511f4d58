"""Batched decoding is the package's own decoder, one image after the other."""

from dataclasses import replace

import pytest
import torch

from stages.models.sam import build_small_sam
from stages.segmentation.decoding import decode_batch, decode_every_mask, embed_label_maps
from stages.segmentation.network import S3POT
from stages.segmentation.selection import PromptSelector


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
def test_the_answer_is_that_of_the_packages_decoder(sam, lengths):
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(lengths), 32, 8, 8, generator=rng)
    prompts = [torch.randn(length, 32, generator=rng) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=7.0)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    logits, iou = decode_batch(sam, tokens, padded, padding)
    expected = one_by_one(sam, tokens, prompts)
    torch.testing.assert_close(logits, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou, expected[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_gives_the_masks_of_its_images_one_by_one(network, tokens, region):
    pairs = [network.prompt(tokens[0], tokens[1], region), network.prompt(tokens[1], tokens[0], region.roll(9, 1)[:]),
             network.prompt(tokens[0], tokens[1], region & (torch.arange(64) < 30))]  # fmt: skip
    assert len({len(pair.prompts.cells) for pair in pairs}) > 1
    together = network(pairs)
    for pair, found in zip(pairs, together, strict=True):
        alone = network([pair])[0]
        torch.testing.assert_close(found.logits, alone.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.predicted_iou, alone.predicted_iou, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_embedded_size_decodes_alike():
    torch.manual_seed(0)
    sam = build_small_sam(img_size=64, embed_dim=32, widths=(8, 8, 16, 16))
    network = S3POT(sam, PromptSelector(32))
    tokens = torch.randn(2, 32, 32, 32)
    pair = network.prompt(tokens[0], tokens[1], torch.ones(64, 64, dtype=torch.bool))
    sparse = network.selector(network._embed(pair, flip=False)[None])
    expected, _ = one_by_one(sam, tokens[:1], sparse)
    torch.testing.assert_close(network([pair])[0].logits, expected[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mask_prompt_is_the_packages(sam, tokens):
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
    found, predicted = decode_every_mask(sam, tokens[:2], prompts, padding, embed_label_maps(sam, maps), masks=4)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predicted, torch.stack(quality), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mask_prompt_says_what_the_points_say(network, tokens, region):
    network.settings = replace(network.settings, mask_prompt=True, target="occlusion")
    pair = network.prompt(tokens[0], tokens[1], region)
    flipped = replace(
        pair, prompts=replace(pair.prompts, labels=1 - pair.prompts.labels, similarity=-pair.prompts.similarity)
    )
    asked_for_the_occlusion = -network([pair])[0].logits
    network.settings = replace(network.settings, target="face")
    torch.testing.assert_close(network([flipped])[0].logits, asked_for_the_occlusion)
    without = replace(network.settings, mask_prompt=False)
    assert not torch.equal(
        network([flipped])[0].logits, S3POT(network.sam, network.selector, without)([flipped])[0].logits
    )
