"""Which devices there are, and which worker process gets which: placement is a pure function."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s3pot_batch.stages.errors import ConfigError

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Place:
    """One worker process: its device as the process itself sees it, and the environment that makes it so."""

    device: str
    environment: tuple[tuple[str, str], ...] = ()


def cpu_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices of this machine, as values for ``CUDA_VISIBLE_DEVICES``; CUDA is not initialised."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(str(number) for number in range(count))


def resolve(choice: str) -> str:
    """The device of this process for ``auto``, ``cpu`` or ``cuda``; a full name such as ``cuda:0`` is kept."""
    if choice == "auto":
        return "cuda:0" if visible_gpus() else "cpu"
    return "cuda:0" if choice == "cuda" else choice


def settle_threads(device: str) -> None:
    """One torch thread for models on a CPU, whatever the machine and the number of workers.

    Sums over several threads round differently for each number of threads, and detection and diffusion turn a last bit
    into other masks. Cores are used by running several workers.
    """
    if device == "cpu":
        import torch

        torch.set_num_threads(1)


def placement(
    choice: DeviceChoice, *, workers: int | None, shards: int, gpus: Sequence[str], cores: int
) -> tuple[Place, ...]:
    """Where the worker processes go: one per GPU, else one per core, never more than there are shards.

    Args:
        choice: ``auto`` takes GPUs if there are any.
        workers: an explicit number of processes; several share a GPU when there are more of them than GPUs.
            0, or a single shard when the number is left open, means this process: the answer is empty.
        shards: how many shards wait.
        gpus: values for ``CUDA_VISIBLE_DEVICES``, one per card.
        cores: CPU cores; GPU processes share them out as threads, CPU processes have one each.

    Raises:
        ConfigError: ``cuda`` without a GPU, or a negative number of workers.
    """
    if choice == "cuda" and not gpus:
        raise ConfigError("--device cuda: no CUDA device here; use --device cpu or auto")
    if workers is not None and workers < 0:
        raise ConfigError(f"--workers {workers}: must be 0 (this process) or more")
    if workers == 0 or shards == 0 or (workers is None and shards == 1):
        return ()
    cards = () if choice == "cpu" else tuple(gpus)
    number = min(workers or len(cards) or cores, shards)
    threads = str(max(1, cores // number))
    return tuple(
        Place("cuda:0", (("CUDA_VISIBLE_DEVICES", cards[worker % len(cards)]), ("OMP_NUM_THREADS", threads)))
        if cards
        else Place("cpu", (("CUDA_VISIBLE_DEVICES", ""), ("OMP_NUM_THREADS", "1")))
        for worker in range(number)
    )
