"""Commands that make manifests: index, compose."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from s3pot_batch.pipeline.cli.common import clear_errors, show
from s3pot_batch.pipeline.options import Json, here

commands = typer.Typer()


@commands.command(epilog="Example: s3pot-batch index photos 'more/*.png' --out in.parquet")
def index(
    paths: Annotated[list[str], typer.Argument(help="Folders, glob patterns, photos, or one CSV file.")],
    out: Annotated[Path, typer.Option("--out", callback=here, help="The manifest to write.")],
    masks: Annotated[
        bool, typer.Option("--masks", help="Take NAME_mask.png beside a photo as its ground truth.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a manifest of photos."""
    with clear_errors():
        from s3pot_batch.manifests.index import build_manifest

        notes: list[str] = []
        table = build_manifest(paths, out, masks=masks, note=notes.append)
        for note in notes:
            sys.stderr.write(f"Note: {note}\n")
        facts = {"manifest": str(out), "photos": table.num_rows, "columns": table.column_names, "notes": notes}
        show(f"{out}: {table.num_rows} photos", facts, as_json=as_json)
