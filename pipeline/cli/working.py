"""Commands that work on photos: references, train, segment."""

import glob
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, clear_errors, show, takes
from s3pot_batch.pipeline.copies import called
from s3pot_batch.pipeline.options import DryRun, Json, ManifestOrPhotos, Options, Photos
from s3pot_batch.stages.errors import ConfigError

commands = typer.Typer()
OF_PHOTOS = {"manifest": ManifestOrPhotos}


@commands.command(epilog="Example: s3pot-batch references --manifest in.parquet --workers 4")
@takes(Options, without=("checkpoint", "references", "per_image"), optional=OF_PHOTOS)
def references(options: Options, *, photos: Photos = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stage one: find faces and generate each face as it would be with nothing in front."""
    with clear_errors(), _listed(options, photos, dry_run=dry_run) as listed:
        _work(listed, "references", dry_run=dry_run, as_json=as_json)


@commands.command(epilog="Example: s3pot-batch train --manifest in.parquet --config run.toml")
@takes(Options, without=("checkpoint",), optional=OF_PHOTOS)
def train(options: Options, *, photos: Photos = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stage two, training: learn prompts from pairs of photo and reference; no masks are needed."""
    from s3pot_batch.pipeline.parallel import check_seen_by_all, launched, train_together

    with clear_errors():
        check_seen_by_all(options.run, options.references)
    with clear_errors(), _listed(options, photos, dry_run=dry_run) as listed:
        if not launched() or dry_run or options.per_image:
            _work(listed, "fits" if options.per_image else "train", dry_run=dry_run, as_json=as_json)
        elif summary := train_together(listed):
            show(summary.text(), summary.as_json(), as_json=as_json)
            raise typer.Exit(summary.exit_code)


@commands.command(epilog="Example: s3pot-batch segment photos/ --png, or: s3pot-batch segment --manifest in.parquet")
@takes(Options, optional=OF_PHOTOS)
def segment(
    options: Options,
    *,
    photos: Photos = None,
    png: Annotated[bool, typer.Option("--png", help="Also write masks/IMAGE_ID.png, 255 = occluded.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stage two, inference: write segments.parquet, one row per photo. Runs stage one where it lacks."""
    with clear_errors(), _listed(options, photos, dry_run=dry_run) as listed:
        _work(listed, "segments", dry_run=dry_run, as_json=as_json, formats=("png",) if png else ())


@contextmanager
def _listed(options: Options, photos: list[str] | None, *, dry_run: bool) -> Iterator[Options]:
    """The options with a manifest, the one that was given or one of the photos that were named, and runs at hand.

    Raises:
        ConfigError: both were given, or neither; or a run folder cannot be used.
        ManifestError: nothing by these names is a photo.
    """
    given: Path | None = options.manifest
    if bool(photos) == bool(given):
        both = ", not both" if given else ""
        raise ConfigError(f"name photos or their folder, or a manifest with --manifest{both}")
    from s3pot_batch.pipeline.remote import LENT, NEEDED, at_hand, fetched

    with (
        at_hand(options.run, only=NEEDED, purpose="look" if dry_run else "work") as run,
        at_hand(options.references, only=LENT, purpose="read") as lender,
        TemporaryDirectory() as scratch,  # a dry run writes nothing
    ):
        checkpoint = fetched(options.checkpoint) if options.checkpoint else None
        options = replace(options, run=run, references=lender, checkpoint=checkpoint)
        yield _of_photos(options, photos, Path(scratch) if dry_run else None) if photos else options


def _of_photos(options: Options, photos: list[str], place: Path | None) -> Options:
    """The options with a manifest of photos, which is written to a place, else into the run folder."""
    from s3pot_batch.manifests.index import build_manifest

    base = Path(os.path.commonpath([_folder(one) for one in photos]))
    name = Path(photos[0]).stem if len(photos) == 1 and Path(photos[0]).is_file() else base.name
    run = options.run or Path("runs") / (name or "photos")
    manifest = (place or run) / "manifest.parquet"
    build_manifest(photos, manifest, base=base, note=lambda line: sys.stderr.write(f"Note: {line}\n"))
    return replace(options, manifest=manifest, run=run)


def _folder(photos: str) -> Path:
    """The folder that is named, or that a pattern or a photo is in."""
    path = Path(os.path.abspath(photos))  # noqa: PTH100  (with .. taken away, and links as they are)
    if path.is_dir():
        return path
    return next(parent for parent in path.parents if not glob.has_magic(str(parent)))


def _work(options: Options, target: str, *, dry_run: bool, as_json: bool, formats: tuple[str, ...] = ()) -> None:
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
    run = shlex.quote(called(str(job.run)))
    more = [f"Look at them: s3pot-batch report --run {run}"] if target == "segments" else []
    show("\n".join([summary.text(), *lost, *more]), summary.as_json(), as_json=as_json)
    raise typer.Exit(SOME_FAILED if lost else summary.exit_code)
