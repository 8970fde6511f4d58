import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from tests.manifests.tables import manifest_file


def test_relative_paths_start_at_the_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a.jpg", "/b/../c.jpg", "s3://bucket/c.jpg"]))
    assert manifest.images == (str(tmp_path.resolve() / "a.jpg"), "/b/../c.jpg", "s3://bucket/c.jpg")


def test_ids_are_derived_from_the_path(tmp_path: Path) -> None:
    path = manifest_file(tmp_path, image=["x/a.jpg", "x/a.png", "b.jpg", "b.jpg", "/", "s3://k/c.d.jpg"])
    assert read_manifest(path).image_ids == ("x/a.jpg", "x/a.png", "b.jpg", "b.jpg#2", "/", "s3://k/c.d")


@given(images=st.lists(st.text("ab./#2", min_size=1, max_size=6), min_size=1, max_size=12))
def test_derived_ids_are_unique_and_repeatable(tmp_path_factory: pytest.TempPathFactory, images: list[str]) -> None:
    path = manifest_file(tmp_path_factory.mktemp("m"), image=[image.replace("..", "b") for image in images])
    ids = read_manifest(path).image_ids
    assert len(set(ids)) == len(images)
    assert ids == read_manifest(path).image_ids


def test_repeated_photos_take_no_quadratic_time(tmp_path: Path) -> None:
    path = manifest_file(tmp_path, image=["same.jpg"] * 20_000)
    started = time.process_time()
    read_manifest(path)
    assert time.process_time() - started < 4  # seconds; 0.3 as it is, minutes when each id scans all others


def test_own_ids_are_kept(tmp_path: Path) -> None:
    path = manifest_file(tmp_path, image=["a.jpg", "a.jpg"], image_id=["007", "008"])
    assert read_manifest(path).image_ids == ("007", "008")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"photo": ["a.jpg"]}, "no column image; it has photo"),
        ({"image": pa.array([], pa.string())}, "no rows"),
        ({"image": [1]}, "column image is int64"),
        ({"image": ["a.jpg", None]}, "row 1, column image"),
        ({"image": ["a.jpg", ""]}, "row 1, column image"),
        ({"image": ["../a.jpg"]}, "row 0, column image.*leaves"),
        ({"image": ["b/../../a.jpg"]}, "row 0, column image.*leaves"),
        ({"image": ["a", "b"], "image_id": [1, 2]}, "column image_id is int64"),
        ({"image": ["a", "b"], "image_id": ["x", None]}, "row 1, column image_id: empty"),
        ({"image": ["a", "b"], "image_id": ["x", "x"]}, "row 1, column image_id: x is also row 0"),
        ({"image": ["a"], "bbox": ["1234"]}, "column bbox is string"),
        ({"image": ["a"], "bbox": [[[1.0, 2.0], [3.0, 4.0]]]}, "column bbox is list"),
        ({"image": ["a", "a"], "bbox": [None, [3.0, 0.0, 1.0, 2.0]]}, "row 1, column bbox.*x0 < x1"),
        ({"image": ["a"], "bbox": [[0.0, 2.0, 1.0, 2.0]]}, "row 0, column bbox.*y0 < y1"),
        ({"image": ["a"], "bbox": [[3.0]]}, "row 0, column bbox.*4 finite"),
        ({"image": ["a"], "bbox": [[0.0, 0.0, 1.0, None]]}, "row 0, column bbox.*4 finite"),
        ({"image": ["a"], "bbox": [[0.0, 0.0, 1.0, float("inf")]]}, "row 0, column bbox.*4 finite"),
        ({"image": ["a"], "landmarks": [[float("nan")] * 10]}, "row 0, column landmarks.*10 finite"),
        ({"image": ["a"], "landmarks": [[[1.0] * 5] * 2]}, "row 0, column landmarks.*10 finite"),
        ({"image": ["a"], "status": ["ok"]}, "column status.*rename"),
    ],
)
def test_bad_manifests_name_the_place(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(manifest_file(tmp_path, **columns))
    assert "\n" not in str(caught.value)


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    write_parquet(pa.table([["a"], ["b"]], names=["image", "image"]), tmp_path / "in.parquet")
    with pytest.raises(ManifestError, match="column image occurs twice"):
        read_manifest(tmp_path / "in.parquet")


@pytest.mark.parametrize("points", [[float(n) for n in range(10)], [[2.0 * n, 2.0 * n + 1] for n in range(5)]])
def test_landmarks_are_taken_flat_or_as_pairs(tmp_path: Path, points: list[object]) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a", "b"], landmarks=[None, points]))
    assert manifest.landmarks == (None, tuple(range(10)))


def test_empty_optional_columns_are_no_values(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a"], bbox=[None], landmarks=[None]))
    assert (manifest.bboxes, manifest.landmarks) == ((None,), (None,))


def test_folders_named_like_partitions_add_no_columns(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path / "split=train", image=["a"]))
    assert manifest.table.column_names == ["image"]


def test_limit_cuts_before_the_check(tmp_path: Path) -> None:
    path = manifest_file(tmp_path, image=["a", "b", None])
    assert read_manifest(path, 2).image_ids == ("a", "b")


def test_the_digest_is_of_the_photos_not_of_other_columns(tmp_path: Path) -> None:
    one = read_manifest(manifest_file(tmp_path, image=["a"], who=["Ada"])).digest
    assert read_manifest(manifest_file(tmp_path, image=["a"], who=["Bob"])).digest == one
    assert read_manifest(manifest_file(tmp_path, image=["a"], bbox=[[0, 0, 1, 1]])).digest != one


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content.replace(b"PAR1", b"text"),
        lambda content: content[: len(content) // 2],
        lambda content: content[:10] + b"\xff" * 20 + content[30:],
    ],
    ids=["empty", "other format", "truncated", "damaged page"],
)
def test_what_is_no_parquet_says_so_in_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = manifest_file(tmp_path, image=["a.jpg"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ManifestError, match="not a Parquet file") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="s3pot-batch index"):
        read_manifest(tmp_path / "in.parquet")
