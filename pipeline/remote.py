"""Run folders in a storage of fsspec's, ``--run s3://bucket/runs/in``: a working copy here, and what goes up when.

The storage is the truth. A command begins with what it needs from there, and what it makes is put up as it is finished:
a shard's arrays before its outcomes, which mark the shard as done. So after a kill another machine can go on. What the
working copy holds and the storage does not is what nobody finished, and is dropped.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.pipeline import logbook
from s3pot_batch.pipeline.copies import copy_of, url_of
from s3pot_batch.pipeline.lease import Lease
from s3pot_batch.stages.base import ShardReport, Stage, stage_named
from s3pot_batch.stages.errors import ConfigError

KNOWN, OWN_ID = ".known.json", ".id"
"""In a working copy: which version of each file it holds, and since when; and what no other working copy is called."""
WAIT_SECONDS = 5.0
"""For another command on this machine that has the working copy: one that looks is soon done."""
STORES = re.compile(r"\w+\.zarr/|fits/")
"""What is fetched by shard."""
AT_ONCE = 4
"""Shards that go up at once."""
LOG_SECONDS = 30.0
"""Between two times that the log goes up."""
NEEDED = (
    "plan.parquet",
    "config.toml",
    "items/",
    "checkpoint/",
    "segments.parquet",
    "corrections.parquet",
    logbook.NAME,
)
"""What names of files begin with that tell how far a run is; arrays are fetched by shard, by :meth:`Remote.lend`."""
LENT = ("plan.parquet", "config.toml", "items/references", "references.zarr/")
"""The same of what is taken over of another run's references."""
ADAPTER = ("model.safetensors", "config.json")
"""The same of a checkpoint, without what only its training needs."""
Purpose = Literal["work", "read", "look"]
"""To read or look, nothing is put up, and somebody else may be at work there. Who looks takes what there is."""
Named = TypeVar("Named", Path, Path | None)
Stamp = tuple[int, int]
"""Bytes and time (nanoseconds) of a file of the working copy."""


@contextmanager
def at_hand(run: Named, *, only: Collection[str] = (), purpose: Purpose = "work") -> Iterator[Named]:
    """A run folder on this machine: itself, or the working copy of one in a storage, held until the command ends.

    Args:
        run: what the user named, if anything.
        only: what the names of files begin with that the command needs; else it needs all.
        purpose: what it is wanted for.

    Yields:
        The folder, or ``None`` as it came.

    Raises:
        ConfigError: the storage cannot be used, or somebody else works there.
    """
    url = url_of(run)
    if url is None:
        if re.match(r"\w+::", str(run)):
            raise ConfigError(f"{run}: a chain of URLs is no run folder; give the last one alone")
        yield run
        return
    if url.startswith("file:"):
        yield Path("/", url.removeprefix("file://"))
        return
    if ".." in Path(url).parts:
        raise ConfigError(f"{url}: it must not lead upwards; leave out ..")
    with ExitStack() as stack:
        with _said(url):
            remote = Remote(url)
            is_ours = remote.copy_is_ours(stack)
        if not is_ours:
            if purpose != "look":
                raise ConfigError(f"{remote.url} is in use by another command on this machine; wait for it")
            yield remote.copy  # as that command has it
            return
        with _said(url):
            if purpose == "work":
                remote.hold(stack)
            remote.look()
            remote.fetch(lambda name: not only or name.startswith(tuple(only)))
        HELD[remote.copy] = remote
        stack.callback(HELD.pop, remote.copy)
        try:
            yield remote.copy
        finally:
            with _said(url):
                if purpose == "work":
                    remote.put_up()
                remote.note()


def fetched(checkpoint: Path) -> Path:
    """The folder of a checkpoint on this machine, and a copy of what is loaded of it where it lies in a storage.

    Args:
        checkpoint: the folder or its ``model.safetensors``.

    Raises:
        ConfigError: the storage cannot be used.
    """
    folder = checkpoint.parent if checkpoint.name == ADAPTER[0] else checkpoint
    with at_hand(folder, only=ADAPTER, purpose="read") as here:
        return here


