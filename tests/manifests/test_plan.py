import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.manifest import Manifest, read_manifest
from s3pot_batch.manifests.plan import Plan, fitting_shard_size, make_plan, read_plan, settled, write_plan
from s3pot_batch.manifests.schema import PLAN
from tests.manifests.tables import finish, manifest_file, settle_plan

FACE = [40.0, 50, 80, 52, 60, 75, 45, 95, 75, 96]


@given(photos=st.integers(1, 40), shard_size=st.integers(1, 9), max_faces=st.integers(1, 4))
def test_every_photo_is_in_one_shard_with_rows_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, photos: int, shard_size: int, max_faces: int
) -> None:
    path = manifest_file(tmp_path_factory.mktemp("m"), image=[f"{n}.jpg" for n in range(photos)])
    plan = make_plan(read_manifest(path), shard_size=shard_size, max_faces=max_faces)
    shards = [plan.shard(k) for k in range(plan.shards)]
    items = [item for shard in shards for item in shard]
    assert len(items) == plan.photos == photos
    assert [item.index for item in items] == list(range(photos))
    assert [item.row for item in items] == list(range(0, plan.rows, max_faces))
    assert [{item.shard for item in shard} for shard in shards] == [{k} for k in range(plan.shards)]
    assert all(len(shard) == shard_size for shard in shards[:-1])
    assert [plan.shard_photos(k) for k in range(plan.shards)] == [len(shard) for shard in shards]
    assert [plan.image_ids(k) for k in range(plan.shards)] == [[item.image_id for item in shard] for shard in shards]


def test_the_written_plan_stays_even_with_another_shard_size(tmp_path: Path) -> None:
    path = manifest_file(
        tmp_path, image=["a", "b", "c"], bbox=[[0.0, 0, 1, 1], None, None], landmarks=[None, FACE, None]
    )
    manifest, run = read_manifest(path), tmp_path / "run"
    plan = settle_plan(manifest, run, shard_size=2, max_faces=3)
    assert settle_plan(manifest, run, shard_size=1, max_faces=3) == plan == read_plan(run)
    assert (plan.shards, plan.rows, plan.shard_size) == (2, 9, 2)


@pytest.mark.parametrize("other", [2, 4])
def test_a_plan_for_more_or_fewer_faces_a_photo_is_refused(tmp_path: Path, other: int) -> None:
    manifest = listing(tmp_path, "a", "b")
    settle_plan(manifest, tmp_path, shard_size=2, max_faces=3)
    with pytest.raises(ManifestError, match=f"was planned with faces.max_faces = 3, not {other}; use another --run"):
        settled(manifest, tmp_path, shard_size=2, max_faces=other)


def listing(folder: Path, *names: str, **columns: object) -> Manifest:
    return read_manifest(manifest_file(folder, image=[f"{name}.jpg" for name in names], **columns))


def places(plan: Plan) -> dict[str, tuple[int, int]]:
    """Shard and Zarr row of every wanted photo."""
    items = [item for shard in plan.wanted_shards for item in plan.shard(shard) if item.wanted]
    return {item.image_id: (item.shard, item.row) for item in items}


def test_photos_keep_their_places_whatever_the_manifest_becomes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = settle_plan(listing(tmp_path, "a", "b", "c"), run, shard_size=2, max_faces=3)
    known = {"a": (0, 0), "b": (0, 3), "c": (1, 6)}
    assert places(first) == known
    grown = settle_plan(listing(tmp_path, "a", "b", "c", "d", "e", "f"), run, shard_size=9, max_faces=3)
    assert places(grown) == known | {"d": (2, 12), "e": (2, 15), "f": (3, 18)}
    assert grown == read_plan(run)
    shrunk = settle_plan(listing(tmp_path, "e", "b"), run, shard_size=2, max_faces=3)
    assert places(shrunk) == {"b": (0, 3), "e": (2, 15)}
    assert (shrunk.photos, shrunk.wanted_shards, shrunk.shards, shrunk.rows) == (2, [0, 2], 4, 21)
    assert shrunk.wanted(0).tolist() == [False, True]
    back = settle_plan(listing(tmp_path, "f", "z", "a", "c"), run, shard_size=2, max_faces=3)
    assert places(back) == {"a": (0, 0), "c": (1, 6), "f": (3, 18), "z": (4, 24)}
    assert back.numbers(["f", "z", "a", "nobody"]).tolist() == [5, 6, 0, -1]
    assert [back.item(n).image_id for n in (5, 6, 0)] == ["f", "z", "a"]
    alone = settle_plan(listing(tmp_path, "a"), run, shard_size=2, max_faces=3)
    assert places(alone) == {"a": (0, 0)}


@pytest.mark.parametrize(
    ("columns", "stale"),
    [
        ({}, []), ({"who": ["Ada", "Bob", "Cid"]}, []), ({"bbox": [None, None, [0.0, 0, 9, 9]]}, [1]),
        ({"bbox": [[9.0, 9, 0, 0], None, None]}, [0]), ({"landmarks": [None, FACE, None]}, [0]),
    ],
)  # fmt: skip
def test_what_is_known_of_a_photo_may_change(tmp_path: Path, columns: dict[str, object], stale: list[int]) -> None:
    settle_plan(listing(tmp_path, "a", "b", "c"), tmp_path, shard_size=2, max_faces=1)
    found = settled(listing(tmp_path, "a", "b", "c", **columns), tmp_path, shard_size=2, max_faces=1)
    assert sorted(found.stale) == stale
    assert places(found.plan) == {"a": (0, 0), "b": (0, 1), "c": (1, 2)}
    assert read_plan(tmp_path).item(2).bbox is None, "nothing is written"


