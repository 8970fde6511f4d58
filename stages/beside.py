"""What a processor's cores do beside a card: read, decode, find and write, while the card computes something else.

A worker on a CPU has one core and nothing to do beside it, so that all of this happens in turn there.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Given = TypeVar("Given")
Made = TypeVar("Made")

AHEAD = 2
"""Batches that are made before they are asked for; each holds its photos' frames in memory."""
SHARDS = 2
"""That a worker with a card does at once: while one is written and photos are read, the card has the other's work."""
SHARING = 8
"""Threads that share what is done for a batch, photo by photo."""


def ahead(work: Callable[[Given], Made], batches: Iterable[Given], device: str) -> Generator[Made]:
    """What some work makes of each batch, in order; beside a card it is done before it is asked for.

    Args:
        work: is called in one other thread, which has the card's kernels run beside those of this one.
        batches: are drawn in this thread.
        device: ``cpu`` does one after the other, when it is asked for.
    """
    if device == "cpu":
        yield from map(work, batches)
        return
    coming = deque[Future[Made]]()
    with ThreadPoolExecutor(1, "ahead") as thread:
        try:
            for batch in batches:
                coming.append(thread.submit(_on_another_stream, device, work, batch))
                if len(coming) > AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for one in coming:
                one.cancel()


def _on_another_stream(device: str, work: Callable[[Given], Made], batch: Given) -> Made:
    """Some work whose kernels need not wait for what another thread has given the card to do."""
    if not device.startswith("cuda"):
        return work(batch)
    import torch

    with torch.cuda.stream(_stream(device)):
        return work(batch)


@cache
def _stream(device: str) -> "torch.cuda.Stream":
    """One for all batches of a process: torch keeps the freed memory of every stream apart."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def shared(device: str) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` whose calls the processor's cores share, beside a card; else ``map`` itself."""
    if device == "cpu":
        yield map
        return
    with ThreadPoolExecutor(SHARING, "shared") as threads:
        yield threads.map
