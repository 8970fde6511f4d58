import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.files import read_items, read_manifest, shard_is_done, write_items, write_parquet
from manifests.fingerprint import difference, fingerprint
from manifests.index import build_manifest
from manifests.plan import make_plan, read_plan, settle_plan
from manifests.segments import assemble_segments


def manifest_of(folder, **columns):
    write_parquet(pa.table(columns), folder / "in.parquet")
    return folder / "in.parquet"


def item(index, status="ok", **rest):
    return {"index": index, "image_id": str(index), "status": status, "faces": [], **rest}


class TestReading:
    def test_relative_paths_start_at_the_manifest(self, tmp_path):
        manifest = read_manifest(manifest_of(tmp_path, image=["a.jpg", "/b.jpg", "s3://bucket/c.jpg"]))
        assert manifest.images == (str(tmp_path.resolve() / "a.jpg"), "/b.jpg", "s3://bucket/c.jpg")

    def test_ids_are_derived_and_unique(self, tmp_path):
        manifest = read_manifest(manifest_of(tmp_path, image=["x/a.jpg", "x/a.png", "b.jpg", "b.jpg"]))
        assert manifest.image_ids == ("x/a.jpg", "x/a.png", "b.jpg", "b.jpg#2")

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"photo": ["a.jpg"]}, "no column image"),
            ({"image": ["a.jpg", None]}, "row 1, column image"),
            ({"image": ["../a.jpg"]}, "row 0, column image.*leaves"),
            ({"image": [1]}, "column image is int64"),
            ({"image": ["a", "b"], "image_id": ["x", "x"]}, "row 1, column image_id.*row 0"),
            ({"image": ["a"], "bbox": [[3.0, 0.0, 1.0, 2.0]]}, "row 0, column bbox"),
            ({"image": ["a"], "bbox": [[3.0]]}, "row 0, column bbox"),
            ({"image": ["a"], "landmarks": [[float("nan")] * 10]}, "row 0, column landmarks"),
            ({"image": ["a"], "status": ["ok"]}, "column status.*rename"),
            ({"image": pa.array([], pa.string())}, "no rows"),
        ],
    )
    def test_bad_manifests_name_the_place(self, tmp_path, columns, words):
        with pytest.raises(ManifestError, match=words):
            read_manifest(manifest_of(tmp_path, **columns))

    def test_nested_landmarks_are_taken(self, tmp_path):
        points = [[float(n), 0.0] for n in range(5)]
        manifest = read_manifest(manifest_of(tmp_path, image=["a"], landmarks=[points]))
        assert manifest.landmarks[0] == (0, 0, 1, 0, 2, 0, 3, 0, 4, 0)

    def test_no_parquet(self, tmp_path):
        (tmp_path / "in.parquet").write_text("image\na.jpg\n")
        with pytest.raises(ManifestError, match="not a Parquet file"):
            read_manifest(tmp_path / "in.parquet")


class TestIndex:
    def test_folders_globs_and_masks(self, tmp_path):
        for name in ("b/2.jpg", "a/1.PNG", "a/1_mask.png", "a/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        table = build_manifest([str(tmp_path), str(tmp_path / "b" / "*.jpg")], tmp_path / "in.parquet", masks=True)
        assert table.to_pydict() == {"image": ["a/1.PNG", "b/2.jpg"], "mask": ["a/1_mask.png", None]}

    def test_csv_keeps_its_columns(self, tmp_path):
        (tmp_path / "list.csv").write_text("image,who\na.jpg,Ada\n")
        table = build_manifest([str(tmp_path / "list.csv")], tmp_path / "in.parquet")
        assert table.to_pydict() == {"image": ["a.jpg"], "who": ["Ada"]}

    def test_missing_paths_are_named(self, tmp_path):
        with pytest.raises(ManifestError, match="nowhere: no such file or folder"):
            build_manifest([str(tmp_path / "nowhere")], tmp_path / "in.parquet")


class TestPlan:
    @given(photos=st.integers(1, 40), shard_size=st.integers(1, 9), max_faces=st.integers(1, 4))
    def test_every_photo_is_in_one_shard_with_rows_of_its_own(self, tmp_path_factory, photos, shard_size, max_faces):
        path = manifest_of(tmp_path_factory.mktemp("m"), image=[f"{n}.jpg" for n in range(photos)])
        plan = make_plan(read_manifest(path), shard_size=shard_size, max_faces=max_faces)
        items = [item for k in range(plan.shards) for item in plan.shard(k)]
        assert items == list(plan.items)
        assert [item.row for item in items] == list(range(0, plan.rows, max_faces))

    def test_the_written_plan_stays(self, tmp_path):
        manifest = read_manifest(manifest_of(tmp_path, image=["a", "b", "c"], bbox=[[0.0, 0, 1, 1], None, None]))
        plan = settle_plan(manifest, tmp_path / "run", shard_size=2, max_faces=1)
        assert settle_plan(manifest, tmp_path / "run", shard_size=1, max_faces=1) == plan == read_plan(tmp_path / "run")

    def test_other_photos_need_another_run(self, tmp_path):
        settle_plan(read_manifest(manifest_of(tmp_path, image=["a"])), tmp_path / "run", shard_size=2, max_faces=1)
        with pytest.raises(ManifestError, match="use another --run"):
            settle_plan(read_manifest(manifest_of(tmp_path, image=["b"])), tmp_path / "run", shard_size=2, max_faces=1)


class TestFingerprint:
    def test_order_does_not_matter_and_values_do(self):
        assert fingerprint({"a": 1, "b": {"c": 2.5}}) == fingerprint({"b": {"c": 2.5}, "a": 1})
        assert fingerprint({"a": 1}) != fingerprint({"a": 2})

    def test_differences_are_named(self):
        assert difference({"a": {"b": 1}, "c": 0}, {"a": {"b": 2}, "c": 0}) == ["a.b (1 → 2)"]


class TestItems:
    def test_done_means_same_fingerprint(self, tmp_path):
        assert not shard_is_done(tmp_path, "segments", 0, "f")
        write_items(tmp_path, "segments", 0, [item(0)], "f")
        assert shard_is_done(tmp_path, "segments", 0, "f")
        with pytest.raises(ManifestError, match="other settings"):
            shard_is_done(tmp_path, "segments", 0, "g")
        assert [path.name for path in (tmp_path / "items" / "segments").iterdir()] == ["00000.parquet"]
        assert read_items(tmp_path, "segments", 0)["status"].to_pylist() == ["ok"]


class TestAnswer:
    @given(statuses=st.lists(st.sampled_from(["ok", "no_face", "failed", None]), min_size=1, max_size=12))
    def test_one_row_out_per_row_in(self, tmp_path_factory, statuses):
        folder = tmp_path_factory.mktemp("run")
        manifest = read_manifest(manifest_of(folder, image=[f"{n}.jpg" for n in range(len(statuses))], who=statuses))
        plan = make_plan(manifest, shard_size=2, max_faces=1)
        written = [k for k in range(plan.shards) if all(statuses[i.index] for i in plan.shard(k))]
        for k in written:
            write_items(folder, "segments", k, [item(i.index, statuses[i.index]) for i in plan.shard(k)], "f")
        tally = assemble_segments(manifest, plan, folder, "f")
        answer = pq.read_table(folder / "segments.parquet")
        assert answer["who"].to_pylist() == statuses
        expected = [statuses[i.index] if i.shard in written else "failed" for i in plan.items]
        assert answer["status"].to_pylist() == expected
        assert sum(tally.values()) == len(statuses)
        assert answer.column_names[:2] == ["image", "who"]
