"""Exports: the answer as files for other tools.

A format is a module in this folder (``png.py`` is the format ``png``) with ``FOLDER``, where in a run folder its files
go, and ``write(run, out)``. Other packages add theirs through entry points of the group ``s3pot_batch.exports``, each
naming such a module. What formats share is here: the answer row by row, and the names of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast
from urllib.parse import quote

import pyarrow.parquet as pq

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.plan import PlannedItem, read_plan
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.plugins import Plugins

ROWS = 64
"""Rows of the answer that are read at once: masks may be large."""


class Format(Protocol):
    """What the module of a format holds."""

    FOLDER: str
    """Its folder in a run folder, unless another one is asked for."""

    def write(self, run: Path, out: Path) -> int:
        """Write the answer of a run into the folder ``out``, which is there; how many files that are."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote: ``count`` files in ``folder``."""

    folder: Path
    count: int


FORMATS = Plugins("format", "s3pot_batch.exports", __name__)


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    return cast("Format", FORMATS.find(name))


def export(run: Path, name: str, out: Path | None = None) -> Exported:
    """Write the answer of a run in another format.

    Args:
        run: a run folder with an answer.
        name: the format's.
        out: the folder to write to; by default the format's own in the run folder.

    Raises:
        ConfigError: no such format, or no answer.
    """
    form = find_format(name)
    if not (run / ANSWER).exists():
        raise ConfigError(f"{run / ANSWER}: no answer there; run: s3pot-batch segment")
    folder = out or run / form.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return Exported(folder, form.write(run, folder))


def read_answers(run: Path, *columns: str) -> Iterator[tuple[PlannedItem, dict[str, Any]]]:
    """Every planned photo, in order, with the named columns of its row in ``segments.parquet``.

    Raises:
        ManifestError: there is no plan.
        ValueError: the answer has more or fewer rows than the plan.
    """
    plan = read_plan(run)
    items = (item for shard in range(plan.shards) for item in plan.shard(shard))
    with pq.ParquetFile(run / ANSWER) as answer:
        batches = answer.iter_batches(batch_size=ROWS, columns=list(columns))
        yield from zip(items, (row for batch in batches for row in batch.to_pylist()), strict=True)


def file_name(image_id: str, suffix: str) -> str:
    """A photo's file in an export: the id, folders and all, unless it would lead out of the export's folder."""
    path = PurePosixPath(image_id)
    inside = not path.is_absolute() and ".." not in path.parts and "://" not in image_id
    return f"{image_id if inside else quote(image_id, safe='')}{suffix}"
