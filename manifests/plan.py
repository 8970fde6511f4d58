"""The plan of a run: which photo belongs to which shard. A photo keeps its place for ever; new ones come after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import numbers, read_table, write_parquet
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.schema import PLAN

SHARD_PHOTOS = 16
"""Photos per shard, at least."""
MOST_SHARDS = 8192
COUNTED = ("shard", "wanted")
"""Columns that are enough to count photos."""
LISTED = ("image", "bbox", "landmarks", "problem")
"""What a manifest says of a photo, its id aside."""


@dataclass(frozen=True)
class PlannedItem:
    """One photo: where it is, and its place in shards and Zarr arrays."""

    index: int
    """Its number in the plan."""
    image_id: str
    image: str
    bbox: tuple[float, ...] | None
    landmarks: tuple[float, ...] | None
    shard: int
    row: int
    """Its first Zarr row."""
    problem: str | None = None
    """``KIND: reason`` of a row that cannot be worked on."""
    wanted: bool | None = True
    """Whether the manifest lists it still."""


@dataclass(frozen=True)
class Plan:
    """All photos that a run has had, in shards of up to ``shard_size``; each photo owns ``max_faces`` Zarr rows.

    The photos stay an Arrow table: of a million, only those of a shard that is asked for become objects.
    """

    table: pa.Table
    """Of schema ``PLAN``, by shard."""
    shard_size: int
    max_faces: int
    manifest_digest: str

    @property
    def photos(self) -> int:
        """How many photos the manifest lists."""
        return int(self._wanted.sum())

    @property
    def shards(self) -> int:
        """How many shards there are; some may not be full."""
        return len(self._starts) - 1

    @property
    def rows(self) -> int:
        """How many Zarr rows there are."""
        return int(self.table["row"][-1].as_py()) + self.max_faces if self.table.num_rows else 0

    def shard(self, number: int) -> tuple[PlannedItem, ...]:
        """The photos of one shard, in order, whether or not the manifest lists them still."""
        return tuple(_item(row) for row in self.part(number).to_pylist())

    def item(self, index: int) -> PlannedItem:
        """The photo of that number."""
        return _item(self.table.slice(index, 1).to_pylist()[0])

    def shard_photos(self, number: int) -> int:
        """How many photos a shard has."""
        return int(self._starts[number + 1] - self._starts[number])

    def image_ids(self, number: int) -> list[str]:
        """The image ids of one shard, in order."""
        ids: list[str] = self.part(number)["image_id"].to_pylist()
        return ids

    def part(self, number: int) -> pa.Table:
        """The rows of one shard, of schema ``PLAN``."""
        return self.table.slice(self.first_of(number), self.shard_photos(number))

    def first_of(self, number: int) -> int:
        """The number of a shard's first photo."""
        return int(self._starts[number])

    def wanted(self, number: int) -> NDArray[np.bool_]:
        """Which photos of a shard the manifest lists still."""
        return self._wanted[self._starts[number] : self._starts[number + 1]]

    @property
    def wanted_photos(self) -> NDArray[np.bool_]:
        """Which photos the manifest lists still, by number."""
        return self._wanted

    @property
    def wanted_shards(self) -> list[int]:
        """The shards that hold a photo of the manifest."""
        if self._wanted.all():
            return list(range(self.shards))
        return [int(shard) for shard in np.unique(self._shard_of[self._wanted])]

    def shard_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each photo's shard."""
        return self._shard_of[numbers]

    def numbers(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """The photos' numbers in the plan, by id; −1 for one that is not planned."""
        found = pc.index_in(pa.array(image_ids, pa.string()), value_set=self.table["image_id"].combine_chunks())
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    @cached_property
    def _shard_of(self) -> NDArray[np.int64]:
        return numbers(self.table["shard"]).astype(np.int64)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first number of every shard, and the number of photos."""
        shards = int(self._shard_of[-1]) + 1 if len(self._shard_of) else 0
        return np.asarray(np.searchsorted(self._shard_of, np.arange(shards + 1)), np.int64)

    @cached_property
    def _wanted(self) -> NDArray[np.bool_]:
        if "wanted" not in self.table.column_names:  # of an earlier version
            return np.ones(self.table.num_rows, bool)
        named = self.table["wanted"]
        return numbers(pc.or_kleene(named, named.is_null()).cast(pa.uint8())).astype(bool)


def _item(row: dict[str, object]) -> PlannedItem:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return PlannedItem(**fields)  # type: ignore[arg-type]


def make_plan(manifest: Manifest, *, shard_size: int, max_faces: int) -> Plan:
    """Put ``shard_size`` consecutive photos into each shard."""
    table = _appended(manifest, range(len(manifest.images)), shard_size, max_faces, first=0, shard=0)
    return Plan(table, shard_size, max_faces, manifest.digest)


def fitting_shard_size(photos: int) -> int:
    """Photos per shard: few, so that little is done again after an interruption, but no more than some thousand shards.

    Every shard is a handful of files.
    """
    size = SHARD_PHOTOS
    while size * MOST_SHARDS < photos:
        size *= 2
    return size


@dataclass(frozen=True)
class Settled:
    """A run's plan for a manifest, and which of its shards hold photos whose box or landmarks have changed."""

    plan: Plan
    written: bool = False
    """Whether it is the one that the run folder holds."""
    stale: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    """What the user should know."""


def settled(manifest: Manifest, run: Path, *, max_faces: int, shard_size: int | None = None) -> Settled:
    """The run's plan for these photos; nothing is written.

    A run that has a plan goes on with it: photos are known by their ids and keep their places, new ones are put into
    new shards, and what the manifest lists no more stays where it is, unwanted.

    Args:
        manifest: the photos.
        run: the run folder.
        max_faces: Zarr rows per photo.
        shard_size: photos per shard of a new plan; :func:`fitting_shard_size` unless given.

    Raises:
        ManifestError: the run folder holds the plan of wholly other photos, or of another ``max_faces``.
    """
    shard_size = shard_size or fitting_shard_size(len(manifest.images))
    if not (run / "plan.parquet").exists():
        return Settled(make_plan(manifest, shard_size=shard_size, max_faces=max_faces))
    try:
        plan = read_plan(run)
    except ManifestError:
        plan = make_plan(manifest, shard_size=shard_size, max_faces=max_faces)
        stale = frozenset(n for n in range(plan.shards) if not _fits(run, n, plan.image_ids(n)))
        note = f"{run / 'plan.parquet'} is damaged and is made anew; {len(stale)} shards are done again"
        return Settled(plan, stale=stale, notes=(note,))
    if plan.max_faces != max_faces:
        raise ManifestError(
            f"{run} was planned with faces.max_faces = {plan.max_faces}, not {max_faces}; use another --run"
        )
    if plan.manifest_digest == manifest.digest:
        return Settled(plan, written=True)
    numbers = plan.numbers(manifest.image_ids)
    if (numbers < 0).all():
        raise ManifestError(
            f"{run} was planned for other photos: it knows none of the {len(numbers)} that {manifest.path} lists, such "
            f"as {manifest.image_ids[0]}; use another --run"
        )
    return _grown(plan, manifest, numbers)


def _fits(run: Path, shard: int, image_ids: Sequence[str]) -> bool:
    """Whether what stages have made of a shard, if anything, is of these photos."""
    try:
        tables = [read_table(path) for path in (run / "items").glob(f"*/{shard:05d}.parquet")]
    except ManifestError:
        return False
    return all(table["image_id"].to_pylist() == list(image_ids) for table in tables)


def _grown(plan: Plan, manifest: Manifest, numbers: NDArray[np.int64]) -> Settled:
    """The plan with the manifest's photos wanted, and no others."""
    listed = _appended(manifest, range(len(numbers)), plan.shard_size, plan.max_faces, first=0, shard=0)
    known = np.flatnonzero(numbers >= 0)
    changed = _changed(plan.table.take(pa.array(numbers[known])), listed.take(pa.array(known)))
    stale = frozenset(plan.shard_of(numbers[known][changed]).tolist())
    listed_at = np.full(plan.table.num_rows, -1)
    listed_at[numbers[known]] = known
    at = pa.array(np.where(listed_at < 0, np.arange(len(listed_at)), len(listed_at) + listed_at))
    table = plan.table
    for name in LISTED:
        both = pa.chunked_array([*table[name].chunks, *listed[name].chunks], PLAN.field(name).type)
        table = table.set_column(table.column_names.index(name), name, both.take(at))
    kept = table.drop_columns("wanted") if "wanted" in table.column_names else table
    table = kept.append_column(PLAN.field("wanted"), pa.array(listed_at >= 0)).select(PLAN.names).cast(PLAN)
    new = np.flatnonzero(numbers < 0).tolist()
    if new:
        first, shard = table.num_rows, plan.shards
        more = _appended(manifest, new, plan.shard_size, plan.max_faces, first=first, shard=shard)
        table = pa.concat_tables([table, more])
    grown = replace(plan, table=table.combine_chunks(), manifest_digest=manifest.digest)
    return Settled(grown, stale=stale)


def _changed(before: pa.Table, now: pa.Table) -> NDArray[np.bool_]:
    """Which photos have another file name, box, landmarks or problem; another folder alone is no change."""
    changed = np.zeros(before.num_rows, bool)
    for row in np.flatnonzero(pc.not_equal(before["image"], now["image"]).to_numpy()).tolist():
        changed[row] = Path(before["image"][row].as_py()).name != Path(now["image"][row].as_py()).name
    for name in LISTED[1:]:
        some = pc.or_(pc.is_valid(before[name]), pc.is_valid(now[name])).to_numpy()
        for row in np.flatnonzero(some).tolist():
            changed[row] |= before[name][row].as_py() != now[name][row].as_py()
    return changed


def _appended(
    manifest: Manifest, rows: Sequence[int], shard_size: int, max_faces: int, *, first: int, shard: int
) -> pa.Table:
    """Some rows of a manifest as photos number ``first`` and following, in shards that begin with ``shard``."""
    order = np.arange(len(rows))
    columns = {
        "index": first + order, "image_id": [manifest.image_ids[row] for row in rows],
        "image": [manifest.images[row] for row in rows], "bbox": [manifest.bboxes[row] for row in rows],
        "landmarks": [manifest.landmarks[row] for row in rows], "problem": [manifest.problems[row] for row in rows],
        "shard": shard + order // shard_size, "row": (shard * shard_size + order) * max_faces,
        "wanted": np.ones(len(rows), bool),
    }  # fmt: skip
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in PLAN], schema=PLAN)


def write_plan(plan: Plan, run: Path) -> None:
    """Write ``run/plan.parquet``."""
    facts = {
        "shard_size": plan.shard_size,
        "max_faces": plan.max_faces,
        "manifest_digest": plan.manifest_digest,
    }
    write_parquet(plan.table, run / "plan.parquet", {key: str(value) for key, value in facts.items()})


def read_plan(run: Path, *, names: bool = True) -> Plan:
    """Read ``run/plan.parquet``.

    Args:
        run: the run folder.
        names: with the photos' names, boxes, landmarks and rows; who only counts can do without.

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    path = run / "plan.parquet"
    if not path.exists():
        raise ManifestError(f"{run}: no plan there; run s3pot-batch references or segment first")
    table = read_table(path, "use another --run", None if names else COUNTED)
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return Plan(table, int(facts["shard_size"]), int(facts["max_faces"]), facts["manifest_digest"])
