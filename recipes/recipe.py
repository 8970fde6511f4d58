"""What the recipes are told, and their command lines: an option for every field of a recipe."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import cv2
import typer

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import EMBEDDED

Data = Annotated[Path, typer.Option(help="The folder of the training faces, with its faces.parquet.")]
Work = Annotated[Path, typer.Option(help="A folder for aligned faces, checkpoints and logs; it is used again.")]
Out = Annotated[Path, typer.Option(help="Where weights and their report go.", show_default="into the package")]
Minutes = Annotated[float, typer.Option(help="Bound of the training, in wall time.")]
Batch = Annotated[int, typer.Option(help="Samples per step.")]
Seed = Annotated[int, typer.Option(help="Of the samples and of the weights at the start.")]
Rate = Annotated[float, typer.Option(help="Peak of the learning rate.")]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda.")]
Keep = Annotated[float, typer.Option(help="The share of the start's weights that the result has.")]
Measured = Annotated[int, typer.Option(help="Held-out samples that the report is measured on.")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training is told. Each recipe has its own defaults, and some have fields of their own.

    Raises:
        ConfigError: it is to keep a share of a start that nobody named.
    """

    data: Data
    work: Work
    minutes: Minutes
    steps: Annotated[int, typer.Option(help="Bound of the training, in optimiser steps.")] = 100_000
    batch: Batch
    seed: Seed
    device: Device = "cpu"
    rate: Rate
    start: Annotated[
        Path | None, typer.Option(help="Go on from an earlier training's checkpoint, or from what is 'shipped'.")
    ] = None
    keep: Keep = 0.0
    measured: Measured
    workers: Annotated[int, typer.Option(help="Processes that draw samples.")] = 1

    def __post_init__(self) -> None:
        if self.keep and self.start is None:
            raise ConfigError("--keep is a share of the weights that --start names; give both")


@dataclass(frozen=True, kw_only=True)
class ShippedRecipe(Recipe):
    """A recipe whose weights ship with the package."""

    out: Out = EMBEDDED

    def report(self, **more: object) -> dict[str, object]:
        """What the weights' report says of how they were trained."""
        return {
            "seed": self.seed, "device": self.device, "minutes": self.minutes, "batch": self.batch, "rate": self.rate,
            "keep": self.keep, **more,
        }  # fmt: skip


def command_line(*trainings: Callable[..., None]) -> typer.Typer:
    """A program of one training, or of several by name; each takes a recipe, whose fields are its options."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    for training in trainings:
        program.command()(_by_fields(training))
    return program


def _by_fields(training: Callable[..., None]) -> Callable[..., None]:
    """The training as a function of its recipe's fields: typer reads options off a signature."""
    kind: type[Recipe] = get_type_hints(training)["recipe"]

    @functools.wraps(training)
    def run(**fields: Any) -> None:  # noqa: ANN401 — of whatever types the options have
        cv2.setNumThreads(1)  # its pool of threads does not survive the fork into the workers that draw samples
        try:
            training(kind(**fields))
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error

    run.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    return run
