"""Commands that look into a run folder, take things from there and bring them back: status, report, export, import."""

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, clear_errors, show, takes
from s3pot_batch.pipeline.options import AnyManifest, ExportOptions, Json, ReportOptions, Run, here

if TYPE_CHECKING:
    from s3pot_batch.pipeline.status import RunStatus

commands = typer.Typer()


@commands.command(epilog="Example: s3pot-batch status --run runs/in")
def status(
    run: Run = None,
    manifest: AnyManifest = None,
    *,
    follow: Annotated[
        bool, typer.Option("--watch", help="Go on until the run is finished, or Ctrl-C; from another terminal, say.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is done in a run folder, what is worked on, and what is left."""
    with clear_errors():
        from s3pot_batch.pipeline.copies import url_of
        from s3pot_batch.pipeline.job import run_folder
        from s3pot_batch.pipeline.progress import LOG_SECONDS
        from s3pot_batch.pipeline.remote import NEEDED, at_hand
        from s3pot_batch.pipeline.status import WATCH_SECONDS, run_status, watch

        def look() -> "RunStatus":
            with at_hand(run, only=NEEDED, purpose="look") as here:
                return run_status(run_folder(manifest, here))

        if follow and not as_json:
            watch(look, LOG_SECONDS if url_of(run) else WATCH_SECONDS)  # a storage is listed each time
            return
        found = look()
        show(found.text(), found.as_json(), as_json=as_json)


@commands.command(epilog="Example: s3pot-batch report --run runs/in")
@takes(ReportOptions)
def report(options: ReportOptions, *, as_json: Json = False) -> None:
    """Write report.html, a page to look at a run, and a contact sheet; or compare two runs: comparison.html."""
    with clear_errors():
        from s3pot_batch.pipeline.remote import at_hand

        if not options.compare:
            with at_hand(options.run) as run:
                written = _report(replace(options, run=run))
            show("\n".join(written.values()), written, as_json=as_json)
            return
        from s3pot_batch.pipeline.report.compare import write_comparison

        with at_hand(options.compare[0], purpose="read") as one, at_hand(options.compare[1]) as other:
            page = write_comparison(one, other, group=options.group, quiet=options.quiet)
        show(str(page), {"comparison": str(page)}, as_json=as_json)


def _report(options: ReportOptions) -> dict[str, str]:
    from s3pot_batch.pipeline.job import run_folder
    from s3pot_batch.pipeline.report.page import write_page
    from s3pot_batch.pipeline.report.sheets import contact_sheet, segmented_faces
    from s3pot_batch.pipeline.status import run_status

    folder = run_folder(options.manifest, options.run)
    run_status(folder)
    found = sum(1 for _ in islice(segmented_faces(folder), options.limit + 1))
    if found > options.limit:
        sys.stderr.write(f"Note: the sheet shows the first {options.limit} faces; --limit draws more\n")
    page = write_page(
        folder, manifest=options.manifest, group=options.group, first=options.photo or (), quiet=options.quiet
    )
    written = {"report": str(page)}
    if found:
        written["sheet"] = str(contact_sheet(folder, options.sheet or folder / "sheet.png", options.limit))
    return written


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
    out: Annotated[
        Path | None, typer.Option("--out", callback=here, help="Folder to write to; default in the run folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's masks for other tools."""
    with clear_errors():
        from s3pot_batch.pipeline.export import export
        from s3pot_batch.pipeline.job import run_folder
        from s3pot_batch.pipeline.remote import at_hand

        with at_hand(run) as here:
            done = export(run_folder(manifest, here), name, out, options)
        failures = [vars(one) for one in done.failures]
        facts = {"folder": str(done.folder), "files": done.count, "failures": failures}
        show(done.text(), facts, as_json=as_json)
        if failures:
            raise typer.Exit(SOME_FAILED)


@commands.command("import", epilog="Example: s3pot-batch import --run runs/in --format cvat annotations.xml")
def import_(
    path: Annotated[Path, typer.Argument(callback=here, help="File, ZIP or folder that the tool has exported.")],
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
        from s3pot_batch.pipeline.remote import NEEDED, at_hand

        with at_hand(run, only=NEEDED) as here:
            done = import_corrections(run_folder(manifest, here), name, path)
        unread = [vars(one) for one in done.unread]
        facts = {"file": str(done.file), "taken": done.taken, "photos": done.photos, "unread": unread}
        show(done.text(), facts, as_json=as_json)
        if unread:
            raise typer.Exit(SOME_FAILED)
