"""One shard of the plan is one Zarr shard, and its task writes it whole."""

import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import Plan
from s3pot_batch.manifests.schema import PLAN
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import DamagedData, ShardError
from s3pot_batch.stages.store import ArraySpec

ARRAYS = {
    "picture": ArraySpec("uint8", 4, "a picture, RGB", 3),
    "map": ArraySpec("float16", 4, "a map"),
}


def plan_of(photos, shard_size=2, max_faces=3):
    rows = [
        {"index": n, "image_id": f"p{n}", "image": f"/p{n}.png", "shard": n // shard_size, "row": n * max_faces}
        for n in range(photos)
    ]
    return Plan(pa.Table.from_pylist(rows, PLAN), shard_size, max_faces, "digest")


@pytest.fixture
def path(tmp_path):
    """A store of five photos in three shards, of which the last is short."""
    store.create(tmp_path / "x.zarr", plan_of(5), ARRAYS)
    return tmp_path / "x.zarr"


def value(number):
    return {"picture": np.full((4, 4, 3), number, np.uint8), "map": np.full((4, 4), number / 4)}


def test_a_shard_of_the_plan_is_a_shard_of_every_array(path):
    group = zarr.open_group(path, mode="r")
    picture, plain = (store.array_of(group, name) for name in ("picture", "map"))
    assert dict(group.attrs) == {"encoding": "s3pot-batch", "version": 1, "shard_photos": 2, "faces_per_photo": 3}
    assert (picture.shape, picture.shards, picture.chunks) == ((15, 4, 4, 3), (6, 4, 4, 3), (1, 4, 4, 3))
    assert (plain.shape, plain.shards, plain.chunks, plain.dtype) == ((15, 4, 4), (6, 4, 4), (1, 4, 4), np.float16)
    assert picture.attrs["description"] == "a picture, RGB"


def test_rows_are_written_where_they_belong_and_the_others_stay_empty(path):
    store.write_rows(path, ARRAYS, range(6, 12), {7: value(9), 9: value(3)})
    store.write_rows(path, ARRAYS, range(12, 15), {14: value(1)})
    pictures = store.read_rows(path, "picture", slice(0, 15))
    assert {row: int(pictures[row].max()) for row in range(15) if pictures[row].any()} == {7: 9, 9: 3, 14: 1}
    assert (store.read_rows(path, "map", [9, 7])[:, 0, 0] == [0.75, 2.25]).all()
    picture, plain = store.read_row(path, 14, "picture", "map")
    assert (picture == 1).all()
    assert (plain == 0.25).all()
    files = sorted(file.name for file in (path / "picture").iterdir())
    assert files == ["c.1.0.0.0", "c.2.0.0.0", "zarr.json"]  # nothing of the first shard, and no folders


def test_writing_again_replaces_the_whole_shard(path):
    store.write_rows(path, ARRAYS, range(6), {0: value(9), 5: value(8)})
    store.write_rows(path, ARRAYS, range(6), {1: value(7)})
    pictures = store.read_rows(path, "picture", slice(0, 6))
    assert [int(picture.max()) for picture in pictures] == [0, 7, 0, 0, 0, 0]


def test_a_store_that_is_there_keeps_what_it_holds(path):
    store.write_rows(path, ARRAYS, range(6), {0: value(9)})
    store.create(path, plan_of(5), {**ARRAYS, "more": ArraySpec("int8", 4, "added later")})
    assert store.read_row(path, 0, "picture")[0].max() == 9
    assert not store.read_rows(path, "more", slice(0, 15)).any()


def test_another_shape_is_refused(path):
    larger = {"picture": ArraySpec("uint8", 5, "a picture", 3)}
    with pytest.raises(ShardError, match=r"x\.zarr/picture is \(15, 4, 4, 3\), not \(15, 5, 5, 3\); use another --run"):
        store.create(path, plan_of(5), larger)


def test_more_photos_get_rows_and_the_others_keep_theirs(path):
    store.write_rows(path, ARRAYS, range(6), {4: value(2)})
    store.create(path, plan_of(7), ARRAYS)
    store.write_rows(path, ARRAYS, range(12, 18), {12: value(3)})
    kept, new = store.read_rows(path, "picture", [4, 12])
    assert (kept == value(2)["picture"]).all()
    assert (new == value(3)["picture"]).all()
    store.create(path, plan_of(5), ARRAYS)
    assert (store.read_rows(path, "picture", [12])[0] == new).all(), "a shorter manifest takes nothing away"


DAMAGES: dict[str, Any] = {
    "a shard is gone": lambda store: (store / "picture" / "c.0.0.0.0").unlink(),
    "a shard of zeros": lambda store: overwrite(store / "picture" / "c.0.0.0.0", zero),
    "a shard that is cut off": lambda store: overwrite(store / "picture" / "c.0.0.0.0", half),
    "a shard with another byte": lambda store: overwrite(store / "picture" / "c.0.0.0.0", changed_byte),
    "an array's metadata is gone": lambda store: (store / "picture" / "zarr.json").unlink(),
    "an array's metadata is cut off": lambda store: overwrite(store / "picture" / "zarr.json", half),
    "metadata of zeros": lambda store: overwrite(store / "picture" / "zarr.json", zero),
    "the store is gone": shutil.rmtree,
    "the store's metadata is cut off": lambda store: overwrite(store / "zarr.json", half),
}


def overwrite(file, change):
    file.write_bytes(change(file.read_bytes()))


def zero(content):
    return bytes(len(content))


def half(content):
    return content[: len(content) // 2]


def changed_byte(content):
    return content[:9] + bytes([content[9] ^ 0xFF]) + content[10:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_can_be_mended(tmp_path, damage):
    path = tmp_path / "masks.zarr"
    store.create(path, plan_of(5), ARRAYS)
    sums = [store.write_rows(path, ARRAYS, range(first, first + 6), {first: noise(first)}) for first in (0, 6)]
    for shard in (0, 1):
        write_outcomes(tmp_path, "segments", shard, [Outcome(shard, "p", "ok")], "f", sums[shard])
    assert (store.read_row(path, 0, "picture")[0] == noise(0)["picture"]).all()
    DAMAGES[damage](path)
    if "metadata" in damage and "store" not in damage:  # it is kept in two places
        assert (store.read_row(path, 0, "picture")[0] == noise(0)["picture"]).all()
    else:
        with pytest.raises(DamagedData) as raised:
            store.read_row(path, 0, "map", "picture")
        assert (raised.value.stage, raised.value.shard) == ("segments", 0)
    store.create(path, plan_of(5), ARRAYS)
    store.write_rows(path, ARRAYS, range(6), {0: noise(0)})
    assert (store.read_row(path, 0, "picture")[0] == noise(0)["picture"]).all()
    if "store is gone" not in damage:
        assert (store.read_row(path, 6, "picture")[0] == noise(6)["picture"]).all(), "the other shard is still there"


def noise(seed):
    rng = np.random.default_rng(seed)
    return {"picture": rng.integers(1, 255, (4, 4, 3)).astype(np.uint8), "map": rng.random((4, 4))}


def test_what_is_no_array_is_named(tmp_path):
    zarr.open_group(tmp_path / "x.zarr", mode="a", zarr_format=3).create_group("map")
    with pytest.raises(ShardError, match="map is no array; remove the run folder"):
        store.create(tmp_path / "x.zarr", plan_of(5), ARRAYS)
    with pytest.raises(ShardError, match="map is no array"):
        store.read_rows(tmp_path / "x.zarr", "map", [0])


def test_other_programs_open_it_with_names(path):
    store.write_rows(path, ARRAYS, range(6), {4: value(2)})
    import xarray

    with xarray.open_zarr(path) as opened:
        assert opened["picture"].dims == ("row", "y", "x", "channel")
        assert opened["map"].dims == ("row", "y", "x")
        assert int(opened["picture"].isel(row=4).max()) == 2


def test_filled_rows_are_those_of_the_faces_in_order(tmp_path):
    def outcome(index, *rows):
        faces = tuple(FaceOutcome(row, (0.0,) * 4, 0.5, (0.0,) * 10, (0.0,) * 6, 0.9) for row in rows)
        return Outcome(index, f"p{index}", "ok" if faces else "no_face", faces=faces)

    write_outcomes(tmp_path, "references", 0, [outcome(0, 0, 1), outcome(1)], "f")
    write_outcomes(tmp_path, "references", 1, [outcome(2, 6), outcome(3, 9, 10, 11)], "f")
    write_outcomes(tmp_path, "references", 2, [outcome(4)], "f")
    assert store.filled_rows(tmp_path, plan_of(5)) == [0, 1, 6, 9, 10, 11]
