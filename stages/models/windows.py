"""Parts of an image's tokens: what lies far from the face region costs time and says nothing of it."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.protocols import Segmenter

MARGIN = 2
"""Tokens around the face region; with 6 the embedded profile's IoU on real photos is the same within 0.001."""


@dataclass(frozen=True)
class TokenWindow:
    """A rectangle of an image's T×T tokens."""

    side: int
    """T."""
    rows: slice
    columns: slice

    @property
    def height(self) -> int:
        """H."""
        return int(self.rows.stop - self.rows.start)

    @property
    def width(self) -> int:
        """W."""
        return int(self.columns.stop - self.columns.start)

    @classmethod
    def whole(cls, side: int) -> "TokenWindow":
        """All of them."""
        return cls(side, slice(0, side), slice(0, side))

    @classmethod
    def around(cls, cells: Tensor, side: int) -> "TokenWindow":
        """The smallest one that holds N int64 cells of T×T, with ``MARGIN`` around them."""

        def reached(places: Tensor) -> slice:
            return slice(max(int(places.min()) - MARGIN, 0), min(int(places.max()) + 1 + MARGIN, side))

        return cls(side, reached(cells // side), reached(cells % side))

    def cut(self, grid: Tensor) -> Tensor:
        """…×T×T → …×h×w."""
        return grid[..., self.rows, self.columns]

    def cells(self, own: Tensor) -> Tensor:
        """N int64 cells of h×w → the same ones of T×T."""
        row, column = own // self.width + self.rows.start, own % self.width + self.columns.start
        found: Tensor = row * self.side + column
        return found

    def filled(self, values: Tensor) -> Tensor:
        """B×n·h×n·w → B×n·T×n·T; outside is what stands at the edge."""
        n = values.shape[-1] // self.width
        before_and_after = [
            n * cells for part in (self.columns, self.rows) for cells in (part.start, self.side - part.stop)
        ]
        return F.pad(values[:, None], before_and_after, mode="replicate")[:, 0]


@runtime_checkable
class Windowed(Protocol):
    """A segmenter whose decoder can be shown a part of the tokens; what is encoded stays whole."""

    def within(self, window: TokenWindow) -> Segmenter:
        """The same one: ``attend`` and ``decode`` take …×h×w tokens, points are still in 0..1 of the whole image."""


def within(segmenter: Segmenter, window: TokenWindow) -> Segmenter:
    """The segmenter, shown a window.

    Raises:
        ConfigError: it can only be shown the whole.
    """
    if not isinstance(segmenter, Windowed):
        raise ConfigError(f"{type(segmenter).__name__} knows no windows; set segments.window = false")
    return segmenter.within(window)
