"""Commands about the models of a profile: list, pull, verify."""

import sys
from typing import Annotated

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, USAGE_ERROR, clear_errors, show
from s3pot_batch.pipeline.options import Json, ProfileName

commands = typer.Typer(
    name="models",
    help="The models of a profile.",
    epilog="Example: s3pot-batch models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@commands.command("list", epilog="Example: s3pot-batch models list")
def models_list(profile: ProfileName = None, *, as_json: Json = False) -> None:
    """Name the profiles and their six parts."""
    with clear_errors():
        from s3pot_batch.stages.models.profiles import PARTS, PROFILES, find_profile

        found = [find_profile(name) for name in ([profile] if profile else PROFILES)]
        facts = {
            one.name: {part: {"kind": (spec := one.part(part)).kind, "weights": spec.weights} for part in PARTS}
            for one in found
        }
        lines = [
            line
            for name, parts in facts.items()
            for line in (name, *(f"  {part:<10} {spec['kind']:<11} {spec['weights']}" for part, spec in parts.items()))
        ]
        show("\n".join(lines), facts, as_json=as_json)


@commands.command("pull", epilog="Example: s3pot-batch models pull --profile paper")
def models_pull(
    profile: ProfileName = None,
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask a network; fail if a file is missing.")] = False,
    mirror: Annotated[
        str,
        typer.Option("--from", metavar="DIR|URL", help="A mirror of the weights' folder, instead of the publishers."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Fetch what a profile needs and lacks; what was interrupted goes on."""
    with clear_errors():
        from s3pot_batch.stages.models.downloads import licences, pull
        from s3pot_batch.stages.models.profiles import DEFAULT, find_profile

        found = find_profile(profile or DEFAULT)
        for line in licences(found):
            sys.stderr.write(f"Licence: {line}\n")
        pulled = pull(found, offline=offline, mirror=mirror)
        facts = {"done": pulled.done, "failed": pulled.failed}
        show("\n".join([*pulled.done, *(f"Failed: {line}" for line in pulled.failed)]), facts, as_json=as_json)
        raise typer.Exit(SOME_FAILED if pulled.failed else 0)


@commands.command("verify", epilog="Example: s3pot-batch models verify --profile paper")
def models_verify(profile: ProfileName = None, *, as_json: Json = False) -> None:
    """Check that a profile's weights are there and are the right ones."""
    with clear_errors():
        from s3pot_batch.stages.models.downloads import verify
        from s3pot_batch.stages.models.profiles import DEFAULT, find_profile

        name = profile or DEFAULT
        problems = verify(find_profile(name))
        show("\n".join(problems) or f"{name}: all weights are there", problems, as_json=as_json)
        raise typer.Exit(USAGE_ERROR if problems else 0)
