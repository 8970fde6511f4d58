import os
import time
from pathlib import Path

import pytest

from s3pot_batch.stages.reading import FileTooLarge, FileTooSlow, MissingFile, UnreadableFile, read_bytes
from s3pot_batch.stages.settings import FaceSettings

BOUNDS = FaceSettings(max_bytes=1000, max_seconds=0.5)


def test_paths_are_paths_whatever_their_names_look_like(tmp_path):
    for name in ("a::b.jpg", "exp:3", "zip:x.jpg", "100%.jpg", "#1.png", "?.png", " a b ", "simplecache::x"):
        (tmp_path / name).write_bytes(name.encode())
        assert read_bytes(str(tmp_path / name), BOUNDS) == name.encode()
    assert read_bytes((tmp_path / "100%.jpg").as_uri(), BOUNDS) == b"100%.jpg"


def test_urls_are_read_through_fsspec():
    import fsspec

    with fsspec.open("memory://photos/a.jpg", "wb") as file:
        file.write(b"photo")
    assert read_bytes("memory://photos/a.jpg", BOUNDS) == b"photo"
    with fsspec.open("memory://photos/large.jpg", "wb") as file:
        file.write(bytes(1001))
    with pytest.raises(FileTooLarge, match=r"faces\.max_bytes"):
        read_bytes("memory://photos/large.jpg", BOUNDS)


@pytest.mark.parametrize("location", ["memory://photos/none.jpg", "/nowhere/x.jpg", "/dev/null/x.jpg"])
def test_what_is_not_there_is_missing(location):
    with pytest.raises(MissingFile, match="no such file"):
        read_bytes(location, BOUNDS)


@pytest.mark.parametrize("location", ["nosuch://x.jpg", "/dev/zero", "/dev/null", "/", "a\0b.jpg", "http://[bad/x.jpg"])
def test_what_cannot_be_read_says_why(location):
    with pytest.raises(UnreadableFile):
        read_bytes(location, BOUNDS)


def test_pipes_and_links_to_them_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    for name in ("pipe.jpg", "link.jpg"):
        started = time.monotonic()
        with pytest.raises(UnreadableFile, match="pipe or device"):
            read_bytes(str(tmp_path / name), BOUNDS)
        assert time.monotonic() - started < 0.4


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(3 * 2**30)  # sparse
    with pytest.raises(FileTooLarge):
        read_bytes(str(tmp_path / "x.jpg"), BOUNDS)


def test_a_storage_that_hangs_is_given_up(monkeypatch):
    def sleeps(*_, **__):
        time.sleep(3)

    monkeypatch.setattr(Path, "open", sleeps)
    with pytest.raises(FileTooSlow, match=r"faces\.max_seconds"):
        read_bytes(__file__, FaceSettings(max_seconds=0.1))
