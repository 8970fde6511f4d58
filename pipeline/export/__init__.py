"""Exports: the answer as files for other tools.

A format is a module in this folder (``png.py`` is the format ``png``) with ``FOLDER``, where in a run folder its files
go, and ``write(run, out)``, which gives a :class:`Written` for every file. One that also follows options names them in
``CHOICES``; its ``write`` takes them as a third argument. One that people correct in their tools has ``read(path)``,
which gives such a file's drawings. Other packages add theirs through entry points of the group ``s3pot_batch.exports``,
each naming such a module. What formats share is here: the answer row by row, as corrected, with the names of files, and
writing one; ``_photos.py`` has what those with ``CHOICES`` share.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow.parquet as pq

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.plan import PlannedItem, read_plan
from s3pot_batch.pipeline.corrections import corrected, read_corrections
from s3pot_batch.pipeline.naming import file_names
from s3pot_batch.pipeline.options import ExportOptions
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


class ChoosingFormat(Protocol):
    """The same of a format that follows options."""

    FOLDER: str
    CHOICES: Collection[str]
    """The fields of :class:`~s3pot_batch.pipeline.options.ExportOptions` that it follows."""

    def write(self, run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
        """Write those photos of a run's answer that are asked for, as they are asked for."""


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


EVERYTHING = ExportOptions()
FORMATS = Plugins("format", "s3pot_batch.exports", __name__)


def find_format(name: str) -> Format:
    """The format of that name; a dash in it is an underscore in the module's.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    module = name.replace("-", "_")
    return cast("Format", FORMATS.find(module if module in FORMATS.ours() else name))


def export(run: Path, name: str, out: Path | None = None, options: ExportOptions = EVERYTHING) -> Exported:
    """Write the answer of a run in another format, with people's corrections in their places.

    Args:
        run: a run folder with an answer.
        name: the format's.
        out: the folder to write to; by default the format's own in the run folder, which has the names of what is drawn
            otherwise than by default in its own: ``masks-visible-soft``.
        options: which photos, and how.

    Raises:
        ConfigError: no such format, no answer, or an option that the format does not follow.
    """
    form = find_format(name)
    choices = getattr(form, "CHOICES", None)
    _check_choices(name, options, choices or ())
    if not (run / ANSWER).exists():
        raise ConfigError(f"{run / ANSWER}: no answer there; run: s3pot-batch segment")
    folder = out or run / "-".join([form.FOLDER, *_manner(options)])
    folder.mkdir(parents=True, exist_ok=True)
    count, failures = 0, list[Written]()
    done = form.write(run, folder) if choices is None else cast("ChoosingFormat", form).write(run, folder, options)
    for one in done:
        if one.error:
            failures.append(one)
        else:
            count += 1
    return Exported(folder, count, tuple(failures))


def _check_choices(name: str, options: ExportOptions, known: Collection[str]) -> None:
    for field in fields(options):
        if field.name not in known and getattr(options, field.name) != field.default:
            other = ", ".join(option_name(one) for one in known) or "no options"
            raise ConfigError(f"format {name} does not take {option_name(field.name)}; it takes {other}")


def option_name(field: str) -> str:
    """How the command line calls a field of the options."""
    return f"--{field.replace('_', '-')}"


def _manner(options: ExportOptions) -> list[str]:
    """How it is drawn, where that is not the default."""
    said = {
        options.part: options.part is not None, "soft": options.edge == "soft", "inverted": options.invert,
        "cutout": options.cutout,
    }  # fmt: skip
    return [str(word) for word, holds in said.items() if holds]


def read_answers(run: Path, *columns: str) -> Iterator[tuple[PlannedItem, str, dict[str, Any]]]:
    """Every photo of the answer, in order, its file's name without a suffix, and the named columns of its row.

    What people have corrected is in the place of what was answered.

    Raises:
        ManifestError: there is no plan, or the answer is of other photos.
    """
    plan, corrections = read_plan(run), read_corrections(run)
    with pq.ParquetFile(run / ANSWER) as answer:
        ids = answer.read(columns=["image_id"])["image_id"].to_pylist()
        names, numbers = file_names(ids), plan.numbers(ids).tolist()
        if -1 in numbers:
            raise ManifestError(f"{run / ANSWER}: {ids[numbers.index(-1)]} is no photo of this run; segment it again")
        batches = answer.iter_batches(batch_size=ROWS, columns=list(columns))
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, name, row in zip(numbers, names, rows, strict=True):
            item = plan.item(number)
            yield item, name, corrected(row, corrections.get(item.image_id))


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