def test_a_dataset_that_moved_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ids = {"image_id": ["x", "y"]}
    settle_plan(listing(tmp_path, "a", "b", **ids), tmp_path, shard_size=2, max_faces=1)
    found = settled(listing(tmp_path / "there", "a", "b", **ids), tmp_path, shard_size=2, max_faces=1)
    assert not found.stale
    assert found.plan.item(0).image == str(tmp_path.resolve() / "there" / "a.jpg")
    other = settled(listing(tmp_path / "there", "a", "c", **ids), tmp_path, shard_size=2, max_faces=1)
    assert other.stale == {0}, "another file has the id"


def test_a_damaged_plan_is_made_anew_and_what_fits_it_stays(tmp_path: Path) -> None:
    plan = settle_plan(listing(tmp_path, "a", "b", "c"), tmp_path, shard_size=1, max_faces=1)
    for shard in range(3):
        finish(tmp_path, plan, shard, ["ok"])
    (tmp_path / "plan.parquet").write_bytes(b"PAR1")
    found = settled(listing(tmp_path, "a", "x", "c"), tmp_path, shard_size=1, max_faces=1)
    assert found.stale == {1}
    assert "damaged and is made anew; 1 shards are done again" in found.notes[0]
    assert places(found.plan) == {"a": (0, 0), "x": (1, 1), "c": (2, 2)}


def test_wholly_other_photos_need_another_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settle_plan(listing(tmp_path, "a", "b"), run, shard_size=2, max_faces=1)
    with pytest.raises(ManifestError, match=r"none of the 2 that .* lists, such as c; use another --run"):
        settled(listing(tmp_path, "c", "d"), run, shard_size=2, max_faces=1)


def test_another_number_of_faces_needs_another_run(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a"]))
    settle_plan(manifest, tmp_path / "run", shard_size=2, max_faces=1)
    with pytest.raises(ManifestError, match=r"faces\.max_faces = 1, not 2; use another --run"):
        settle_plan(manifest, tmp_path / "run", shard_size=2, max_faces=2)


def test_a_run_without_or_with_a_damaged_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no plan there"):
        read_plan(tmp_path)
    (tmp_path / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match=r"plan\.parquet: not a Parquet file"):
        read_plan(tmp_path)


@pytest.fixture(scope="module")
def plans() -> tuple[Plan, Plan]:
    """Of the same photos, 1,000 and 100,000."""
    few, many = (
        Manifest(
            Path("in.parquet"), pa.table({}), tuple(f"/photos/{n}.jpg" for n in range(photos)),
            tuple(f"{n}" for n in range(photos)), tuple((0.0, 0.0, 1.0 + n, 1.0) for n in range(photos)),
            (None,) * photos, (None,) * photos, (), "digest",
        ) for photos in (1_000, 100_000)
    )  # fmt: skip
    return make_plan(few, shard_size=16, max_faces=4), make_plan(many, shard_size=16, max_faces=4)


def test_a_shard_is_the_same_in_a_long_plan(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    few, many = plans
    assert (few.photos, few.shards, many.photos, many.shards) == (1_000, 63, 100_000, 6_250)
    for shard in (0, 7, 61):
        assert few.shard(shard) == many.shard(shard)
        assert few.image_ids(shard) == many.image_ids(shard)
    assert len(few.shard(62)) == few.shard_photos(62) == 1_000 - 62 * 16
    write_plan(many, tmp_path)
    assert read_plan(tmp_path).shard(6_000) == many.shard(6_000)


def test_a_shard_of_a_long_plan_makes_no_objects_of_other_photos(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    write_plan(plans[1], tmp_path)
    peaks = []
    for plan in (*plans, read_plan(tmp_path)):
        plan.shard(3)  # what pyarrow imports at first
        tracemalloc.start()
        plan.shard(3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 1.5 * peaks[0] < 100_000  # bytes; 100,000 photos as objects take tens of millions


@pytest.mark.parametrize(
    ("photos", "size"), [(1, 16), (131_072, 16), (131_073, 32), (1_000_000, 128), (10_000_000, 2048)]
)
def test_many_photos_are_put_into_larger_shards(photos, size):
    assert fitting_shard_size(photos) == size


def test_a_new_plan_has_shards_of_the_size_that_fits(tmp_path: Path) -> None:
    plan = settled(read_manifest(manifest_file(tmp_path, image=[f"{n}.jpg" for n in range(40)])), tmp_path, max_faces=1)
    assert (plan.plan.shard_size, plan.plan.shards) == (fitting_shard_size(40), 3)


def test_a_plan_without_photos_has_no_shards() -> None:
    empty = Plan(PLAN.empty_table(), 16, 1, "digest")
    assert (empty.shards, empty.photos, empty.rows, empty.wanted_shards) == (0, 0, 0, [])
