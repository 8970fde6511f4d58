"""What lies in a bucket of an S3 server on this machine: photos, and run folders."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from s3pot_batch.pipeline import lease, remote
from s3pot_batch.pipeline.job import _forget
from s3pot_batch.pipeline.remote import HELD, at_hand
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.reading import FileTooLarge, MissingFile, read_bytes
from s3pot_batch.stages.settings import FaceSettings
from tests.pipeline.conftest import answer_of, run, working

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


@pytest.fixture(scope="module")
def store():
    """An S3 server that keeps everything in memory, and AWS's settings that name it; its file system."""
    import s3fs  # both load much, and one process of the tests needs them
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT_URL": f"http://{host}:{port}",
            "ACCESS_KEY_ID": "a",
            "SECRET_ACCESS_KEY": "b",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("bucket")
        yield files
    server.stop()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process another machine, with nothing in its cache; who is silent is soon taken for dead."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.5)

    def become(name):
        monkeypatch.setattr(remote, "CACHE", tmp_path / name)
        return tmp_path / name / "runs" / "s3" / "bucket"

    return become


def test_photos_of_a_bucket_are_read_as_aws_settings_say(store):
    store.pipe("bucket/photos/ä b.jpg", b"photo")
    store.pipe("bucket/photos/large.jpg", bytes(1001))
    bounds = FaceSettings(max_bytes=1000, max_seconds=20.0)
    assert read_bytes("s3://bucket/photos/ä b.jpg", bounds) == b"photo"
    with pytest.raises(FileTooLarge, match=r"faces\.max_bytes"):
        read_bytes("s3://bucket/photos/large.jpg", bounds)
    with pytest.raises(MissingFile, match="no such file"):
        read_bytes("s3://bucket/photos/none.jpg", bounds)
    with pytest.raises(MissingFile, match="no such file"):
        read_bytes("s3://nobucket/none.jpg", bounds)


