"""``import``: from files of other tools to ``corrections.parquet``."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.corrections import CORRECTIONS, SCHEMA, contents, read_corrections
from s3pot_batch.pipeline.corrections.assembling import Names, assemble
from s3pot_batch.pipeline.corrections.drawing import NO_SIZE, BadDrawing, Drawing, Unread
from s3pot_batch.pipeline.export import FORMATS, find_format
from s3pot_batch.pipeline.naming import file_names
from s3pot_batch.pipeline.report.summary import SHOWN_FAILURES
from s3pot_batch.stages.errors import ConfigError

Read = Callable[[Path], Iterator[Drawing | Unread]]


@dataclass(frozen=True)
class Imported:
    """What an import took: how many photos of how many with a correction by now, and what was not taken."""

    file: Path
    taken: int
    photos: int
    unread: tuple[Unread, ...]

    def text(self) -> str:
        """The same for a person."""
        lines = [f"{self.file}: {self.taken} photos imported, {self.photos} with a correction in all"]
        if self.unread:
            lines.append(f"  {len(self.unread)} could not be taken")
            lines += [f"    {one.name}: {one.error}" for one in self.unread[:SHOWN_FAILURES]]
        return "\n".join(lines)


def import_corrections(run: Path, name: str, path: Path) -> Imported:
    """Read what people have corrected; a photo that was corrected before is corrected anew.

    Args:
        run: a run folder with an answer.
        name: the format's.
        path: a file, a ZIP or a folder of it.

    Raises:
        ConfigError: no answer, no such format, or a file that is not of it.
    """
    return take(run, _reader(name)(path), name, path.name)


def take(run: Path, drawings: Iterable[Drawing | Unread], name: str, file: str) -> Imported:
    """Write drawings down as a run's corrections.

    Args:
        run: a run folder with an answer.
        drawings: of its photos, one each.
        name: the format that they were read from.
        file: where they were read from.

    Raises:
        ConfigError: no answer.
    """
    if not (run / ANSWER).exists():
        raise ConfigError(f"{run / ANSWER}: no answer there; run: s3pot-batch segment")
    answer = _Answer(run)
    corrections, unread, taken = read_corrections(run, outdated=True), list[Unread](), set[str]()
    for one in drawings:
        if isinstance(one, Unread):
            unread.append(one)
            continue
        try:
            correction = {**answer.correction(one, taken), "format": name, "file": file}
        except BadDrawing as error:
            unread.append(Unread(one.name, str(error)))
            continue
        corrections[correction["image_id"]] = correction
        taken.add(correction["image_id"])
    known = contents(run, sorted(taken))
    for image_id in taken:
        corrections[image_id]["content"] = known.get(image_id)
    if taken:
        write_parquet(pa.Table.from_pylist(list(corrections.values()), SCHEMA), run / CORRECTIONS)
    return Imported(run / CORRECTIONS, len(taken), len(corrections), tuple(unread))


def _reader(name: str) -> Read:
    read = getattr(find_format(name), "read", None)
    if read is None:
        able = [one for one in FORMATS.names() if hasattr(FORMATS.find(one), "read")]
        raise ConfigError(f"format {name} cannot be imported; {', '.join(able)} can")
    return cast("Read", read)


class _Answer:
    """The rows of a run's answer by ``image_id``; masks are read row group by row group, the last one is kept."""

    def __init__(self, run: Path) -> None:
        plan = read_plan(run)
        self.file = pq.ParquetFile(run / ANSWER)
        ids = self.file.read(columns=["image_id"])["image_id"].to_pylist()
        images = dict(zip(plan.table["image_id"].to_pylist(), plan.table["image"].to_pylist(), strict=True))
        self.names = Names(ids, file_names(ids), [images.get(one, "") for one in ids])
        self.place = {image_id: n for n, image_id in enumerate(ids)}
        sizes = [self.file.metadata.row_group(n).num_rows for n in range(self.file.num_row_groups)]
        self.ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        self.held: tuple[int, pa.Table] | None = None

    def correction(self, drawing: Drawing, taken: Collection[str]) -> dict[str, Any]:
        """What a drawing says of its photo.

        Raises:
            BadDrawing: it is of no photo of the run, of one that is taken, or of another size.
        """
        image_id = self.names.find(drawing.name)
        if image_id in taken:
            raise BadDrawing("a second drawing of this photo; leave one")
        row = self.row(image_id)
        if drawing.shape == NO_SIZE and row["height"] is not None:
            drawing = replace(drawing, shape=(row["height"], row["width"]))
        return {"image_id": image_id, **assemble(drawing, row)}

    def row(self, image_id: str) -> dict[str, Any]:
        """A photo's size and faces."""
        place = self.place[image_id]
        group = next(n for n, end in enumerate(self.ends) if place < end)
        if self.held is None or self.held[0] != group:
            self.held = group, self.file.read_row_group(group, columns=["height", "width", "faces"])
        first = self.ends[group] - self.held[1].num_rows
        row: dict[str, Any] = self.held[1].slice(place - first, 1).to_pylist()[0]
        return row
