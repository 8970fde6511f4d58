"""A recipe's fields are its command line."""

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.inpainter import ControlNetRecipe, VaeRecipe
from recipes.parser import ParserRecipe
from recipes.recipe import command_line
from recipes.segmenter import SegmenterRecipe
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import EMBEDDED

KINDS = (ParserRecipe, VaeRecipe, ControlNetRecipe, SegmenterRecipe)
NEEDED = ["--data", "photos", "--work", "scratch"]


def call(kind, *options):
    """The recipe that a training is called with."""
    recipes = []

    def train(recipe: kind) -> None:  # type: ignore[valid-type]
        recipes.append(recipe)

    done = CliRunner().invoke(command_line(train), options)
    assert done.exit_code == 0, done.output
    return recipes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_without_options_a_recipe_has_its_defaults(kind):
    assert call(kind, *NEEDED) == kind(data=Path("photos"), work=Path("scratch"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_an_option_of_its_own_type(kind):
    values = {"str": "cuda", "float": 0.25, "int": 3, "path": Path("there")}
    written, expected = [], {}
    for field in fields(kind):
        default = Path() if field.default in {None, MISSING} else field.default
        value = values["path" if isinstance(default, Path) else type(default).__name__]
        written += [f"--{field.name}", str(value)]
        expected[field.name] = value
    assert call(kind, *written) == kind(**expected)


def test_weights_go_into_the_package_unless_told_otherwise():
    assert call(ParserRecipe, *NEEDED).out == EMBEDDED
    assert "out" not in {field.name for field in fields(VaeRecipe)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--work", "scratch"], "--data"),
        ([*NEEDED, "--batch", "many"], "--batch"),
        ([*NEEDED, "--paper", "1"], "--paper"),
    ],
)
def test_wrong_options_are_named(options, message):
    def train(recipe: ParserRecipe) -> None:
        raise AssertionError(recipe)

    done = CliRunner().invoke(command_line(train), options)
    assert done.exit_code == 2
    assert message in done.output


def test_what_cannot_be_trained_is_told_without_a_traceback():
    def train(recipe: ParserRecipe) -> None:
        raise ConfigError("no annotated face to learn from")

    done = CliRunner().invoke(command_line(train), NEEDED)
    assert done.exit_code == 2
    assert "no annotated face" in done.output


def test_several_trainings_are_commands_by_name():
    called = []

    def vae(recipe: VaeRecipe) -> None:
        called.append(("vae", recipe.seed))

    def controlnet(recipe: ControlNetRecipe) -> None:
        called.append(("controlnet", recipe.seed))

    program = command_line(vae, controlnet)
    for name in ("controlnet", "vae"):
        assert CliRunner().invoke(program, [name, *NEEDED]).exit_code == 0
    assert called == [("controlnet", 3), ("vae", 2)]


def test_help_says_what_a_training_does_and_what_its_options_are():
    def train(recipe: ParserRecipe) -> None:
        """Train the parser."""

    shown = CliRunner().invoke(command_line(train), ["--help"]).output
    assert "Train the parser." in shown
    assert all(f"--{field.name}" in shown for field in fields(ParserRecipe))
