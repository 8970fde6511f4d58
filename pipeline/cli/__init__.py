"""The command line: s3pot-batch.

Nothing heavy is imported here but inside commands, so that ``--help`` answers at once.
"""

import os

import typer

from s3pot_batch.pipeline.cli import looking, manifests, measuring, models, working
from s3pot_batch.pipeline.cli.common import clear_errors, open_streams

OTHERS = 0o002
"""Who is not of the user's group may write to nothing that a command makes, whatever the session allows."""
app = typer.Typer(
    help="Find what hides a face: S³POT face occlusion segmentation as a two-stage offline batch pipeline.",
    epilog="Example: s3pot-batch index photos --out in.parquet && s3pot-batch segment --manifest in.parquet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (manifests, working, measuring, looking, models):
    app.add_typer(module.commands)


def main() -> None:
    """Entry point of the console script."""
    open_streams()
    os.umask(os.umask(0) | OTHERS)
    with clear_errors():
        app()
