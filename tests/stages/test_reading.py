import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3pot_batch.manifests.embedded import embedded_location
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


class Answers(BaseHTTPRequestHandler):
    """Sends a photo, or the status that its path says, or nothing for a while."""

    def do_GET(self):
        if self.path == "/slow.jpg":
            time.sleep(2)
        status = int(self.path[1:4]) if self.path[1:4].isdecimal() else 200
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"photo")

    do_HEAD = do_GET  # noqa: N815 — as the base class wants it

    def log_message(self, *words):
        del words


@pytest.fixture(scope="module")
def website():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_photos_of_a_website_are_read(website):
    assert read_bytes(f"{website}/a.jpg", BOUNDS.model_copy(update={"max_seconds": 20.0})) == b"photo"


def test_confined_readers_connect_to_no_address_of_this_network(website):
    confined = BOUNDS.model_copy(update={"max_seconds": 20.0, "local_addresses": False})
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(UnreadableFile, match=r"is an address of this network"):
            read_bytes(f"{website.replace('127.0.0.1', host)}/a.jpg", confined)


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [("404.jpg", MissingFile, "no such file"), ("410.jpg", MissingFile, "no such file"),
     ("403.jpg", UnreadableFile, "403"), ("500.jpg", UnreadableFile, "500"),
     ("slow.jpg", FileTooSlow, "not read within")],
)  # fmt: skip
def test_what_a_website_says_instead_is_the_reason(website, path, kind, reason):
    with pytest.raises(kind, match=reason):
        read_bytes(f"{website}/{path}", BOUNDS)


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


def test_a_photo_inside_a_manifest_has_the_same_bound(tmp_path):
    photos = [{"bytes": bytes(1000), "path": None}, {"bytes": bytes(1001), "path": None}]
    pq.write_table(pa.table({"image": photos}), tmp_path / "in.parquet")
    assert read_bytes(embedded_location(tmp_path / "in.parquet", 0), BOUNDS) == bytes(1000)
    with pytest.raises(FileTooLarge, match=r"faces\.max_bytes"):
        read_bytes(embedded_location(tmp_path / "in.parquet", 1), BOUNDS)
