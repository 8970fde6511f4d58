"""The paper's adapter: one self-attention layer over prompt tokens, and its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.manifests.files import replacing
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.protocols import Segmenter

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


class AttentionAdapter(nn.Module):
    """One self-attention layer with a residual path and layer norm: the only trained weights of S³POT.

    About 264 k parameters at 256 channels (authors' code: 4 heads, residual, LayerNorm).
    """

    def __init__(self, embed_dim: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.heads = heads
        self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, prompts: Tensor, padding: Tensor | None = None) -> Tensor:
        """B×P×C → B×P×C; ``padding`` B×P bool, true where a prompt only fills up the batch."""
        layer = self.attention
        tokens = prompts.transpose(0, 1)
        # The module's own call would take a path in inference that holds P×P weights in memory, and four times as long.
        attended, _ = F.multi_head_attention_forward(
            tokens, tokens, tokens, self.embed_dim, self.heads, layer.in_proj_weight, layer.in_proj_bias, None, None,
            False, 0.0, layer.out_proj.weight, layer.out_proj.bias, key_padding_mask=padding, need_weights=False,
        )  # fmt: skip
        return cast("Tensor", self.norm(prompts + attended.transpose(0, 1)))


def untrained(segmenter: Segmenter) -> AttentionAdapter:
    """An adapter that changes next to nothing yet: its attention adds zero, and its norm keeps the points' spread.

    The segmenter's decoder is frozen and knows prompts of that spread only.
    """
    adapter = AttentionAdapter(segmenter.shape.channels)
    nn.init.zeros_(adapter.attention.out_proj.weight)
    nn.init.constant_(adapter.norm.weight, segmenter.point_spread)
    return adapter


def width(weights: Path) -> int:
    """The channels of an adapter in its folder, without reading its weights.

    Raises:
        ConfigError: the folder does not hold one.
    """
    try:
        return int(json.loads((weights / CONFIG).read_text(encoding="utf-8"))["embed_dim"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{weights}: not an adapter ({error}); make one with: s3pot-batch train") from error


def build(weights: Path, device: str, dtype: str = "float32") -> AttentionAdapter:
    """Read an adapter from its folder, in evaluation mode; it runs in float32.

    Raises:
        ConfigError: the folder does not hold one.
    """
    if dtype != "float32":
        raise TypeError(f"an adapter runs in float32, not {dtype}")
    try:
        config = json.loads((weights / CONFIG).read_text(encoding="utf-8"))
        adapter = AttentionAdapter(config["embed_dim"], config["heads"])
        adapter.load_state_dict(load_file(weights / WEIGHTS))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{weights}: not an adapter ({error}); make one with: s3pot-batch train") from error
    return adapter.eval().to(device)


def save(folder: Path, adapter: AttentionAdapter, facts: Mapping[str, object], card: str) -> None:
    """Write an adapter, its ``config.json`` and a model card.

    The weights come last, so that a folder with weights is whole.
    """
    config = {"embed_dim": adapter.embed_dim, "heads": adapter.heads, **facts}
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with replacing(folder / CARD) as path:
        path.write_text(card, encoding="utf-8")
    with replacing(folder / WEIGHTS) as path:
        save_file({name: value.contiguous().cpu() for name, value in adapter.state_dict().items()}, path)
        path.chmod(0o644)  # safetensors makes files that only their owner may read
