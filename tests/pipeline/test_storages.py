"""What lies in a bucket of an S3 server on this machine: photos, and run folders."""

import json
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from s3pot_batch import read_run
from s3pot_batch.pipeline import lease, progress, remote, status
from s3pot_batch.pipeline.config import resolve
from s3pot_batch.pipeline.copies import called, copies, copy_of
from s3pot_batch.pipeline.job import _forget
from s3pot_batch.pipeline.remote import HELD, at_hand, fetched
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models import profiles
from s3pot_batch.stages.models.checkpoints import EMBEDDED
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
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0)
    return lambda name: monkeypatch.setattr(profiles, "CACHE", tmp_path / name)


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
    machine("second")
    copy = copy_of(url)
    tried = json.loads(working("segment", photos, Path(url), "--dry-run", "--json").stdout)
    assert tried["shards to do"] == {"references": 0, "decoded": 0, "segments": 2}
    done = working("segment", photos, Path(url))
    assert done.exit_code == 1
    assert re.search("Note: process .* has held the run; without a sign for 0.5 s it is taken over", done.stderr)
    assert f"\n  {url}/segments.parquet\n" in done.stdout
    assert str(copies()) not in done.output, "whoever looks there looks at what is soon another run's"
    assert answer_of(copy) == [{**row, "run": "run"} for row in answer_of(segmented)]
    assert store.info(f"{below}/items/segments/00000.parquet")["LastModified"] == made, "it is not done again"
    assert not store.exists(f"{below}/.lock.json")
    machine("third")
    third = copy_of(url)
    found = json.loads(run("status", "--run", url, "--json").stdout)
    assert [stage["shards_done"] for stage in found["stages"]] == [3, 3, 3]
    assert found["answer"]
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
        own = [f"bucket/again/{name}" for name in lent if name.startswith("references")]
        assert {name.count(".0") for name in own} == {3, 4}, "grey and in colours"
        store.rm(own)
        held.put_shard("references", 0)
        assert all(store.exists(name) for name in own)
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
        with at_hand(Path("s3://bucket/held"), purpose="read") as other:
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


def test_a_holder_is_taken_for_dead_only_by_who_has_looked_for_long_enough(store, machine, monkeypatch):
    machine("first")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    living = lease.Lease(store, "bucket/stopped", "one")
    living.acquire()
    monkeypatch.setattr(
        "s3pot_batch.pipeline.lease.time.sleep", lambda _: threading.Event().wait(0.6)
    )  # as one that is stopped meanwhile
    with pytest.raises(ConfigError, match="in use by process"):
        lease.Lease(store, "bucket/stopped", "two").acquire()
    living.check()
    living.release()
    assert not store.exists("bucket/stopped")


def test_of_two_that_take_a_dead_ones_place_one_goes_on(store, machine, monkeypatch):
    machine("first")
    first, second = (lease.Lease(store, "bucket/both", name) for name in ("one", "two"))
    store.pipe(first.path, b"what a dead process left")

    def meanwhile(_: float) -> None:
        if first._is_ours() and not second._beats.is_alive():
            store.rm(first.path)  # as one does that saw the dead one's there a moment before
            second.acquire()
        threading.Event().wait(0.05)

    monkeypatch.setattr("s3pot_batch.pipeline.lease.time.sleep", meanwhile)
    with pytest.raises(ConfigError, match="in use by process"):
        first.acquire()
    second.check()
    second.release()


def test_a_command_that_has_slept_looks_before_it_puts_anything_up(store, machine, monkeypatch):
    machine("first")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 60)
    with at_hand(Path("s3://bucket/slept")) as copy:
        store.pipe("bucket/slept/.lock.json", b"{}")  # meanwhile it was taken for dead
        HELD[copy].lease.seen -= 30
        (copy / "new").write_text("x")
        with pytest.raises(ConfigError, match="another command has taken the run folder over"):
            HELD[copy].put_up()
        (copy / "new").unlink()


