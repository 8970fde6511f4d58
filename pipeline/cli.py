"""The command line: s3pot-batch.

Nothing heavy is imported here but inside commands, so that ``--help`` answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.errors import ManifestError
from pipeline.devices import DeviceChoice
from stages.errors import S3potError

if TYPE_CHECKING:
    from pipeline.job import Job, Options
    from pipeline.report import Summary

USAGE_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Find what hides a face: S³POT face occlusion segmentation as a two-stage offline batch pipeline.",
    epilog="Example: s3pot-batch index photos --out in.parquet && s3pot-batch segment --manifest in.parquet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models = typer.Typer(
    help="The models of a profile.",
    epilog="Example: s3pot-batch models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(models, name="models")

ManifestFile = Annotated[Path, typer.Option("--manifest", help="Manifest (Parquet), made by index.")]
AnyManifest = Annotated[Path | None, typer.Option("--manifest", help="Manifest whose default run is meant.")]
Run = Annotated[Path | None, typer.Option("--run", help="Run folder; default runs/<manifest stem>.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="embedded (default), paper, or a TOML file that replaces parts.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file: profile, seed, [faces] [references] [segments] [training]."),
]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Where models run.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Worker processes; 0: this process. Default: one per GPU or CPU core."),
]
SchedulerUrl = Annotated[
    str | None, typer.Option("--scheduler", help="A running Dask scheduler, tcp://host:port, instead of own workers.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random; default 0.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first photos of the manifest.")]
ShardSize = Annotated[int, typer.Option("--shard-size", min=1, help="Photos per shard.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Faces at once on a device.")]
PerImage = Annotated[bool, typer.Option("--per-image", help="Fit the adapter to each face by itself.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@app.command(epilog="Example: s3pot-batch index photos 'more/*.png' --out in.parquet")
def index(
    paths: Annotated[list[str], typer.Argument(help="Folders, glob patterns, photos, or one CSV file.")],
    out: Annotated[Path, typer.Option("--out", help="The manifest to write.")],
    masks: Annotated[
        bool, typer.Option("--masks", help="Take NAME_mask.png beside a photo as its ground truth.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a manifest of photos."""
    with _clear_errors():
        from manifests.index import build_manifest

        table = build_manifest(paths, out, masks=masks)
        facts = {"manifest": str(out), "photos": table.num_rows, "columns": table.column_names}
        _print(f"{out}: {table.num_rows} photos", facts, as_json)


