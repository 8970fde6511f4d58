import cmath
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pot_batch.manifests.embedded import read_embedded
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.schema import SEGMENTS
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
        ({"image": ["a", "b"], "image_id": [1.5, 2.5]}, "column image_id is double"),
        ({"image": ["a", "b"], "image_id": ["x", None]}, "row 1, column image_id: empty"),
        ({"image": ["a", "b"], "image_id": [1, 1]}, "row 1, column image_id: 1 is also row 0"),
        ({"image": [{"bytes": "text", "path": "a"}]}, "column image: its bytes is string, not binary"),
        ({"image": [{"bytes": b"one", "path": 7}]}, "column image: its path is int64, not text"),
        ({"image": ["a"], "bbox": ["1234"]}, "column bbox is string"),
        ({"image": ["a"], "bbox": [[[1.0, 2.0], [3.0, 4.0]]]}, "column bbox is list"),
        ({"image": ["a"], "landmarks": [[True] * 10]}, "column landmarks is list"),
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


FACE = [40.0, 50, 80, 52, 60, 75, 45, 95, 75, 96]


@pytest.mark.parametrize("points", [FACE, [FACE[n : n + 2] for n in range(0, 10, 2)]])
def test_landmarks_are_taken_flat_or_as_pairs(tmp_path: Path, points: list[object]) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a", "b"], landmarks=[None, points]))
    assert manifest.landmarks == (None, tuple(FACE))
    assert manifest.problems == (None, None)


def turned(points: list[float], degrees: float) -> list[float]:
    turn = cmath.exp(1j * math.radians(degrees))
    moved = [turn * complex(x, y) + 300 for x, y in zip(points[::2], points[1::2], strict=True)]
    return [value for point in moved for value in (point.real, point.imag)]


