"""python -m benchmarks [NAME…]: what is quick, and what that costs, against its plain counterpart."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer

from benchmarks.attention import attention
from benchmarks.caching import caching
from benchmarks.chaos import chaos
from benchmarks.costs import costs
from benchmarks.gpu import gpu
from benchmarks.matching import matching
from benchmarks.million import million
from benchmarks.models import models
from benchmarks.mutations import mutations
from benchmarks.planning import planning
from benchmarks.reporting import reporting
from benchmarks.scheduling import scheduling

BENCHMARKS: dict[str, Callable[..., None]] = {
    "matching": matching, "caching": caching, "planning": planning, "scheduling": scheduling, "models": models,
    "mutations": mutations, "million": million, "chaos": chaos,
    "reporting": reporting, "attention": attention, "costs": costs, "gpu": gpu,
}  # fmt: skip
LONG = ("million", "chaos", "reporting", "gpu")
"""Minutes, or a quarter of an hour, each: only by name."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; default: all but the long ones.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of gpu: full, or tiny; default: what suits the device.")] = "",
    compiled: Annotated[bool, typer.Option("--compiled", help="Of gpu: with torch.compile, on a device.")] = False,
) -> None:
    """Run benchmarks, one after the other."""
    torch.set_num_threads(1)
    for name in names or [name for name in BENCHMARKS if name not in LONG]:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"there is no {name}; choose from {', '.join(BENCHMARKS)}")
        work = BENCHMARKS[name]
        (partial(work, size, compiled=compiled) if name == "gpu" else work)()


if __name__ == "__main__":
    typer.run(main)