@app.command(epilog="Example: s3pot-batch references --manifest in.parquet --workers 4")
def references(
    manifest: ManifestFile,
    run: Run = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    device: Device = "auto",
    workers: Workers = None,
    scheduler: SchedulerUrl = None,
    seed: Seed = None,
    limit: Limit = None,
    shard_size: ShardSize = 16,
    batch_size: BatchSize = 8,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stage one: find faces and generate each face as it would be with nothing in front."""
    with _clear_errors():
        from pipeline import job
        from pipeline.job import Options

        options = Options(
            manifest, run, profile, config, device, workers, scheduler, seed, limit, shard_size, batch_size
        )
        _work(options, ("references",), job.references, dry_run=dry_run, as_json=as_json)


@app.command(epilog="Example: s3pot-batch train --manifest in.parquet --config run.toml")
def train(
    manifest: ManifestFile,
    run: Run = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    device: Device = "auto",
    workers: Workers = None,
    scheduler: SchedulerUrl = None,
    seed: Seed = None,
    limit: Limit = None,
    shard_size: ShardSize = 16,
    batch_size: BatchSize = 8,
    per_image: PerImage = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stage two, training: learn prompts from pairs of photo and reference; no masks are needed."""
    with _clear_errors():
        from pipeline import job
        from pipeline.job import Options

        options = Options(
            manifest, run, profile, config, device, workers, scheduler, seed, limit, shard_size, batch_size,
            per_image=per_image,
        )  # fmt: skip
        if per_image:
            _work(options, ("references", "tokens", "fits"), job.fit, dry_run=dry_run, as_json=as_json)
        _work(options, ("references", "tokens", "train"), job.train, dry_run=dry_run, as_json=as_json)


@app.command(epilog="Example: s3pot-batch segment --manifest in.parquet --png")
def segment(
    manifest: ManifestFile,
    run: Run = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    device: Device = "auto",
    workers: Workers = None,
    scheduler: SchedulerUrl = None,
    seed: Seed = None,
    limit: Limit = None,
    shard_size: ShardSize = 16,
    batch_size: BatchSize = 8,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A trained adapter; default: the run's own, else the profile's."),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write masks/IMAGE_ID.png, 255 = occluded.")] = False,
    per_image: PerImage = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stage two, inference: write segments.parquet, one row per photo. Runs stage one where it lacks."""
    with _clear_errors():
        from pipeline import job
        from pipeline.job import Options

        options = Options(
            manifest, run, profile, config, device, workers, scheduler, seed, limit, shard_size, batch_size,
            checkpoint, png, per_image,
        )  # fmt: skip
        stages = ("references", "tokens", "fits", "segments") if per_image else ("references", "segments")
        _work(options, stages, job.segment, dry_run=dry_run, as_json=as_json)


@app.command(epilog="Example: s3pot-batch evaluate --manifest truth.parquet --baselines")
def evaluate(
    manifest: ManifestFile,
    run: Run = None,
    group: Annotated[str | None, typer.Option("--group", help="A column to group by; default kind.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also the parser alone, SAM by box, SAM by points, contrast + GrabCut.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also the method with one thing changed at a time; trains each anew.")
    ] = False,
    training: Annotated[
        Path | None,
        typer.Option("--training", help="With --ablate: the manifest to train on (no masks); default: this one."),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Compare a run's masks with the manifest's column mask: table, evaluation.parquet, PNG plots."""
    with _clear_errors():
        from pipeline.evaluation import EvaluationOptions, run_evaluation
        from pipeline.job import run_folder

        folder = run_folder(manifest, run)
        options = EvaluationOptions(manifest, folder, group, baselines, ablate, training, device, workers)
        result, plots = run_evaluation(options)
        facts = {"summary": result.summary, "skipped": result.skipped, "rows": result.rows.to_pylist(),
                 "plots": [str(path) for path in plots]}  # fmt: skip
        _print("\n".join([result.table(), *map(str, plots)]), facts, as_json)


