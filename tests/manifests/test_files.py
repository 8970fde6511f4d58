"""What a run writes is whole or not there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import read_table, replacing, write_parquet


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(pa.table({"a": [1]}), path)
    before = path.read_bytes()
    unwritable = pa.table({"a": pa.array([None], pa.null()).cast(pa.month_day_nano_interval())})
    with pytest.raises(pa.ArrowException):
        write_parquet(unwritable, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "text.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename within one folder is one step
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


class StoppedError(Exception):
    pass


def test_an_interrupted_write_of_any_kind_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new, but ha")
            raise StoppedError

    with pytest.raises(StoppedError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the outer writer ended last
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_keeps_the_tables_own_and_adds_the_schemas_version(tmp_path: Path) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({"own": "kept", "schema_version": "0"})
    write_parquet(table, tmp_path / "t.parquet", {"fingerprint": "f"})
    found = pq.read_schema(tmp_path / "t.parquet").metadata
    assert {b"own": b"kept", b"schema_version": b"2", b"fingerprint": b"f"}.items() <= found.items()


def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.parquet", tmp_path / "text.parquet"):
        if path.name == "text.parquet":
            path.write_text("no table")
        with pytest.raises(ManifestError, match=rf"{path.name}: not a Parquet file .*; use another --run$") as caught:
            read_table(path, "use another --run")
        assert "\n" not in str(caught.value)


def test_a_number_that_was_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"a": np.random.default_rng(0).random(50)})  # so random that it is not compressed
    write_parquet(table, path)
    whole = path.read_bytes()
    at = whole.index(np.float64(table["a"][0].as_py()).tobytes())
    path.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 1]) + whole[at + 4 :])
    with pytest.raises(ManifestError, match=r"t\.parquet: not a Parquet file that can be read"):
        read_table(path)