EXCHANGED = [FACE[n] for n in (2, 3, 0, 1, 4, 5, 8, 9, 6, 7)]
WRONG = {
    "photo": ("image", None, "MissingFile", "empty; every row needs a photo"),
    "photo of no name": ("image", "", "MissingFile", "empty"),
    "box of corners exchanged": ("bbox", [3.0, 2, 1, 9], "BadBox", "x, y, width, height"),
    "box as x, y, width, height": ("bbox", [300.0, 200, 90, 110], "BadBox", "looks like x, y, width, height"),
    "box of no height": ("bbox", [0.0, 2, 1, 2], "BadBox", "x, y, width, height"),
    "box before the photo": ("bbox", [-5.0, -5, -9, -9], "BadBox", "is not x0 < x1"),
    "box in fractions": ("bbox", [0.1, 0.2, 0.5, 0.6], "BadBox", "fractions of the photo's size"),
    "box in fractions, a little outside": ("bbox", [0.1, 0.2, 1.05, 0.6], "BadBox", "fractions of the photo's size"),
    "box of less than a pixel": ("bbox", [10.0, 10, 10.5, 90], "BadBox", "less than a pixel"),
    "box beyond any photo": ("bbox", [0.0, 0, 1e300, 1e300], "BadBox", "beyond any photo"),
    "box of three": ("bbox", [1.0, 2, 3], "BadBox", "is not 4 finite numbers"),
    "box with a gap": ("bbox", [0.0, 0, 1, None], "BadBox", "is not 4 finite numbers"),
    "box without end": ("bbox", [0.0, 0, 1, math.inf], "BadBox", "is not 4 finite numbers"),
    "landmarks that are not numbers": ("landmarks", [math.nan] * 10, "BadLandmarks", "is not 10 finite numbers"),
    "four landmarks": ("landmarks", FACE[:8], "BadLandmarks", "is not 10 finite numbers"),
    "landmarks in fractions": ("landmarks", [n / 200 for n in FACE], "BadLandmarks", "fractions of the photo's size"),
    "landmarks in fractions, a little outside": ("landmarks", [n / 90 for n in FACE], "BadLandmarks", "fractions"),
    "landmarks of less than a pixel": ("landmarks", [30 + n / 1000 for n in FACE], "BadLandmarks", "less than a pixel"),
    "landmarks beyond any photo": ("landmarks", [n * 1e200 for n in FACE], "BadLandmarks", "beyond any photo"),
    "68 landmarks": ("landmarks", [*FACE, *FACE] * 7, "BadLandmarks", "is not 10 finite numbers"),
    "landmarks that are not there": ("landmarks", [-1.0] * 10, "BadLandmarks", "on a line, or on each other"),
    "landmarks on a line": ("landmarks", [float(n) for n in range(2, 12)], "BadLandmarks", "on a line"),
    "landmarks on each other": ("landmarks", [7.0] * 10, "BadLandmarks", "on a line, or on each other"),
    "left and right exchanged": ("landmarks", EXCHANGED, "BadLandmarks", "left and right exchanged"),
    "eyes exchanged": ("landmarks", FACE[2:4] + FACE[:2] + FACE[4:], "BadLandmarks", "left and right exchanged"),
    "mouth exchanged": ("landmarks", FACE[:6] + FACE[8:] + FACE[6:8], "BadLandmarks", "left and right exchanged"),
    "upright left and right, lying": ("landmarks", turned(EXCHANGED, 90), "BadLandmarks", "exchanged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_has_a_problem_and_no_other_row_has(tmp_path: Path, name: str) -> None:
    column, value, kind, words = WRONG[name]
    columns: dict[str, list[object]] = {"image": ["a", "b", "c"], "bbox": [None] * 3, "landmarks": [None] * 3}
    columns[column] = [*columns[column][:1], value, *columns[column][2:]]
    manifest = read_manifest(manifest_file(tmp_path, **columns))
    assert manifest.problems[0] is None is manifest.problems[2]
    assert manifest.problems[1].startswith(f"{kind}: row 1, column {column}: ")
    assert words in manifest.problems[1]
    assert len(manifest.problems[1]) < 400
    assert len(set(manifest.image_ids)) == 3


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_a_face_may_lie_any_way_and_look_to_any_side(tmp_path: Path, degrees: int) -> None:
    profile = [60.0, 50, 64, 51, 40, 75, 50, 95, 56, 96]
    landmarks = [turned(points, degrees) for points in (FACE, profile)]
    assert read_manifest(manifest_file(tmp_path, image=["a", "b"], landmarks=landmarks)).problems == (None, None)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_text_is_text_however_it_is_stored(tmp_path: Path, kind: pa.DataType) -> None:
    def stored(*values: str) -> pa.Array:
        return pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)

    manifest = read_manifest(manifest_file(tmp_path, image=stored("a.jpg", "b.jpg"), image_id=stored("1", "2")))
    assert [Path(image).name for image in manifest.images] == ["a.jpg", "b.jpg"]
    assert manifest.image_ids == ("1", "2") == tuple(manifest.table["image_id"].to_pylist())


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.decimal128(38, 0)], ids=str)
def test_whole_numbers_are_ids(tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.array([7, 8]).cast(kind)
    assert read_manifest(manifest_file(tmp_path, image=["a", "b"], image_id=ids)).image_ids == ("7", "8")


def test_columns_that_the_answer_has_get_another_name_and_it_is_said(tmp_path: Path) -> None:
    columns = {"image": ["a"], "width": [640], "status": ["new"], "input_status": ["old"], "mask": [1]}
    manifest = read_manifest(manifest_file(tmp_path, **columns))
    assert manifest.table.drop_columns("image_id").to_pylist() == [
        {"image": "a", "input_width": 640, "input_status_2": "new", "input_status": "old", "mask": 1}
    ]
    assert manifest.notes == (
        "column width of the manifest is input_width in the answer, which has a width of its own",
        "column status of the manifest is input_status_2 in the answer, which has a status of its own",
    )


def test_an_answer_is_a_manifest_and_its_columns_are_carried(tmp_path: Path) -> None:
    names = [name for name in SEGMENTS.names if name != "faces"]
    manifest = read_manifest(manifest_file(tmp_path, image=["a"], **{name: [None] for name in names}))
    assert manifest.table.column_names == ["image", *(f"input_{name}" for name in names), "image_id"]


CONFINED = {
    "a.jpg": True, "deep/b.jpg": True, "./x/../a.jpg": True, "../a.jpg": False, "/etc/passwd": False, "link.jpg": False,
    "linked/a.jpg": False, "https://127.0.0.1/a.jpg": False, "https://[::1]/a.jpg": False, "https://10.1.2.3/a": False,
    "https://169.254.169.254/latest": False, "https://8.8.8.8/a.jpg": True, "http://8.8.8.8/a.jpg": False,
    "file:///etc/passwd": False, "s3://bucket/a.jpg": True, "simplecache::https://8.8.8.8/a": False,
    "https://127.1/a.jpg": False, "https://2130706433/a.jpg": False, "https://a@127.0.0.1/a.jpg": False,
    "https://[64:ff9b:0:0:0:0:a9fe:a9fe]/a.jpg": False, "https://[64:ff9b:0:0:0:0:808:808]/a.jpg": True,
    "https://[2002:a00:1:0:0:0:0:0]/a.jpg": False, "https://[0:0:0:0:0:ffff:10.0.0.1]/a.jpg": False,
    "https://224.0.0.1/a.jpg": False, "circle/a.jpg": False, "a\0.jpg": False,
    "https://localhost/a.jpg": False, "https://no.such.host.invalid/a": False, "https:///a": False,
}  # fmt: skip


@pytest.mark.parametrize("image", CONFINED)
def test_other_peoples_manifests_are_confined(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "link.jpg").symlink_to("/etc/hostname")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    path = manifest_file(folder, image=[image])
    [problem] = read_manifest(path, confine=("https", "s3")).problems
    assert (problem is None) == CONFINED[image]
    assert problem is None or problem.startswith("OutOfBounds: row 0, column image: ")
    assert read_manifest(path).problems == (None,), "one's own are trusted"


@pytest.mark.parametrize("group", [1, 2, 100])
def test_photos_may_lie_in_the_manifest(tmp_path: Path, group: int) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    photos = [{"bytes": b"one", "path": "x/1.jpg"}, {"bytes": b"two", "path": None}, {"bytes": None, "path": "3"}, None]
    table = pa.table({"label": range(4), "image": pa.array(photos, kind)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=group)
    manifest = read_manifest(tmp_path / "in.parquet")
    assert manifest.image_ids == ("x/1", "row-1", "3", "row-3")
    assert manifest.table["image"].to_pylist() == ["x/1.jpg", "row-1", "3", "row-3"]
    assert manifest.table["label"].to_pylist() == [0, 1, 2, 3]
    assert [read_embedded(place) for place in manifest.images[:2]] == [b"one", b"two"]
    assert manifest.images[2] == str(tmp_path / "3"), "what has no bytes has a path"
    with pytest.raises(ManifestError, match="its bytes are empty"):
        read_embedded(manifest.images[3])
    confined = read_manifest(tmp_path / "in.parquet", confine=())
    assert [problem is None for problem in confined.problems] == [True] * 4


def test_a_photo_that_is_named_beside_those_in_the_manifest_is_confined_too(tmp_path: Path) -> None:
    photos = [{"bytes": b"one", "path": "/etc/passwd"}, {"bytes": None, "path": "/etc/passwd"}]
    found = read_manifest(manifest_file(tmp_path, image=photos), confine=())
    assert found.problems[0] is None
    assert str(found.problems[1]).startswith("OutOfBounds: row 1, column image: /etc/passwd")


def test_structs_may_hold_paths_alone(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=[{"path": "a.jpg"}, {"path": None}]))
    assert manifest.images[0] == str(tmp_path / "a.jpg")
    assert manifest.problems[0] is None
    assert manifest.images[1] == str(tmp_path / "row-1"), "a row that names none is of no photo, not of one in here"


@pytest.mark.parametrize("elsewhere", ["in.parquet", "x" * 5000, "\0", "other.parquet"])
def test_an_origin_that_holds_no_photos_is_none(tmp_path: Path, elsewhere: str) -> None:
    said = {"made_of": json.dumps({"manifest": str(tmp_path / elsewhere), "photos_inside": True})}
    for name in ("other.parquet", "in.parquet"):  # an answer that was written over its manifest names itself
        pq.write_table(pa.table({"image": ["a.jpg"]}).replace_schema_metadata(said), tmp_path / name)
    assert read_manifest(tmp_path / "in.parquet").images == (str(tmp_path / "a.jpg"),)


def test_photos_in_the_manifest_need_no_names(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=[{"bytes": b"one"}, {"bytes": b"two"}]))
    assert manifest.image_ids == ("row-0", "row-1")
    assert [read_embedded(place) for place in manifest.images] == [b"one", b"two"]


def test_empty_optional_columns_are_no_values(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path, image=["a"], bbox=[None], landmarks=[None]))
    assert (manifest.bboxes, manifest.landmarks) == ((None,), (None,))


def test_folders_named_like_partitions_add_no_columns(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_file(tmp_path / "split=train", image=["a"]))
    assert manifest.table.column_names == ["image", "image_id"]


def test_limit_cuts_before_the_check(tmp_path: Path) -> None:
    path = manifest_file(tmp_path, image=["a", "b", None])
    assert read_manifest(path, 2).image_ids == ("a", "b")


def test_the_digest_is_of_the_photos_not_of_other_columns(tmp_path: Path) -> None:
    one = read_manifest(manifest_file(tmp_path, image=["a"], who=["Ada"])).digest
    assert read_manifest(manifest_file(tmp_path, image=["a"], who=["Bob"])).digest == one
    assert read_manifest(manifest_file(tmp_path, image=["a"], bbox=[[0, 0, 9, 9]])).digest != one


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


def test_a_folder_of_parquet_files_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="a folder; a manifest is one Parquet file"):
        read_manifest(tmp_path)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="s3pot-batch index"):
        read_manifest(tmp_path / "in.parquet")