@app.command(epilog="Example: s3pot-batch compose --faces faces.parquet --cutouts cutouts --out benchmark")
def compose(
    faces: Annotated[Path, typer.Option("--faces", help="Manifest of clean faces with landmarks (and face_oval).")],
    cutouts: Annotated[Path, typer.Option("--cutouts", help="Folder of kinds: hands/*.png, textures/*.jpg, …")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write photos, masks and manifests to.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Photos in all.")] = 200,
    clean: Annotated[float, typer.Option("--clean", min=0, max=1, help="Share of unoccluded photos.")] = 0.2,
    size: Annotated[int, typer.Option("--size", min=64, help="Longest side of a photo.")] = 512,
    splits: Annotated[
        str, typer.Option("--splits", help="Names and shares; no face and no cut-out is in two splits.")
    ] = "train=0.5,test=0.5",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same files for the same seed.")] = 0,
    as_json: Json = False,
) -> None:
    """Build an occlusion benchmark with exact truth from clean faces and cut-outs."""
    with _clear_errors():
        from stages.evaluation.compose import Composition, parse_splits
        from stages.evaluation.compose import compose as build

        manifest = build(Composition(faces, cutouts, out, count, seed, clean, size, parse_splits(splits)))
        _print(f"{manifest}: {count} photos", {"manifest": str(manifest), "photos": count}, as_json)


@app.command(epilog="Example: s3pot-batch report --run runs/in --sheet sheet.png")
def report(
    run: Run = None,
    manifest: AnyManifest = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Where the contact sheet goes; default RUN/sheet.png.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Photos on the contact sheet.")] = 24,
    as_json: Json = False,
) -> None:
    """Write report.html and a contact sheet: photo, parse, reference, contrast, prompts, mask."""
    with _clear_errors():
        from pipeline.job import run_folder
        from pipeline.report import write_page
        from pipeline.status import run_status
        from stages.evaluation.sheets import contact_sheet

        folder = run_folder(manifest, run)
        run_status(folder)
        drawn = contact_sheet(folder, sheet or folder / "sheet.png", limit)
        page = write_page(folder, drawn)
        _print(f"{page}\n{drawn}", {"report": str(page), "sheet": str(drawn)}, as_json)


@app.command(epilog="Example: s3pot-batch status --run runs/in")
def status(run: Run = None, manifest: AnyManifest = None, as_json: Json = False) -> None:
    """Say what is done in a run folder and what is left."""
    with _clear_errors():
        from pipeline.job import run_folder
        from pipeline.status import run_status

        found = run_status(run_folder(manifest, run))
        _print(found.text(), found.as_json(), as_json)


@models.command("list", epilog="Example: s3pot-batch models list")
def models_list(profile: ProfileName = None, as_json: Json = False) -> None:
    """Name the profiles and their five parts."""
    with _clear_errors():
        from stages.models.catalog import profile as find_profile
        from stages.models.catalog import profile_names
        from stages.models.profiles import PARTS

        found = [find_profile(name) for name in ([profile] if profile else profile_names())]
        facts = {
            entry.name: {part: {"kind": (spec := getattr(entry, part)).kind, "weights": spec.weights} for part in PARTS}
            for entry in found
        }
        lines = [
            line
            for name, parts in facts.items()
            for line in (name, *(f"  {part:<10} {spec['kind']:<11} {spec['weights']}" for part, spec in parts.items()))
        ]
        _print("\n".join(lines), facts, as_json)


@models.command("pull", epilog="Example: s3pot-batch models pull --profile paper")
def models_pull(
    profile: ProfileName = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask a network; fail if a file is missing.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch what a profile needs and lacks."""
    with _clear_errors():
        from stages.models.catalog import profile as find_profile
        from stages.models.catalog import profile_names, pull

        done = pull(find_profile(profile or profile_names()[0]), offline=offline)
        _print("\n".join(done), done, as_json)


@models.command("verify", epilog="Example: s3pot-batch models verify --profile paper")
def models_verify(profile: ProfileName = None, as_json: Json = False) -> None:
    """Check that a profile's weights are there and are the right ones."""
    with _clear_errors():
        from stages.models.catalog import profile as find_profile
        from stages.models.catalog import profile_names, verify

        name = profile or profile_names()[0]
        problems = verify(find_profile(name))
        _print("\n".join(problems) or f"{name}: all weights are there", problems, as_json)
        raise typer.Exit(USAGE_ERROR if problems else 0)


def main() -> None:
    """Entry point of the console script."""
    with _clear_errors():
        app()


def _work(
    options: "Options", stages: tuple[str, ...], work: "Callable[[Job], Summary]", *, dry_run: bool, as_json: bool
) -> None:
    from pipeline.job import open_job

    job = open_job(options, *stages)
    if dry_run:
        preview = job.preview()
        _print("\n".join(f"{name}: {value}" for name, value in preview.items()), preview, as_json)
        return
    summary = work(job)
    _print(summary.text(), summary.as_json(), as_json)
    raise typer.Exit(summary.exit_code)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """One line for what the user can mend (exit 2), and one for Ctrl-C (exit 130)."""
    try:
        yield
    except (S3potError, ManifestError, PermissionError) as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; run the same command again to go on.\n")
        sys.exit(INTERRUPTED)


def _print(text: str, facts: Mapping[str, object] | list[object] | list[str], as_json: bool) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text)


if __name__ == "__main__":
    main()
