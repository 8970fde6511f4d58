import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.index import build_manifest
from s3pot_batch.manifests.manifest import read_manifest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def csv(folder: Path, text: str) -> Path:
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


class TestPhotos:
    def test_folders_are_listed_by_name_and_deep(self, tmp_path: Path) -> None:
        touch(tmp_path, "b/2.jpg", "b/c/3.webp", "a/1.PNG", "a/notes.txt", "9.tiff")
        (tmp_path / "folder.jpg").mkdir()
        table = build_manifest([tmp_path], tmp_path / "in.parquet")
        assert table.to_pydict() == {"image": ["9.tiff", "a/1.PNG", "b/2.jpg", "b/c/3.webp"]}
        assert pq.read_table(tmp_path / "in.parquet").equals(table)

    def test_a_photo_that_is_named_in_many_ways_is_listed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "b/2.jpg", "b/1.jpg")
        monkeypatch.chdir(tmp_path)
        paths: list[str | Path] = ["b/2.jpg", str(tmp_path / "b" / "*.jpg"), "./b/../b/1.jpg", tmp_path]
        assert build_manifest(paths, Path("in.parquet"))["image"].to_pylist() == ["b/2.jpg", "b/1.jpg"]

    def test_photos_elsewhere_are_absolute(self, tmp_path: Path) -> None:
        touch(tmp_path, "photos/1.jpg")
        table = build_manifest([tmp_path / "photos"], tmp_path / "lists" / "in.parquet")
        assert table["image"].to_pylist() == [str(tmp_path / "photos" / "1.jpg")]
        assert read_manifest(tmp_path / "lists" / "in.parquet").images == (str(tmp_path / "photos" / "1.jpg"),)

    def test_an_explicit_file_is_listed_whatever_its_name(self, tmp_path: Path) -> None:
        touch(tmp_path, "scan", "odd[1].jpg")
        table = build_manifest([tmp_path / "scan", tmp_path / "odd[1].jpg"], tmp_path / "in.parquet")
        assert table["image"].to_pylist() == ["scan", "odd[1].jpg"]

    def test_masks_are_truth_beside_their_photo_and_photos_otherwise(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "a_mask.png", "b.png", "bob_mask.jpg", "lone_mask.png")
        table = build_manifest([tmp_path], tmp_path / "in.parquet", masks=True)
        assert table.to_pydict() == {
            "image": ["a.jpg", "b.png", "bob_mask.jpg", "lone_mask.png"],
            "mask": ["a_mask.png", None, None, None],
        }

    def test_without_masks_every_picture_is_a_photo(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "a_mask.png")
        assert build_manifest([tmp_path], tmp_path / "in.parquet").to_pydict() == {"image": ["a.jpg", "a_mask.png"]}

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("nowhere", "nowhere: no such file or folder"),
            ("none*.jpg", r"none\*\.jpg: nothing matches"),
            ("empty", r"no photos in .*empty; looked for \.bmp"),
        ],
    )
    def test_what_gives_no_photo_is_named(self, tmp_path: Path, path: str, words: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ManifestError, match=words):
            build_manifest([str(tmp_path / path)], tmp_path / "in.parquet")
        assert not (tmp_path / "in.parquet").exists()

    def test_a_missing_path_among_good_ones_is_an_error(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        with pytest.raises(ManifestError, match=r"b\.jpg: no such file"):
            build_manifest([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "in.parquet")

    def test_a_folder_is_no_manifest(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        with pytest.raises(ManifestError, match="a folder"):
            build_manifest([tmp_path], tmp_path)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are any bytes")
    def test_a_name_that_is_not_utf8_is_named(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
        with pytest.raises(ManifestError, match="not UTF-8"):
            build_manifest([tmp_path], tmp_path / "in.parquet")


class TestCsv:
    def test_other_columns_are_kept_and_names_stay_text(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "image,image_id,who,age\n0012,007,Ada,36\ns3://b/c.jpg,008,,41\n")
        assert build_manifest([path], tmp_path / "in.parquet").to_pydict() == {
            "image": ["0012", "s3://b/c.jpg"], "image_id": ["007", "008"], "who": ["Ada", ""], "age": [36, 41],
        }  # fmt: skip

    def test_paths_start_at_the_csv(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        path = csv(tmp_path / "sub", "image,mask,region\na.jpg,m.png,r.png\n../b.jpg,,\n")
        table = build_manifest([path], tmp_path / "in.parquet")
        assert table.to_pydict() == {
            "image": ["sub/a.jpg", "b.jpg"], "mask": ["sub/m.png", None], "region": ["sub/r.png", None],
        }  # fmt: skip

    def test_boxes_landmarks_and_masks_are_json(self, tmp_path: Path) -> None:
        boxes, points = "[1,2,3,4.5]", "[[0,1],[2,3],[4,5],[6,7],[8,9]]"
        rle = '{""size"":[2,3],""counts"":""06""}'
        text = f'image,bbox,landmarks,mask,region\na,"{boxes}","{points}","{rle}","{rle}"\nb,,,,\n'
        table = build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet")
        manifest = read_manifest(tmp_path / "in.parquet")
        assert manifest.bboxes == ((1.0, 2.0, 3.0, 4.5), None)
        assert manifest.landmarks == (tuple(float(n) for n in range(10)), None)
        assert table["mask"].to_pylist() == [{"size": [2, 3], "counts": "06"}, None] == table["region"].to_pylist()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("photo\na.jpg\n", "no column image; it has photo"),
            ("image\n", "no rows"),
            ("", "not a CSV file"),
            ("image,who\na\n", "not a CSV file"),
            ("image,bbox\na,\nb,1 2 3 4\n", "row 1, column bbox: 1 2 3 4 is not JSON"),
            ('image,bbox\na,"[1]"\nb,"{""x"":1}"\n', "column bbox: its rows are of different kinds"),
        ],
    )
    def test_wrong_files_say_what_is_wrong(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(ManifestError, match=words):
            build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet")

    def test_a_csv_among_photos_is_refused_and_not_listed_as_one(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        with pytest.raises(ManifestError, match="indexed alone"):
            build_manifest([tmp_path / "a.jpg", csv(tmp_path, "image\na\n")], tmp_path / "in.parquet")
