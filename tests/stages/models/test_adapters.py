"""The paper's adapter, and its files."""

import json

import pytest
import torch

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.adapters import attention
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter, untrained
from s3pot_batch.stages.models.profiles import EMBEDDED, PartSpec
from s3pot_batch.stages.models.registry import ADAPTERS, SEGMENTERS, Models


def test_it_has_the_papers_size():
    assert sum(p.numel() for p in AttentionAdapter(256).parameters()) == 4 * 256 * 256 + 4 * 256 + 2 * 256  # 264 k


@pytest.fixture
def adapter():
    """One that is no longer as it started."""
    adapter, rng = AttentionAdapter(32).eval(), torch.Generator().manual_seed(5)
    for parameter in adapter.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng)
    return adapter


def test_it_keeps_shape_and_is_equivariant_to_the_points_order(adapter):
    prompts = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    found = adapter(prompts)
    assert found.shape == prompts.shape
    torch.testing.assert_close(adapter(prompts[:, order]), found[:, order])


def test_an_untrained_one_leaves_the_shipped_segmenters_points_nearly_as_they_are():
    segmenter = SEGMENTERS.load(EMBEDDED.segmenter, "cpu")
    points = torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(0))
    prompts = segmenter.embed_points(points, torch.arange(20)[None] % 2)
    found = untrained(segmenter)(prompts)
    assert (found - prompts).norm() < 0.2 * prompts.norm()
    assert prompts.std(-1).mean().item() == pytest.approx(segmenter.point_spread, rel=0.1)


def test_padding_changes_no_other_prompt(adapter):
    prompts = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 5:] = True
    found = adapter(prompts, padding)
    torch.testing.assert_close(found[0, :5], adapter(prompts[:1, :5])[0])
    torch.testing.assert_close(found[1], adapter(prompts[1:])[0])
    assert not torch.allclose(found[0, :5], adapter(prompts[:1])[0, :5])


def test_its_files_bring_it_back(adapter, tmp_path):
    attention.save(tmp_path / "a", adapter, {"losses": [1.0, 0.5], "target": "face"}, "# A card\n")
    found = attention.build(tmp_path / "a", "cpu")
    assert ADAPTERS.load(PartSpec("attention", str(tmp_path / "a")), "cpu").embed_dim == 32
    prompts = torch.randn(1, 7, 32)
    assert torch.equal(found(prompts), adapter(prompts))
    assert not found.training
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config == {"embed_dim": 32, "heads": 4, "losses": [1.0, 0.5], "target": "face"}
    assert (tmp_path / "a" / "README.md").read_text() == "# A card\n"
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (tmp_path / "a" / "model.safetensors").stat().st_mode & 0o444 == 0o444  # others may read it


def test_a_folder_that_is_no_adapter_is_named(adapter, tmp_path):
    with pytest.raises(ConfigError, match=r"not an adapter.*make one with: s3pot-batch train"):
        attention.build(tmp_path, "cpu")
    attention.save(tmp_path / "a", adapter, {}, "card")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(ConfigError, match="not an adapter"):
        ADAPTERS.load(PartSpec("attention", str(tmp_path / "a")), "cpu")


def test_a_precision_that_it_has_not_is_refused():
    with pytest.raises(ConfigError, match="float32, not float16"):
        ADAPTERS.load(PartSpec("attention", "embedded:adapter", dtype="float16"), "cpu")


def test_the_shipped_one_fits_the_shipped_segmenter():
    assert Models(EMBEDDED).adapter.embed_dim == Models(EMBEDDED).segmenter.shape.channels
