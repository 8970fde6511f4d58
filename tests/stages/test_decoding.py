"""Batched decoding is the package's own decoder, one image after the other."""

import pytest
import torch

from stages.models.sam import build_small_sam
from stages.segmentation.decoding import decode_batch
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
    tokens = torch.randn(2, 32, 16, 16)
    pair = network.prompt(tokens[0], tokens[1], torch.ones(64, 64, dtype=torch.bool))
    sparse = network.selector(network._embed(pair, flip=False)[None])
    expected, _ = one_by_one(sam, tokens[:1], sparse)
    torch.testing.assert_close(network([pair])[0].logits, expected[0], atol=1e-5, rtol=1e-4)
