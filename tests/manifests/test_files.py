import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.files import items_path, read_items, read_manifest, shard_is_done, write_items, write_parquet
from tests.manifests.tables import manifest_file

ITEM = {"index": 0, "image_id": "a", "status": "ok"}


class TestManifest:
    def test_relative_paths_start_at_the_manifest(self, tmp_path: Path) -> None:
        manifest = read_manifest(manifest_file(tmp_path, image=["a.jpg", "/b/../c.jpg", "s3://bucket/c.jpg"]))
        assert manifest.images == (str(tmp_path.resolve() / "a.jpg"), "/b/../c.jpg", "s3://bucket/c.jpg")

    def test_ids_are_derived_from_the_path(self, tmp_path: Path) -> None:
        path = manifest_file(tmp_path, image=["x/a.jpg", "x/a.png", "b.jpg", "b.jpg", "/", "s3://k/c.d.jpg"])
        assert read_manifest(path).image_ids == ("x/a.jpg", "x/a.png", "b.jpg", "b.jpg#2", "/", "s3://k/c.d")

    @given(images=st.lists(st.text("ab./#2", min_size=1, max_size=6), min_size=1, max_size=12))
    def test_derived_ids_are_unique_and_repeatable(
        self, tmp_path_factory: pytest.TempPathFactory, images: list[str]
    ) -> None:
        path = manifest_file(tmp_path_factory.mktemp("m"), image=[image.replace("..", "b") for image in images])
        ids = read_manifest(path).image_ids
        assert len(set(ids)) == len(images)
        assert ids == read_manifest(path).image_ids

    def test_repeated_photos_take_no_quadratic_time(self, tmp_path: Path) -> None:
        path = manifest_file(tmp_path, image=["same.jpg"] * 20_000)
        started = time.process_time()
        read_manifest(path)
        assert time.process_time() - started < 4  # seconds; 0.3 as it is, minutes when each id scans all others

    def test_own_ids_are_kept(self, tmp_path: Path) -> None:
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
    def test_bad_manifests_name_the_place(self, tmp_path: Path, columns: dict[str, object], words: str) -> None:
        with pytest.raises(ManifestError, match=words) as caught:
            read_manifest(manifest_file(tmp_path, **columns))
        assert "\n" not in str(caught.value)

    def test_a_column_twice_is_refused(self, tmp_path: Path) -> None:
        write_parquet(pa.table([["a"], ["b"]], names=["image", "image"]), tmp_path / "in.parquet")
        with pytest.raises(ManifestError, match="column image occurs twice"):
            read_manifest(tmp_path / "in.parquet")

    @pytest.mark.parametrize("points", [[float(n) for n in range(10)], [[2.0 * n, 2.0 * n + 1] for n in range(5)]])
    def test_landmarks_are_taken_flat_or_as_pairs(self, tmp_path: Path, points: list[object]) -> None:
        manifest = read_manifest(manifest_file(tmp_path, image=["a", "b"], landmarks=[None, points]))
        assert manifest.landmarks == (None, tuple(range(10)))

    def test_empty_optional_columns_are_no_values(self, tmp_path: Path) -> None:
        manifest = read_manifest(manifest_file(tmp_path, image=["a"], bbox=[None], landmarks=[None]))
        assert (manifest.bboxes, manifest.landmarks) == ((None,), (None,))

    def test_folders_named_like_partitions_add_no_columns(self, tmp_path: Path) -> None:
        manifest = read_manifest(manifest_file(tmp_path / "split=train", image=["a"]))
        assert manifest.table.column_names == ["image"]

    def test_limit_cuts_before_the_check(self, tmp_path: Path) -> None:
        path = manifest_file(tmp_path, image=["a", "b", None])
        assert read_manifest(path, 2).image_ids == ("a", "b")

    def test_the_digest_is_of_the_photos_not_of_other_columns(self, tmp_path: Path) -> None:
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
    def test_what_is_no_parquet_says_so_in_one_line(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        path = manifest_file(tmp_path, image=["a.jpg"])
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ManifestError, match="not a Parquet file") as caught:
            read_manifest(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_manifest_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="s3pot-batch index"):
            read_manifest(tmp_path / "in.parquet")


class TestItems:
    def test_done_means_same_fingerprint(self, tmp_path: Path) -> None:
        assert not shard_is_done(tmp_path, "segments", 0, "f")
        write_items(tmp_path, "segments", 0, [ITEM], "f")
        assert shard_is_done(tmp_path, "segments", 0, "f")
        with pytest.raises(ManifestError, match=r"00000\.parquet was made with other settings"):
            shard_is_done(tmp_path, "segments", 0, "g")

    def test_faces_and_masks_come_back_whole(self, tmp_path: Path) -> None:
        face = {"row": 4, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5, "landmarks": [1.0] * 10, "matrix": [1.0] * 6,
                "parse_confidence": 0.9, "occlusion_ratio": 0.1, "predicted_iou": 0.7}  # fmt: skip
        row = {**ITEM, "faces": [face], "occlusion": {"size": [480, 640], "counts": "abc"}, "seconds": 0.25}
        write_items(tmp_path, "segments", 3, [row], "f")
        table = read_items(tmp_path, "segments", 3)
        found = table.to_pylist()[0]
        assert {name: found[name] for name in row} == row
        assert found["face_region"] is None
        assert {key: table.schema.metadata[key] for key in (b"fingerprint", b"stage", b"schema_version")} == {
            b"fingerprint": b"f", b"stage": b"segments", b"schema_version": b"1",
        }  # fmt: skip

    @pytest.mark.parametrize("wrong", [{"widht": 3}, {"status": "fine"}, {"status": None}])
    def test_unknown_columns_and_statuses_are_refused(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="shard 0, photo a: unknown"):
            write_items(tmp_path, "segments", 0, [{**ITEM, **wrong}], "f")
        assert not shard_is_done(tmp_path, "segments", 0, "f")

    def test_damaged_and_missing_items_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="shard 0 of segments is not finished"):
            read_items(tmp_path, "segments", 0)
        write_items(tmp_path, "segments", 0, [ITEM], "f")
        items_path(tmp_path, "segments", 0).write_bytes(b"PAR1")
        with pytest.raises(ManifestError, match=r"00000\.parquet.*delete it"):
            shard_is_done(tmp_path, "segments", 0, "f")
        with pytest.raises(ManifestError, match=r"00000\.parquet.*delete it"):
            read_items(tmp_path, "segments", 0)

    def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        write_parquet(pa.table({"a": [1]}), path)
        before = path.read_bytes()
        unwritable = pa.table({"a": pa.array([None], pa.null()).cast(pa.month_day_nano_interval())})
        with pytest.raises(pa.ArrowException):
            write_parquet(unwritable, path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
