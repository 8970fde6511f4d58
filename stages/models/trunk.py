"""A small convolutional U-Net trunk, shared by the embedded parser and segmenter."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group norm and a residual path: B×C_in×H×W → B×C_out×H×W."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """B×C_in×H×W → B×C_out×H×W."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return cast("Tensor", self.skip(x) + hidden)


class GlobalAttention(nn.Module):
    """Residual self-attention over all positions of a feature map: B×C×H×W → B×C×H×W."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4)
        attended = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return cast("Tensor", x + self.out(attended.transpose(2, 3).reshape(b, c, h, w)))


class UNetTrunk(nn.Module):
    """U-Net with a stride-2 stem: B×3×S×S → features at strides 2 and 4 (widths[0] and widths[1] channels).

    Pixels are expected normalised (about zero mean, unit variance).
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192), blocks: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.encoder = nn.ModuleList()
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            self.encoder.append(nn.Sequential(*(ResidualBlock(width, width) for _ in range(blocks))))
            if level + 1 < len(widths):
                self.down.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        self.middle = nn.Sequential(GlobalAttention(widths[-1]), ResidualBlock(widths[-1], widths[-1]))
        self.lateral = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in range(len(widths) - 1):
            self.lateral.append(nn.Conv2d(widths[level + 1], widths[level], 1))
            self.decoder.append(ResidualBlock(2 * widths[level], widths[level]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B×3×S×S → (B×widths[0]×S/2×S/2, B×widths[1]×S/4×S/4)."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoder, self.down, strict=False):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(self.encoder[-1](x))
        quarter = x
        for level in range(len(self.decoder) - 1, -1, -1):
            x = F.interpolate(self.lateral[level](x), scale_factor=2.0, mode="nearest")
            x = self.decoder[level](torch.cat([skips[level], x], dim=1))
            if level == 1:
                quarter = x
        return x, quarter
