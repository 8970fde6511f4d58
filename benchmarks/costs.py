"""What a face costs at paper size: operations, counted by torch on networks without weights, and bytes.

Nothing is computed: the networks are on torch's device ``meta``, which knows shapes only.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paper_size import PARSED, SIZES, Generator, Parser, Size
from s3pot_batch.stages.base import STAGES, StageContext
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from s3pot_batch.stages.models.profiles import PAPER
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam

HIDDEN = 0.4
"""Share of the frame that M is taken for: 1,638 of 64×64 tokens are prompts."""


@dataclass(frozen=True)
class Step:
    """One step of a face's way."""

    name: str
    calls: int
    """For one face."""
    flops: int
    """Of one call: two for a multiplication with its addition."""
    weights: int
    """Of the network, in number."""

    @property
    def all_flops(self) -> int:
        """For one face."""
        return self.calls * self.flops


def flops_of(work: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attentions in some work."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return int(counter.get_total_flops())


def step(name: str, calls: int, network: nn.Module, work: Callable[[], object]) -> Step:
    """A step whose work on one face is counted."""
    return Step(name, calls, flops_of(work), sum(one.numel() for one in network.parameters()))


def generating(size: Size) -> list[Step]:
    """The steps of one reference: guided, so that UNet and ControlNet see every latent twice a step."""
    with torch.device("meta"):
        parts, cells = Generator.of(size), size.drawn // 2 ** (len(size.vae["block_out_channels"]) - 1)
        seen, four = torch.empty(1, 3, size.drawn, size.drawn), torch.empty(1, 4, cells, cells)
        told = torch.empty(1, 77, size.unet["cross_attention_dim"])
        down, middle = parts.controlnet(four, 0, told, seen, return_dict=False)
        nine = torch.empty(1, 9, cells, cells)
        # the pipeline embeds the condition anew in every step
        return [
            step("VAE encodes the photo", 1, parts.vae.encoder, lambda: parts.vae.encode(seen)),
            step("ControlNet", 2 * size.steps, parts.controlnet, lambda: parts.controlnet(four, 0, told, seen)),
            step("UNet", 2 * size.steps, parts.unet, lambda: parts.unet(
                nine, 0, told, down_block_additional_residuals=down, mid_block_additional_residual=middle)),
            step("VAE draws the reference", 1, parts.vae.decoder, lambda: parts.vae.decode(four)),
        ]  # fmt: skip


def segmenting(size: Size) -> list[Step]:
    """The steps of stage two, with the attention as it was published: folded, it costs more and takes less time."""
    with torch.device("meta"):
        sam = build_vit_sam(**size.sam)
        segmenter = SamSegmenter(sam)
        side, channels = segmenter.shape.side, segmenter.shape.channels
        adapter, picture = (
            AttentionAdapter(channels),
            torch.empty(1, 3, sam.image_encoder.img_size, sam.image_encoder.img_size),
        )
        tokens, one = torch.empty(1, channels, side, side), torch.empty(1, 2, channels)
        prompts = torch.empty(1, round(HIDDEN * side * side), channels)
        raw, reference = torch.empty(side * side, channels), torch.empty(prompts.shape[1], channels)
        decoder = sam.mask_decoder
        return [
            step("image encoder, photo and reference", 2, sam.image_encoder, lambda: sam.image_encoder(picture)),
            step("FE: the decoder's transformer", 2, decoder.transformer, lambda: segmenter.attend(tokens, one)),
            step("PS: cosines", 1, nn.Identity(), lambda: reference @ raw.T),
            step("PS: adapter", 1, adapter, lambda: adapter(prompts)),
            step("mask decoder", 1, decoder, lambda: segmenter.decode(tokens, prompts)),
        ]  # fmt: skip


def steps(size: Size) -> list[Step]:
    """All that a device does for one face, in order."""
    with torch.device("meta"):
        parser, face = Parser(size.parser), torch.empty(1, 3, PARSED, PARSED)
        parsing = step("parser (FaRL's backbone alone)", 1, parser, lambda: parser(face))
    return [parsing, *generating(size), *segmenting(size)]


def stored() -> Mapping[str, int]:
    """Bytes of a face in each Zarr store of the paper profile, before compression."""
    context = StageContext(Path(), PAPER, PAPER.settings, "")
    found = {}
    for stage in STAGES:
        if stage.store:
            arrays = import_module(stage.module.__name__).arrays(context)
            found[stage.store] = sum(
                torch.Size(spec.shape(1)).numel() * torch.tensor([], dtype=getattr(torch, spec.dtype)).element_size()
                for spec in arrays.values()
            )
    return found


def costs() -> None:
    """Print what a face costs at paper size."""
    found = steps(SIZES["full"])
    whole = sum(one.all_flops for one in found)
    for one in found:
        print(f"{one.name}: {one.calls} × {one.flops / 1e9:.1f} GFLOPs = {one.all_flops / 1e12:.2f} TFLOPs, "
              f"{100 * one.all_flops / whole:.1f} %; {one.weights / 1e6:.1f} M weights")  # fmt: skip
    print(f"in all {whole / 1e12:.1f} TFLOPs a face")
    print(json.dumps({"bytes of a face, uncompressed": stored()}))
