"""Batches of few sizes, for networks that ``torch.compile`` makes anew for every size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class BatchSizes:
    """The batch sizes that a compiled network knows: a smaller batch is filled up to one of them.

    Up to twice the work is worth it, as a compilation takes minutes; so there are few sizes, each half the next.
    """

    compiled: bool = True
    """Else every batch stays as it is."""
    known: set[int] = field(default_factory=set)

    @contextmanager
    def filled(self, count: int) -> Iterator[int]:
        """The size that a batch of ``count`` is to have while the network works on it.

        One that fails is forgotten: if there was no memory for it, the next try is a smaller batch, and may stay so.
        """
        size = (
            min((size for size in self.known if count <= size <= 2 * count), default=count) if self.compiled else count
        )
        try:
            yield size
        except BaseException:
            self.known.discard(size)
            raise
        self.known.add(size)
