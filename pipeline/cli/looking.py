"""Commands that look into a run folder, take things from there and bring them back: status, report, export, import."""

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, clear_errors, show, takes
from s3pot_batch.pipeline.options import AnyManifest, ExportOptions, Json, Run

commands = typer.Typer()


@commands.command(epilog="Example: s3pot-batch status --run runs/in")
def status(run: Run = None, manifest: AnyManifest = None, *, as_json: Json = False) -> None:
    """Say what is done in a run folder and what is left."""
    with clear_errors():
        from s3pot_batch.pipeline.job import run_folder
        from s3pot_batch.pipeline.status import run_status

        found = run_status(run_folder(manifest, run))
        show(found.text(), found.as_json(), as_json=as_json)


@commands.command(epilog="Example: s3pot-batch report --run runs/in --sheet sheet.png")
def report(
    run: Run = None,
    manifest: AnyManifest = None,
    *,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Where the contact sheet goes; default RUN/sheet.png.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Photos on the contact sheet.")] = 24,
    as_json: Json = False,
) -> None:
    """Write report.html and a contact sheet: photo, parse, reference, contrast, prompts, mask."""
    with clear_errors():
        from s3pot_batch.pipeline.job import run_folder
        from s3pot_batch.pipeline.report.page import write_page
        from s3pot_batch.pipeline.report.sheets import contact_sheet, segmented_faces
        from s3pot_batch.pipeline.status import run_status

        folder = run_folder(manifest, run)
        run_status(folder)
        if any(True for _ in islice(segmented_faces(folder), limit, None)):
            sys.stderr.write(f"Note: the sheet shows the first {limit} faces; --limit draws more\n")
        drawn = contact_sheet(folder, sheet or folder / "sheet.png", limit)
        page = write_page(folder, drawn)
        show(f"{page}\n{drawn}", {"report": str(page), "sheet": str(drawn)}, as_json=as_json)


@commands.command("export", epilog="Example: s3pot-batch export --run runs/in --format png")
@takes(ExportOptions)
def export_(
    options: ExportOptions,
    run: Run = None,
    manifest: AnyManifest = None,
    *,
    name: Annotated[
        str, typer.Option("--format", help="png, coco, cvat, labelme, label-studio, fiftyone, hf, or a package's own.")
    ] = "png",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; default in the run folder.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's masks for other tools."""
    with clear_errors():
        from s3pot_batch.pipeline.export import export
        from s3pot_batch.pipeline.job import run_folder

        done = export(run_folder(manifest, run), name, out, options)
        failures = [vars(one) for one in done.failures]
        facts = {"folder": str(done.folder), "files": done.count, "failures": failures}
        show(done.text(), facts, as_json=as_json)
        if failures:
            raise typer.Exit(SOME_FAILED)


@commands.command("import", epilog="Example: s3pot-batch import --run runs/in --format cvat annotations.xml")
def import_(
    path: Annotated[Path, typer.Argument(help="File, ZIP or folder that the tool has exported.")],
    run: Run = None,
    manifest: AnyManifest = None,
    *,
    name: Annotated[str, typer.Option("--format", help="cvat, label-studio, labelme or coco.")],
    as_json: Json = False,
) -> None:
    """Take what people have corrected in their own tools into RUN/corrections.parquet."""
    with clear_errors():
        from s3pot_batch.pipeline.corrections.importing import import_corrections
        from s3pot_batch.pipeline.job import run_folder

        done = import_corrections(run_folder(manifest, run), name, path)
        unread = [vars(one) for one in done.unread]
        facts = {"file": str(done.file), "taken": done.taken, "photos": done.photos, "unread": unread}
        show(done.text(), facts, as_json=as_json)
        if unread:
            raise typer.Exit(SOME_FAILED)
