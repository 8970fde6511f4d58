"""python -m benchmarks [NAME…]: what is quick, and what that costs, against its plain counterpart."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Annotated

import typer


def run(name: str, *args: str, **options: bool) -> None:
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
    compiled: Annotated[bool, typer.Option("--compiled", help="Of gpu: with torch.compile, on a device.")] = False,
) -> None:
    """Run benchmarks, one after the other."""
    import torch

    torch.set_num_threads(1)
    for name in names or [name for name in BENCHMARKS if name not in LONG]:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"there is no {name}; choose from {', '.join(BENCHMARKS)}")
        work = BENCHMARKS[name]
        (partial(work, size, compiled=compiled) if name == "gpu" else work)()


if __name__ == "__main__":
    typer.run(main)
