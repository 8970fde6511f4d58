"""What the command line says about work, in one place: names, types, defaults and help of the options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from s3pot_batch.pipeline.copies import url_of
from s3pot_batch.pipeline.devices import DeviceChoice


def here(path: Path | None) -> Path | None:
    """What has to be on this machine: a URL would be taken for a folder called ``s3:``.

    Raises:
        BadParameter: it is a URL.
    """
    if url := url_of(path):
        raise typer.BadParameter(
            f"{url} is a URL; this has to be on this machine (run folders and checkpoints need not)"
        )
    return path


ManifestFile = Annotated[Path, typer.Option("--manifest", callback=here, help="Manifest (Parquet), made by index.")]
AnyManifest = Annotated[
    Path | None, typer.Option("--manifest", callback=here, help="Manifest whose default run is meant.")
]
ManifestOrPhotos = Annotated[
    Path | None,
    typer.Option("--manifest", callback=here, help="Manifest (Parquet), made by index; or name photos instead."),
]
Photos = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders, glob patterns or photos; their manifest is RUN/manifest.parquet.", show_default=False
    ),
]
Run = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder or URL; default runs/<manifest stem>, of a folder runs/<its name>."),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="embedded (default), paper, or a TOML file that replaces parts.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=here, help="TOML file: profile, seed, [faces] [references] [segments] [training]."
    ),
]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Where models run.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Worker processes; 0: this process. Default: one per GPU or CPU core."),
]
SchedulerUrl = Annotated[
    str | None, typer.Option("--scheduler", help="A running Dask scheduler, tcp://host:port, instead of own workers.")
]
SchedulerFile = Annotated[
    Path | None,
    typer.Option("--scheduler-file", callback=here, help="The file in which such a scheduler says its address."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random; default 0.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first photos of the manifest.")]
ShardSize = Annotated[
    int | None, typer.Option("--shard-size", min=1, help="Photos per shard; default 16, more from 131,072 photos on.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Faces at once on a device.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="A trained adapter, or its URL; default: the run's own, else the profile's."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Also work on all photos again that have failed, whatever the reason.")
]
References = Annotated[
    Path | None,
    typer.Option("--references", help="A run folder or URL whose references are taken over, for a new --run."),
]
Confine = Annotated[
    bool, typer.Option("--confine", help="For other people's manifests: photos in its folder, and some URLs.")
]
Schemes = Annotated[str, typer.Option("--schemes", help="URLs that are allowed to a confined manifest.")]
PerImage = Annotated[bool, typer.Option("--per-image", help="Fit the adapter to each face by itself.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing while it works; RUN/log.txt has it.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="The least that RUN/log.txt holds.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@dataclass(frozen=True)
class Options:
    """Everything about a job but what is wanted; all but the manifest has a default."""

    manifest: ManifestFile
    run: Run = None
    profile: ProfileName = None
    config: ConfigFile = None
    device: Device = "auto"
    workers: Workers = None
    scheduler: SchedulerUrl = None
    scheduler_file: SchedulerFile = None
    seed: Seed = None
    limit: Limit = None
    shard_size: ShardSize = None
    batch_size: BatchSize = 8
    checkpoint: Checkpoint = None
    references: References = None
    retry_failed: RetryFailed = False
    confine: Confine = False
    schemes: Schemes = "https"
    per_image: PerImage = False
    quiet: Quiet = False
    log_level: LogLevel = "info"


@dataclass(frozen=True)
class ReportOptions:
    """What is looked at, and where it goes."""

    run: Run = None
    manifest: AnyManifest = None
    group: Annotated[str | None, typer.Option("--group", help="A column to filter by; default kind.")] = None
    photo: Annotated[
        list[str] | None, typer.Option("--photo", help="An image_id whose steps have to be shown; may be repeated.")
    ] = None
    sheet: Annotated[
        Path | None, typer.Option("--sheet", callback=here, help="Where the contact sheet goes; default RUN/sheet.png.")
    ] = None
    limit: Annotated[int, typer.Option("--limit", min=1, help="Photos on the contact sheet.")] = 24
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while it works.")] = False
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="RUN RUN", help="Two runs of the same photos, side by side, instead."),
    ] = None


@dataclass(frozen=True)
class ExportOptions:
    """Which photos are exported, and how they are drawn. A format takes those that it names, and refuses the others."""

    status: Annotated[str, typer.Option("--status", help="Only photos with one of these, after corrections.")] = (
        "ok,no_face"
    )
    min_ratio: Annotated[
        float | None, typer.Option("--min-ratio", min=0, max=1, help="Only photos of which at least so much is hidden.")
    ] = None
    max_ratio: Annotated[
        float | None, typer.Option("--max-ratio", min=0, max=1, help="Only photos of which at most so much is hidden.")
    ] = None
    min_faces: Annotated[int, typer.Option("--min-faces", min=0, help="Only photos with so many faces or more.")] = 0
    max_faces: Annotated[
        int | None, typer.Option("--max-faces", min=0, help="Only photos with so many faces or fewer.")
    ] = None
    part: Annotated[
        Literal["occlusion", "visible", "face"] | None,
        typer.Option("--part", help="png: what is white; default occlusion, with --cutout visible."),
    ] = None
    edge: Annotated[
        Literal["binary", "soft"], typer.Option("--edge", help="png: soft draws the probability, 0 to 255.")
    ] = "binary"
    invert: Annotated[bool, typer.Option("--invert", help="png: black where it would be white.")] = False
    cutout: Annotated[bool, typer.Option("--cutout", help="png: the photo, with the mask as its alpha channel.")] = (
        False
    )
    photos: Annotated[
        bool, typer.Option("--photos", help="Also write the photos: upright PNG files that the masks fit.")
    ] = False


@dataclass(frozen=True)
class EvaluationOptions:
    """Everything about an evaluation."""

    manifest: ManifestFile
    run: Run = None
    group: Annotated[str | None, typer.Option("--group", help="A column to group by; default kind.")] = None
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also the parser alone, SAM by box, SAM by points, contrast + GrabCut.")
    ] = False
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also the method with one thing changed at a time; trains each anew.")
    ] = False
    training: Annotated[
        Path | None,
        typer.Option(
            "--training", callback=here, help="With --ablate: the manifest to train on (no masks); default: this one."
        ),
    ] = None
    device: Device = "auto"
    workers: Workers = None


@dataclass(frozen=True)
class CompositionOptions:
    """What a composed benchmark is made of."""

    faces: Annotated[
        Path, typer.Option("--faces", callback=here, help="Manifest of clean faces with landmarks (and face_oval).")
    ]
    cutouts: Annotated[
        Path, typer.Option("--cutouts", callback=here, help="Folder of kinds: hands/*.png, textures/*.jpg, …")
    ]
    out: Annotated[Path, typer.Option("--out", callback=here, help="Folder to write photos, masks and manifests to.")]
    count: Annotated[int, typer.Option("--count", min=1, help="Photos in all.")] = 200
    clean: Annotated[float, typer.Option("--clean", min=0, max=1, help="Share of unoccluded photos.")] = 0.2
    size: Annotated[int, typer.Option("--size", min=64, help="Longest side of a photo.")] = 512
    tight: Annotated[float, typer.Option("--tight", min=0, max=1, help="Share of photos cut to the face's edge.")] = 0.0
    entering: Annotated[
        float, typer.Option("--entering", min=0, max=1, help="Share of hands and things that reach in from outside.")
    ] = 0.0
    splits: Annotated[
        str, typer.Option("--splits", help="Names and shares; no face and no cut-out is in two splits.")
    ] = "train=0.5,test=0.5"
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same files for the same seed.")] = 0
