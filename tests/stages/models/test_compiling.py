"""Compiled networks see few sizes of batch, and the pictures that fill one up change nothing."""

import pytest
import torch

from s3pot_batch.stages.models.compiling import BatchSizes
from s3pot_batch.stages.models.profiles import PartSpec
from s3pot_batch.stages.models.registry import SEGMENTERS
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from tests.stages.conftest import TINY


def sizes_of(sizes, *counts):
    found = []
    for count in counts:
        with sizes.filled(count) as size:
            found.append(size)
    return found


def test_a_batch_is_filled_up_to_a_known_size_if_that_doubles_it_at_most():
    assert sizes_of(BatchSizes(), 8, 5, 8, 4, 3, 1, 2) == [8, 8, 8, 8, 3, 1, 3]
    assert sizes_of(BatchSizes(compiled=False), 8, 5, 1) == [8, 5, 1]


def test_a_size_that_ran_out_of_memory_is_filled_up_to_no_more():
    sizes = BatchSizes()
    assert sizes_of(sizes, 8) == [8]
    with pytest.raises(RuntimeError, match="out of memory"), sizes.filled(8):
        raise RuntimeError("CUDA out of memory")
    assert sizes_of(sizes, 4, 3) == [4, 4]


@torch.no_grad()
@torch._dynamo.config.patch(recompile_limit=3)  # torch's own is 8, and every compilation takes half a second
def test_blocks_of_a_kind_are_compiled_once_for_a_size():
    deep = {**TINY, "depth": 6, "global_attn_indexes": (2, 5)}
    segmenter, compiled = SamSegmenter(build_vit_sam(**deep)), list[int]()
    pictures = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = segmenter.encode(pictures)

    def backend(graph, inputs):
        compiled.append(max(len(one) for one in inputs if one.ndim == 4))
        return graph.forward

    segmenter.compile(backend)
    assert torch._dynamo.config.recompile_limit >= 10  # five sizes
    for count in (4, 3):
        torch.testing.assert_close(segmenter.encode(pictures[:count]), expected[:count], atol=1e-5, rtol=1e-5)
    assert compiled == [4, 4]  # with windows and without: six blocks, and three pictures are filled up to four
    segmenter.encode(pictures[:5])
    assert len(compiled) == 4  # more than torch would have


def test_nothing_is_compiled_on_a_cpu(sam, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    spec = PartSpec("sam_vit", str(tmp_path / "sam.pth"), options=(*TINY.items(), ("compiled", True)))
    segmenter = SEGMENTERS.load(spec, "cpu")
    assert not segmenter.sizes.compiled  # type: ignore[attr-defined]
