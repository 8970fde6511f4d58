"""Exports: the answer as files for other tools.

A format is a module in this folder (``png.py`` is the format ``png``) with ``FOLDER``, where in a run folder its files
go, and ``write(run, out)``, which gives a :class:`Written` for every file. Other packages add theirs through entry
points of the group ``s3pot_batch.exports``, each naming such a module. What formats share is here: the answer row by
row, with the names of files, and writing one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow.parquet as pq

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.plan import PlannedItem, read_plan
from s3pot_batch.pipeline.naming import file_names
from s3pot_batch.pipeline.report.summary import SHOWN_FAILURES
from s3pot_batch.stages.errors import ConfigError, ItemError
from s3pot_batch.stages.plugins import Plugins

ROWS = 64
"""Rows of the answer that are read at once: masks may be large."""


@dataclass(frozen=True)
class Written:
    """What came of one file: nothing to say, or why it could not be written."""

    image_id: str
    error: str | None = None


class Format(Protocol):
    """What the module of a format holds."""

    FOLDER: str
    """Its folder in a run folder, unless another one is asked for."""

    def write(self, run: Path, out: Path) -> Iterator[Written]:
        """Write the answer of a run into the folder ``out``, which is there, file by file."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote: ``count`` files in ``folder``, and what could not be written."""

    folder: Path
    count: int
    failures: tuple[Written, ...] = ()

    def text(self) -> str:
        """The same for a person."""
        lines = [f"{self.folder}: {self.count} files"]
        if self.failures:
            lines.append(f"  {len(self.failures)} could not be written")
            lines += [f"    {one.image_id}: {one.error}" for one in self.failures[:SHOWN_FAILURES]]
        return "\n".join(lines)


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
    count, failures = 0, list[Written]()
    for one in form.write(run, folder):
        if one.error:
            failures.append(one)
        else:
            count += 1
    return Exported(folder, count, tuple(failures))


def read_answers(run: Path, *columns: str) -> Iterator[tuple[PlannedItem, str, dict[str, Any]]]:
    """Every photo of the answer, in order, its file's name without a suffix, and the named columns of its row.

    Raises:
        ManifestError: there is no plan, or the answer is of other photos.
    """
    plan = read_plan(run)
    with pq.ParquetFile(run / ANSWER) as answer:
        ids = answer.read(columns=["image_id"])["image_id"].to_pylist()
        names, numbers = file_names(ids), plan.numbers(ids).tolist()
        if -1 in numbers:
            raise ManifestError(f"{run / ANSWER}: {ids[numbers.index(-1)]} is no photo of this run; segment it again")
        batches = answer.iter_batches(batch_size=ROWS, columns=list(columns))
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, name, row in zip(numbers, names, rows, strict=True):
            yield plan.item(number), name, row


def written(item: PlannedItem, path: Path, save: Callable[[Path], object]) -> Written:
    """Write one photo's file, whole or not at all; what prevents it is that file's own failure.

    Args:
        item: the photo.
        path: where the file goes.
        save: writes it to the path that it is given.
    """
    try:
        if path.exists() and Path(item.image).exists() and path.samefile(item.image):
            return Written(item.image_id, f"{path} is the photo itself; give another --out")
        with replacing(path) as temporary:
            save(temporary)
    except (OSError, ItemError) as error:
        return Written(item.image_id, one_line(error))
    return Written(item.image_id)