@contextmanager
def _said(url: str) -> Iterator[None]:
    """Say in one line what a storage says.

    Raises:
        ConfigError: it fails.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # each storage of fsspec has errors of its own
        reason = f"the storage cannot be used ({one_line(error)})"
        raise ConfigError(f"{url}: {reason}; what is up there stays: run the same command again to go on") from error


class Remote:
    """A run folder in a storage, and its working copy.

    Args:
        url: of the folder.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self.files, self.folder = url_to_fs(url)
        self.copy = copy_of(url)
        self.lease: Lease | None = None
        self.there: dict[str, str] = {}
        """What the storage holds: a version of each file."""
        self.known: dict[str, tuple[str | None, Stamp]] = {}
        """What the working copy holds of it; no version where this command has put it up."""
        self.logged = time.monotonic()

    def copy_is_ours(self, stack: ExitStack) -> bool:
        """Hold the working copy, if no other process of this machine does."""
        self.copy.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.copy.with_name(f".{self.copy.name}.lock"))
        try:
            stack.enter_context(lock.acquire(timeout=WAIT_SECONDS))
        except Timeout:
            return False
        return True

    def hold(self, stack: ExitStack) -> None:
        """Hold the folder in the storage.

        Raises:
            ConfigError: somebody else does.
        """
        own_id = self.copy / OWN_ID
        if not own_id.exists():
            own_id.write_text(uuid.uuid4().hex, encoding="utf-8")
        self.lease = Lease(self.files, self.folder, own_id.read_text(encoding="utf-8"))
        self.lease.acquire()
        stack.callback(self._give_back, self.lease)

    def _give_back(self, lease: Lease) -> None:
        with _said(self.url):
            lease.release()

    def look(self) -> None:
        """See what the storage holds, and drop what the working copy has of anything else."""
        self._list()
        with suppress(FileNotFoundError, ValueError):  # of what a power cut has damaged nothing is known
            found = json.loads((self.copy / KNOWN).read_text(encoding="utf-8"))
            self.known = {name: (version, (size, changed)) for name, (version, size, changed) in found.items()}
        local = self._local()
        same = {name for name, stamp in local.items() if self.known.get(name) == (self.there.get(name), stamp)}
        self.known = {name: self.known[name] for name in same}
        for name in local.keys() - same:
            (self.copy / name).unlink()  # not written to: a borrower's folder may hold a link to it

    def _list(self) -> None:
        self.files.invalidate_cache()
        found = self.files.find(self.folder, detail=True)
        below = f"{self.folder}/"
        self.there = {path.removeprefix(below): _version(facts) for path, facts in found.items() if path != below}
        if any(".." in Path(name).parts for name in self.there):
            raise ConfigError(f"{self.url}: a name in there leads out of the folder; rename it")

    def fetch(self, wanted: Callable[[str], bool]) -> None:
        """Get the files that are wanted and are not here."""
        names = [name for name in self.there if name not in self.known and _goes_up(name) and wanted(name)]
        if names:
            with _said(self.url):
                self.files.get([f"{self.folder}/{name}" for name in names], [str(self.copy / name) for name in names])
        for name in names:
            self.known[name] = self.there[name], _stamp(self.copy / name)

    def lend(self, stage: Stage, needed: Sequence[str], shards: Collection[int]) -> None:
        """Get what a stage reads of earlier stages for some shards, and its own arrays' metadata."""
        stores = {stage_named(name).store for name in needed}
        stores |= {stage_named("references").store} if stage.scope == "shard" else set()
        arrays = tuple(f"{store}/" for store in stores if store)
        own, chosen = f"{stage.store}/", set(shards)

        def reads(name: str) -> bool:
            if name.endswith("/zarr.json"):
                return name.startswith((*arrays, own))
            if not name.startswith((*arrays, "fits/")):
                return False
            return stage.scope == "run" or _shard_of(name) in chosen

        self.fetch(reads)

    def put_up(self) -> None:
        """Put up all that is new here, and take away what is here no more."""
        local = self._local()
        self._remove(sorted((name for name in self.known if name not in local), key=_rank, reverse=True))
        new = [name for name, stamp in local.items() if self.known.get(name, (None, None))[1] != stamp]
        for rank in sorted(set(map(_rank, new))):
            self._put([name for name in new if _rank(name) == rank])

    def remove(self, folder: str) -> None:
        """Take away what the storage holds of a folder, whether or not it is here."""
        self._remove([name for name in self.there if name.startswith(f"{folder}/")])

    @contextmanager
    def following(self, on_report: Callable[[ShardReport], None]) -> Iterator[Callable[[ShardReport], None]]:
        """Put up what each shard has made when it is reported, beside the work.

        Yields:
            What reports are told to; it tells them on.
        """
        flying: list[Future[None]] = []
        with ThreadPoolExecutor(AT_ONCE) as threads:

            def put_and_tell(report: ShardReport) -> None:
                for one in [one for one in flying if one.done()]:
                    flying.remove(one)
                    one.result()
                if not report.error and not report.damaged:
                    flying.append(threads.submit(self.put_shard, report.stage, report.shard))
                on_report(report)

            yield put_and_tell
            for one in flying:
                one.result()

    def put_shard(self, stage: str, shard: int) -> None:
        """Put up what a finished shard has made, its outcomes last; of training, its checkpoint."""
        found = stage_named(stage)
        if found.scope == "run":
            self._put([name for name in self._local() if name.startswith("checkpoint/")])
            return
        made = [self.copy / "fits" / f"{shard:05d}.safetensors"] if stage == "fits" else []
        for array in (self.copy / found.store).glob("*/") if found.store else ():
            made += [array / f"c.{shard}{'.0' * dimensions}" for dimensions in (2, 3)]
        names = [path.relative_to(self.copy).as_posix() for path in made]
        self._remove([name for name in names if name in self.there and not (self.copy / name).exists()])
        self._put([name for name in names if (self.copy / name).exists()])
        self._put([items_path(self.copy, stage, shard).relative_to(self.copy).as_posix()])
        if time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            self._put([logbook.NAME])

    def note(self) -> None:
        """Write down which versions the working copy holds."""
        self._list()
        self.known = {name: (version or self.there.get(name), stamp) for name, (version, stamp) in self.known.items()}
        facts = {name: (version, *stamp) for name, (version, stamp) in self.known.items()}
        with replacing(self.copy / KNOWN) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")

    def _put(self, names: Sequence[str]) -> None:
        if not names:
            return
        self._check_lease()
        stamps = {name: _stamp(self.copy / name) for name in names}  # before: what changes meanwhile goes up again
        with _said(self.url):
            self.files.put([str(self.copy / name) for name in names], [f"{self.folder}/{name}" for name in names])
        self.known |= {name: (None, stamp) for name, stamp in stamps.items()}

    def _remove(self, names: Sequence[str]) -> None:
        if names:
            self._check_lease()
        for name in names:
            with _said(self.url):
                if self.files.exists(f"{self.folder}/{name}"):
                    self.files.rm_file(f"{self.folder}/{name}")
            self.known.pop(name, None)
            self.there.pop(name, None)

    def _check_lease(self) -> None:
        if self.lease:
            with _said(self.url):
                self.lease.check()

    def _local(self) -> dict[str, Stamp]:
        paths = (path for path in self.copy.rglob("*") if path.is_file())
        found = {path.relative_to(self.copy).as_posix(): path for path in paths}
        return {name: _stamp(path) for name, path in found.items() if _goes_up(name)}


HELD: dict[Path, Remote] = {}
"""The working copies of this command."""


def _goes_up(name: str) -> bool:
    """Whether a file is a run's, and not of somebody who is at work on it."""
    return not name.endswith((".lock", ".trying")) and not any(part.startswith(".") for part in Path(name).parts)


def _rank(name: str) -> int:
    """What goes up first: arrays, then the outcomes that say that they are finished, then what is made of them."""
    return 0 if STORES.match(name) else 1 if name.startswith("items/") else 2


def _shard_of(name: str) -> int:
    """The shard of an array's file, ``c.12.0.0``, or of one that is called by its number."""
    parts = name.rpartition("/")[2].split(".")
    number = parts[1] if parts[0] == "c" else parts[0]
    return int(number) if number.isdecimal() else -1


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _version(facts: dict[str, Any]) -> str:
    """What differs when a file of a storage was written anew."""
    times = [facts.get(name) for name in ("LastModified", "mtime", "updated", "created")]
    return str(facts.get("ETag") or (facts.get("size"), *times))
