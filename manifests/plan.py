"""The plan of a run: which photo belongs to which shard. Written once, never changed."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from manifests.errors import ManifestError
from manifests.files import Manifest, read_table, write_parquet
from manifests.schema import PLAN


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


@dataclass(frozen=True)
class Plan:
    """All photos of a run, in shards of ``shard_size`` photos; each photo owns ``max_faces`` Zarr rows."""

    items: tuple[PlannedItem, ...]
    shard_size: int
    max_faces: int
    manifest_digest: str

    @property
    def shards(self) -> int:
        """How many shards there are; the last one may be smaller."""
        return -(-len(self.items) // self.shard_size)

    @property
    def rows(self) -> int:
        """How many Zarr rows there are."""
        return len(self.items) * self.max_faces

    def shard(self, number: int) -> tuple[PlannedItem, ...]:
        """The photos of one shard, in order."""
        return self.items[number * self.shard_size : (number + 1) * self.shard_size]


def make_plan(manifest: Manifest, *, shard_size: int, max_faces: int) -> Plan:
    """Put ``shard_size`` consecutive photos into each shard."""
    items = tuple(
        PlannedItem(
            index, manifest.image_ids[index], image, manifest.bboxes[index], manifest.landmarks[index],
            index // shard_size, index * max_faces,
        )
        for index, image in enumerate(manifest.images)
    )  # fmt: skip
    return Plan(items, shard_size, max_faces, manifest.digest)


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
    if len(plan.items) != len(manifest.images):
        return f"{len(plan.items)} photos, not {len(manifest.images)}"
    listed = zip(manifest.images, manifest.image_ids, manifest.bboxes, manifest.landmarks, strict=True)
    for item, facts in zip(plan.items, listed, strict=True):
        names = ("image", "image_id", "bbox", "landmarks")
        for name, old, new in zip(names, (item.image, item.image_id, item.bbox, item.landmarks), facts, strict=True):
            if old != new:
                return f"row {item.index}, column {name}: {old}, not {new}"
    return "its plan.parquet was changed by hand"


def write_plan(plan: Plan, run: Path) -> None:
    """Write ``run/plan.parquet``."""
    table = pa.Table.from_pylist([vars(item) for item in plan.items], schema=PLAN)
    facts = {
        "shard_size": plan.shard_size,
        "max_faces": plan.max_faces,
        "manifest_digest": plan.manifest_digest,
    }
    write_parquet(table, run / "plan.parquet", {key: str(value) for key, value in facts.items()})


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
    items = tuple(
        PlannedItem(**{**row, "bbox": _tuple(row["bbox"]), "landmarks": _tuple(row["landmarks"])})
        for row in table.to_pylist()
    )
    return Plan(items, int(facts["shard_size"]), int(facts["max_faces"]), facts["manifest_digest"])


def _tuple(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