def killed_after_one_shard(segmented: Path, url: str) -> None:
    """A process that does as a command does up to the last stage's first shard and the second's arrays, and dies."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        return
    try:
        with at_hand(Path(url), only=remote.NEEDED) as copy:
            begun = shutil.ignore_patterns("segments*", "masks.zarr", ".*", "log.txt")
            shutil.copytree(segmented, copy, ignore=begun, dirs_exist_ok=True)
            shutil.copytree(segmented / "masks.zarr", copy / "masks.zarr")
            HELD[copy].put_up()
            (copy / "items" / "segments").mkdir()
            shutil.copy(segmented / "items/segments/00000.parquet", copy / "items/segments")
            HELD[copy].put_shard("segments", 0)
            shutil.copy(segmented / "items/segments/00001.parquet", copy / "items/segments")
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


def test_another_machine_goes_on_after_a_kill_and_has_the_same_answer(photos, segmented, store, machine):
    url, below = "s3://bucket/runs/run", "bucket/runs/run"
    machine("first")
    killed_after_one_shard(segmented, url)
    assert store.exists(f"{below}/.lock.json"), "it could not give it back"
    assert store.ls(f"{below}/items/segments") == [f"{below}/items/segments/00000.parquet"]
    made = store.info(f"{below}/items/segments/00000.parquet")["LastModified"]
    copy = machine("second") / "runs" / "run"
    tried = json.loads(working("segment", photos, Path(url), "--dry-run", "--json").stdout)
    assert tried["shards to do"] == {"references": 0, "decoded": 0, "segments": 2}
    done = working("segment", photos, Path(url))
    assert done.exit_code == 1
    assert re.search("Note: process .* has held the run; without a sign for 0.5 s it is taken over", done.stderr)
    assert answer_of(copy) == [{**row, "run": "run"} for row in answer_of(segmented)]
    assert store.info(f"{below}/items/segments/00000.parquet")["LastModified"] == made, "it is not done again"
    assert not store.exists(f"{below}/.lock.json")
    third = machine("third") / "runs" / "run"
    status = json.loads(run("status", "--run", url, "--json").stdout)
    assert [stage["shards_done"] for stage in status["stages"]] == [3, 3, 3]
    assert status["answer"]
    assert not list(third.rglob("c.*")), "no array is needed for that"
    assert run("export", "--run", url, "--format", "png").exit_code == 0
    assert len(store.glob(f"{below}/masks/*.png")) == 2
    assert answer_of(third) == answer_of(copy)
    assert (third / "log.txt").read_text() == (copy / "log.txt").read_text()


def test_arrays_are_fetched_by_shard_and_what_is_forgotten_or_empty_is_so_in_the_storage(segmented, store, machine):
    store.put(str(segmented), "bucket/again", recursive=True)
    machine("first")
    with at_hand(Path("s3://bucket/again"), only=remote.NEEDED) as copy:
        held = HELD[copy]
        held.lend(stage_named("segments"), ["decoded"], [1])  # has no face
        assert not list(copy.rglob("c.*"))
        held.lend(stage_named("segments"), ["decoded"], [0, 1])
        lent = {path.relative_to(copy).as_posix() for path in copy.rglob("c.*")}
        assert {name.split("/")[0] for name in lent} == {"references.zarr", "decoded.zarr"}
        assert lent == {path for path in files_of(segmented, "c.*") if not path.startswith("masks")}
        gone = "decoded.zarr/occlusion/c.0.0.0"
        (copy / gone).unlink()
        held.put_shard("decoded", 0)
        assert not store.exists(f"bucket/again/{gone}")
        _forget(copy, stage_named("segments"))
        (copy / "report.html").write_text("it goes up, too")
    left = {name.removeprefix("bucket/again/") for name in store.find("bucket/again")}
    before = {name for name in files_of(segmented, "*") if not name.startswith((".", "masks.zarr", "items/segments/"))}
    assert {name for name in left if not name.startswith((".", "items/segments/"))} == before - {gone} | {"report.html"}
    assert not store.exists("bucket/again/items/segments")


def files_of(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if path.is_file()}


def test_a_second_command_on_a_bucket_says_who_holds_the_run(store, machine):
    machine("first")
    held = Path("s3://bucket/held")
    with at_hand(held) as copy:
        assert "bucket/held" in str(copy)
        begun = store.info("bucket/held/.lock.json")["LastModified"], store.cat("bucket/held/.lock.json")
        with (
            pytest.raises(ConfigError, match="in use by another command on this machine"),
            at_hand(Path("s3://bucket/held")),
        ):
            raise AssertionError("it is held")
        machine("second")
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on"), at_hand(Path("s3://bucket/held")):
            raise AssertionError("it is held")
        with at_hand(Path("s3://bucket/held"), reads=True) as other:
            assert other != copy
        now = store.info("bucket/held/.lock.json")["LastModified"], store.cat("bucket/held/.lock.json")
        assert now == begun, "a process that has slept would write over who has taken the run meanwhile"
        store.pipe("bucket/held/.lock.json", b"{}")  # as one does who took this command for dead
        HELD[copy].lease._beats.join(10)
        (copy / "new").write_text("x")
        with pytest.raises(ConfigError, match="another command has taken the run folder over"):
            HELD[copy].put_up()
        (copy / "new").unlink()
    assert [name for name in store.ls("bucket/held") if "/.lock." in name] == ["bucket/held/.lock.json"], "not its own"
    store.rm("bucket/held/.lock.json")


@pytest.mark.parametrize("url", ["nosuch://bucket/run", "s3://nobucket/run", "s3://bucket/../run"])
def test_a_storage_that_is_not_there_is_one_line(photos, store, machine, url):
    machine("first")
    done = working("references", photos, Path(url))
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_what_is_on_this_machine_is_used_where_it_is(tmp_path):
    for named in (None, tmp_path, Path("runs/a: b")):
        with at_hand(named) as run_folder:
            assert run_folder == named
    with at_hand(Path(tmp_path.as_uri())) as run_folder:
        assert run_folder == tmp_path
