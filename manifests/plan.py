"""The plan of a run: which photo belongs to which shard. Written once, never changed."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table, write_parquet
from s3pot_batch.manifests.manifest import Manifest
from s3pot_batch.manifests.schema import PLAN


@dataclass(frozen=True)
class PlannedItem:
    """One photo: its manifest row, where it is, and its place in shards and Zarr arrays."""

    index: int
    image_id: str
    image: str
    bbox: tuple[float, ...] | None
    landmarks: tuple[float, ...] | None
    shard: int
    row: int
    """Its first Zarr row."""
    problem: str | None = None
    """``KIND: reason`` of a row that cannot be worked on."""


@dataclass(frozen=True)
class Plan:
    """All photos of a run, in shards of ``shard_size`` photos; each photo owns ``max_faces`` Zarr rows.

    The photos stay an Arrow table: of a million, only those of a shard that is asked for become objects.
    """

    table: pa.Table
    """Of schema ``PLAN``."""
    shard_size: int
    max_faces: int
    manifest_digest: str

    @property
    def photos(self) -> int:
        """How many photos there are."""
        return int(self.table.num_rows)

    @property
    def shards(self) -> int:
        """How many shards there are; the last one may be smaller."""
        return -(-self.photos // self.shard_size)

    @property
    def rows(self) -> int:
        """How many Zarr rows there are."""
        return self.photos * self.max_faces

    def shard(self, number: int) -> tuple[PlannedItem, ...]:
        """The photos of one shard, in order."""
        return tuple(_item(row) for row in self._slice(number).to_pylist())

    def shard_photos(self, number: int) -> int:
        """How many photos a shard has."""
        return min(self.shard_size, self.photos - number * self.shard_size)

    def image_ids(self, number: int) -> list[str]:
        """The image ids of one shard, in order."""
        ids: list[str] = self._slice(number)["image_id"].to_pylist()
        return ids

    def _slice(self, number: int) -> pa.Table:
        return self.table.slice(number * self.shard_size, self.shard_size)


def _item(row: dict[str, object]) -> PlannedItem:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return PlannedItem(**fields)  # type: ignore[arg-type]


def make_plan(manifest: Manifest, *, shard_size: int, max_faces: int) -> Plan:
    """Put ``shard_size`` consecutive photos into each shard."""
    numbers = range(len(manifest.images))
    columns = (
        numbers, manifest.image_ids, manifest.images, manifest.bboxes, manifest.landmarks, manifest.problems,
        [number // shard_size for number in numbers], [number * max_faces for number in numbers],
    )  # fmt: skip
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PLAN, strict=True)]
    return Plan(pa.Table.from_arrays(arrays, schema=PLAN), shard_size, max_faces, manifest.digest)


def settle_plan(manifest: Manifest, run: Path, *, shard_size: int, max_faces: int) -> Plan:
    """The run's plan: the one that is there, if it is of the same photos, else a new one, written down.

    Raises:
        ManifestError: the run folder holds the plan of other photos or of another ``max_faces``.
    """
    if not (run / "plan.parquet").exists():
        plan = make_plan(manifest, shard_size=shard_size, max_faces=max_faces)
        write_plan(plan, run)
        return plan
    plan = read_plan(run)
    if plan.manifest_digest != manifest.digest:
        raise ManifestError(
            f"{run} was planned for other photos than {manifest.path} lists ({_change(plan, manifest)}); "
            "use another --run"
        )
    if plan.max_faces != max_faces:
        raise ManifestError(
            f"{run} was planned with faces.max_faces = {plan.max_faces}, not {max_faces}; use another --run"
        )
    return plan


def _change(plan: Plan, manifest: Manifest) -> str:
    if plan.photos != len(manifest.images):
        return f"{plan.photos} photos, not {len(manifest.images)}"
    listed = {
        "image": manifest.images, "image_id": manifest.image_ids, "bbox": manifest.bboxes,
        "landmarks": manifest.landmarks, "problem": manifest.problems,
    }  # fmt: skip
    for row, planned in enumerate(plan.table.to_pylist()):
        item = _item(planned)
        for name, values in listed.items():
            if getattr(item, name) != values[row]:
                return f"row {row}, column {name}: {getattr(item, name)}, not {values[row]}"
    return "its plan.parquet was changed by hand"


def write_plan(plan: Plan, run: Path) -> None:
    """Write ``run/plan.parquet``."""
    facts = {
        "shard_size": plan.shard_size,
        "max_faces": plan.max_faces,
        "manifest_digest": plan.manifest_digest,
    }
    write_parquet(plan.table, run / "plan.parquet", {key: str(value) for key, value in facts.items()})


def read_plan(run: Path) -> Plan:
    """Read ``run/plan.parquet``.

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    path = run / "plan.parquet"
    if not path.exists():
        raise ManifestError(f"{run}: no plan there; run s3pot-batch references or segment first")
    table = read_table(path, "use another --run")
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return Plan(table, int(facts["shard_size"]), int(facts["max_faces"]), facts["manifest_digest"])
