"""Commands that work on photos: references, train, segment."""

from dataclasses import replace
from typing import Annotated

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, clear_errors, show, takes
from s3pot_batch.pipeline.options import DryRun, Json, Options

commands = typer.Typer()


@commands.command(epilog="Example: s3pot-batch references --manifest in.parquet --workers 4")
@takes(Options, without=("checkpoint", "references", "per_image"))
def references(options: Options, *, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stage one: find faces and generate each face as it would be with nothing in front."""
    _work(options, "references", dry_run=dry_run, as_json=as_json)


@commands.command(epilog="Example: s3pot-batch train --manifest in.parquet --config run.toml")
@takes(Options, without=("checkpoint",))
def train(options: Options, *, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stage two, training: learn prompts from pairs of photo and reference; no masks are needed."""
    from s3pot_batch.pipeline.parallel import launched, train_together

    if launched() and not (dry_run or options.per_image):
        with clear_errors():
            summary = train_together(options)
            if summary:
                show(summary.text(), summary.as_json(), as_json=as_json)
                raise typer.Exit(summary.exit_code)
            return
    _work(options, "fits" if options.per_image else "train", dry_run=dry_run, as_json=as_json)


@commands.command(epilog="Example: s3pot-batch segment --manifest in.parquet --png")
@takes(Options)
def segment(
    options: Options,
    *,
    png: Annotated[bool, typer.Option("--png", help="Also write masks/IMAGE_ID.png, 255 = occluded.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stage two, inference: write segments.parquet, one row per photo. Runs stage one where it lacks."""
    _work(options, "segments", dry_run=dry_run, as_json=as_json, formats=("png",) if png else ())


def _work(options: Options, target: str, *, dry_run: bool, as_json: bool, formats: tuple[str, ...] = ()) -> None:
    with clear_errors():
        from s3pot_batch.pipeline.export import export
        from s3pot_batch.pipeline.job import open_job, work

        job = open_job(options, target)
        if dry_run:
            preview = job.preview()
            show("\n".join(f"{name}: {value}" for name, value in preview.items()), preview, as_json=as_json)
            return
        summary = work(job)
        exports = [export(job.run, name) for name in formats]
        lost = [one.text() for one in exports if one.failures]
        summary = replace(summary, files=(*summary.files, *(one.folder for one in exports)))
        show("\n".join([summary.text(), *lost]), summary.as_json(), as_json=as_json)
        raise typer.Exit(SOME_FAILED if lost else summary.exit_code)
