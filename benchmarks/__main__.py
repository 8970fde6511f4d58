"""python -m benchmarks [NAME…]: what is quick, and what that costs, against its plain counterpart."""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer


def run(name: str, *args: str, **options: object) -> None:
    """Run the function of a module's own name; some of the modules take seconds to import."""
    getattr(import_module(f"benchmarks.{name}"), name)(*args, **options)


BENCHMARKS: dict[str, Callable[..., None]] = {
    name: partial(run, name)
    for name in (
        "matching", "caching", "planning", "scheduling", "models", "mutations", "million", "chaos", "reporting",
        "attention", "costs", "gpu", "scaling",
    )
}  # fmt: skip
LONG = ("million", "chaos", "reporting", "gpu", "scaling")
"""Minutes, or a quarter of an hour, each: only by name."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; default: all but the long ones.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of gpu: full, or tiny; default: what suits the device.")] = "",
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Of gpu: at last with torch.compile, on a device.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Of gpu: a JSON file, written anew after every step.")] = None,
    batches: Annotated[str, typer.Option(help="Of gpu: faces at once for the image encoder to try, as 1,4,8.")] = "",
    seconds: Annotated[float, typer.Option(help="Of gpu: nothing more is begun after so long.")] = math.inf,
) -> None:
    """Run benchmarks, one after the other."""
    import torch

    if not torch.cuda.is_available():  # as workers do, see pipeline/devices.py
        torch.set_num_threads(1)
    tried = [int(one) for one in batches.split(",") if one]
    for name in names or [name for name in BENCHMARKS if name not in LONG]:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"there is no {name}; choose from {', '.join(BENCHMARKS)}")
        work = BENCHMARKS[name]
        if name == "gpu":
            work = partial(work, size, compiled=compiled, out=out, batches=tried, seconds=seconds)
        work()


if __name__ == "__main__":
    typer.run(main)
