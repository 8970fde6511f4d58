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
            ("empty", r"no photos in .*empty; looked for \.avif"),
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
        odd, notes = tmp_path / os.fsdecode(b"caf\xe9.jpg"), list[str]()
        touch(tmp_path, odd.name, "a.jpg")
        for paths in (tmp_path, tmp_path / "*.jpg"):
            table = build_manifest([paths], tmp_path / "in.parquet", note=notes.append)
            assert table["image"].to_pylist() == ["a.jpg"]
        assert notes[0].startswith("left out: 1 photos whose names are not UTF-8")
        with pytest.raises(ManifestError, match="not UTF-8"):
            build_manifest([odd], tmp_path / "in.parquet")

    @pytest.mark.parametrize(
        "name", ["é" * 125 + ".jpg", "x" * 251 + ".jpg", "\u202eabc.jpg", "a\nb.jpg", "a::b.jpg", "*.jpg"]
    )
    def test_names_of_all_sorts_and_lengths_are_listed(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, name)
        build_manifest([tmp_path], tmp_path / "in.parquet", masks=True)
        assert read_manifest(tmp_path / "in.parquet").images == (str(tmp_path / name),)

    def test_what_is_left_out_is_said(self, tmp_path: Path) -> None:
        names = "a.jpg ._a.jpg .hidden/b.jpg __MACOSX/c.jpg notes.txt more.txt README d.HEIC e.avif f.jfif g.gif"
        touch(tmp_path, *names.split())
        notes: list[str] = []
        table = build_manifest([tmp_path], tmp_path / "in.parquet", note=notes.append)
        assert table["image"].to_pylist() == ["a.jpg", "d.HEIC", "e.avif", "f.jfif", "g.gif"]
        assert notes == ["left out: 2 files .txt, 1 files without a suffix, 1 hidden files, 2 hidden folders"]

    def test_pictures_that_may_be_masks_are_said(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "a_mask.png", "b.jpg")
        notes: list[str] = []
        build_manifest([tmp_path], tmp_path / "in.parquet", note=notes.append)
        assert len(notes) == 1
        assert notes[0].startswith("1 photos have a NAME_mask.png beside them")

    def test_linked_folders_are_entered_once(self, tmp_path: Path) -> None:
        touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
        (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos")
        (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        notes: list[str] = []
        table = build_manifest([tmp_path / "photos"], tmp_path / "photos" / "in.parquet", note=notes.append)
        assert table["image"].to_pylist() == ["a.jpg", "more/b.jpg"]
        assert notes == ["left out: 1 files .jpg, 1 folders that were entered before, by a link"]

    @pytest.mark.parametrize("name", ["a.jpg", "list.csv", "notes.txt"])
    def test_nothing_but_a_manifest_is_written_over(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, "a.jpg")
        csv(tmp_path, "image\na.jpg\n")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "a.jpg").write_text("mine, too")
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ManifestError, match="there is a file that is no manifest"):
            build_manifest([tmp_path / ("list.csv" if name == "list.csv" else "a.jpg")], tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
        for _ in range(2):
            build_manifest([tmp_path / "a.jpg"], tmp_path / "in.parquet")


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_what_stands_between_cells_is_found_out(self, tmp_path: Path, delimiter: str, mark: str) -> None:
        text = mark + "image,mask,score\na.jpg,m.png,1.5\n".replace(",", delimiter)
        table = build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet")
        assert table.to_pydict() == {"image": ["a.jpg"], "mask": ["m.png"], "score": [1.5]}

    def test_what_looks_like_a_number_and_is_a_name_stays(self, tmp_path: Path) -> None:
        text = "image,code,zip,count,share,big\na,007,+1,-3,1e-3,123456789012345678901234567890\nb,12,2,,2.5,1\n"
        assert build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet").to_pydict() == {
            "image": ["a", "b"], "code": ["007", "12"], "zip": ["+1", "2"], "count": [-3, None], "share": [0.001, 2.5],
            "big": ["123456789012345678901234567890", "1"],
        }  # fmt: skip

    def test_a_label_is_no_masks_path(self, tmp_path: Path) -> None:
        notes: list[str] = []
        path = csv(tmp_path, "image,mask\na.jpg,1\nb.jpg,0\nc.jpg,\n")
        table = build_manifest([path], tmp_path / "in.parquet", note=notes.append)
        assert table["mask"].to_pylist() == [1, 0, None]
        assert notes == ["column mask holds labels: it is carried as it is, and names no masks"]

    @pytest.mark.parametrize("words", [("True", "False"), ("yes", "no"), ("1", "no")])
    def test_words_may_be_labels_too(self, tmp_path: Path, words: tuple[str, str]) -> None:
        path = csv(tmp_path, "image,mask\na.jpg,{}\nb.jpg,{}\n".format(*words))
        assert build_manifest([path], tmp_path / "in.parquet")["mask"].to_pylist() == list(words)

    def test_masks_of_several_kinds_and_a_broken_one_cost_no_other(self, tmp_path: Path) -> None:
        cells = ['{"size": [2, 2], "counts": [4]}', '{"size": [2, 2], "counts": "4"}', '{"size": ', "masks/m.png"]
        lines = ['{}.jpg,"{}"'.format(n, cell.replace('"', '""')) for n, cell in enumerate(cells)]
        table = build_manifest([csv(tmp_path, "\n".join(["image,mask", *lines]))], tmp_path / "in.parquet")
        assert table["mask"].to_pylist() == cells

    def test_another_encoding_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_bytes("image\ncaf\xe9.jpg\n".encode("latin-1") * 2)
        with pytest.raises(ManifestError, match=r"UTF-?8"):
            build_manifest([tmp_path / "list.csv"], tmp_path / "in.parquet")

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
        boxes, points = "[1,2,3,4.5]", "[[0,1],[9,2],[4,5],[1,8],[8,9]]"
        rle = '{""size"":[2,3],""counts"":""06""}'
        text = f'image,bbox,landmarks,mask,region\na,"{boxes}","{points}","{rle}","{rle}"\nb,,,,\n'
        table = build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet")
        manifest = read_manifest(tmp_path / "in.parquet")
        assert manifest.bboxes == ((1.0, 2.0, 3.0, 4.5), None)
        assert manifest.landmarks == ((0.0, 1.0, 9.0, 2.0, 4.0, 5.0, 1.0, 8.0, 8.0, 9.0), None)
        assert table["mask"].to_pylist() == [{"size": [2, 3], "counts": "06"}, None] == table["region"].to_pylist()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("photo\na.jpg\n", "no column image; it has photo"),
            ("image\n", "no rows"),
            ("", "not a CSV file"),
            ("image,kind,kind\na,b,c\n", "more than one column kind"),
            ('image,bbox\na,"[1,2,3,99999999999999999999]"\n', "column bbox"),
            ("# made by a tool\nimage,kind\na,b\n", "not a CSV file"),
            ("image|kind\na|b\n", "no column image; it has image|kind"),
            ("image,who\na\n", "not a CSV file"),
            ("image,bbox\na,\nb,1 2 3 4\n", "row 1, column bbox: 1 2 3 4 is not JSON"),
            ('image,bbox\na,"[1]"\nb,"{""x"":1}"\n', "column bbox: its rows are of different kinds"),
        ],
    )
    def test_wrong_files_say_what_is_wrong(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(ManifestError, match=words):
            build_manifest([csv(tmp_path, text)], tmp_path / "in.parquet")

    @pytest.mark.parametrize("name", ["list.txt", "list.jsonl", "list.csv.gz", "old.parquet", "photos.ZIP"])
    def test_a_list_of_another_kind_is_no_photo(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, name)
        with pytest.raises(ManifestError, match="a list of photos is a CSV file with a column image"):
            build_manifest([tmp_path / name], tmp_path / "in.parquet")

    @pytest.mark.parametrize(
        "content",
        [
            b"\xef\xbb\xbfimage,kind\na.jpg,x\n", b'"image","kind"\r\n"a.jpg","x"\r\n', b"image\tkind\ra.jpg\tx\r",
            b"image;kind\n\na.jpg;x\n\n",
        ],
        ids=["byte order mark", "quoted, of Windows", "tabs, of an old Mac", "semicolons and empty lines"],
    )  # fmt: skip
    def test_tables_of_all_systems_are_read(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(content)
        table = build_manifest([tmp_path / "list.csv"], tmp_path / "in.parquet")
        assert table.to_pydict() == {"image": ["a.jpg"], "kind": ["x"]}

    def test_a_csv_among_photos_is_refused_and_not_listed_as_one(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        with pytest.raises(ManifestError, match="indexed alone"):
            build_manifest([tmp_path / "a.jpg", csv(tmp_path, "image\na\n")], tmp_path / "in.parquet")