def test_working_copies_know_nothing_of_each_other(store, machine):
    machine("first")
    with at_hand(Path("s3://bucket/above/in")) as copy:
        (copy / "plan.parquet").write_text("made here")
        with at_hand(Path("s3://bucket/above"), only=remote.NEEDED, purpose="look"):
            assert (copy / "plan.parquet").exists(), "a name that was forgotten must not cost what is worked on"
        (copy / ".known.json").write_text("{")
    assert store.cat("bucket/above/in/plan.parquet") == b"made here"
    (copy / ".known.json").write_text("")  # as a power cut leaves it
    with at_hand(Path("s3://bucket/above/in"), purpose="read"):
        assert (copy / "plan.parquet").read_text() == "made here"


def test_status_watches_what_another_machine_puts_up(segmented, store, machine, monkeypatch):
    machine("first")
    for module in (status, progress):
        monkeypatch.setattr(module, "LOG_SECONDS", 0.2)
    store.put(str(segmented), "bucket/watched", recursive=True)
    last = "bucket/watched/items/segments/00002.parquet"
    content = store.cat(last)
    store.rm(last)
    with ThreadPoolExecutor() as beside:
        seen = beside.submit(run, "status", "--run", "s3://bucket/watched", "--watch")
        while not (copy_of("s3://bucket/watched") / "log.txt").exists():
            assert not seen.done()
        store.pipe(last, content)
    lines = re.findall(r"segments +(./3) shards done", seen.result().stdout)
    assert (lines[0], lines[-1]) == ("2/3", "3/3")
    assert "s3://bucket/watched/segments.parquet" in seen.result().stdout


def test_the_door_takes_urls(segmented, store, machine):
    machine("first")
    store.put(str(segmented), "bucket/read", recursive=True)
    there, here = read_run("s3://bucket/read"), read_run(segmented)
    assert there.status.equals(here.status)
    assert np.array_equal(there.occlusion["face"], here.occlusion["face"])
    with pytest.raises(ConfigError, match=r"s3://bucket/none/segments.parquet: no answer there"):
        read_run("s3://bucket/none")
    adapter = EMBEDDED / "adapter"
    store.put(str(adapter), "bucket/read/checkpoint", recursive=True)
    trained = resolve().with_checkpoint(fetched(Path("s3://bucket/read/checkpoint/model.safetensors")))
    assert trained.fingerprint("segments") == resolve().with_checkpoint(adapter).fingerprint("segments")


@pytest.mark.parametrize(
    "url", ["nosuch://bucket/run", "s3://nobucket/run", "s3://bucket/../run", "simplecache::s3://bucket/run", "http"]
)
def test_a_storage_that_is_not_there_is_one_line(photos, store, machine, url):
    machine("first")
    if url == "http":  # it takes the lock, and shows it to nobody
        url = f"{os.environ['AWS_ENDPOINT_URL']}/bucket/run"
    done = working("references", photos, Path(url))
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--run", "run", "--out", "s3://bucket/masks"),
        ("report", "--run", "run", "--sheet", "s3://bucket/sheet.png"),
        ("index", "photos", "--out", "s3://bucket/in.parquet"),
        ("import", "--run", "run", "--format", "coco", "s3://bucket/coco"),
        ("segment", "--manifest", "s3://bucket/in.parquet"),
    ],
)
def test_a_url_for_what_has_to_be_here_is_no_folder_of_that_name(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert f"{next(one for one in arguments if '://' in one)} is a URL" in done.stderr
    assert not list(tmp_path.iterdir())


def test_processes_of_torchrun_share_no_url(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = run("train", "--manifest", "in.parquet", "--run", "s3://bucket/run")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: s3://bucket/run: torchrun's processes share no URL")


@pytest.mark.parametrize("folder", ["a-folder-of-somebody/" * 14, "写真の/" * 12], ids=["long", "quoted"])
def test_a_url_may_be_longer_than_a_folders_name(machine, folder):
    machine("first")
    url = f"memory://bucket/{folder}in"
    with at_hand(Path(url), purpose="read") as copy:
        assert copy.is_dir()
        assert called(f"{copy}/plan.parquet") == f"{url}/plan.parquet"


def test_what_is_on_this_machine_is_used_where_it_is(tmp_path):
    for named in (None, tmp_path, Path("runs/a: b")):
        with at_hand(named) as run_folder:
            assert run_folder == named
    with at_hand(Path(tmp_path.as_uri())) as run_folder:
        assert run_folder == tmp_path
