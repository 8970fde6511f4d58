"""Running shards on Dask: a cluster of local processes, or a scheduler that is already there.

The only module that imports Dask. Tasks with their photos' names, and reports, cross the wire: some kilobytes a shard.
Whoever can reach a Dask process can make it run any code, and on a shared machine everybody can reach a port of it. So
a command and its own workers know each other by a certificate that is made for the command and kept in memory.
"""

# mypy: allow-untyped-calls
# (distributed annotates itself in part only)

import logging
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue

import dask
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster, Status
from distributed.security import Security
from distributed.utils import get_mp_context

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.pipeline.devices import Place
from s3pot_batch.pipeline.runner import OnReport, Runner, attempt, failure
from s3pot_batch.stages.base import RunShard, ShardReport, ShardTask, StageContext
from s3pot_batch.stages.beside import SHARDS
from s3pot_batch.stages.errors import ConfigError, DeviceLost

CONNECT_SECONDS = 30
ALONE_SECONDS = 60
"""How long a command waits for a worker of somebody's scheduler when all have gone."""
OWN_SECONDS = 600
"""The same of its own, which come back by themselves: a shard that kills each at once leaves few to be seen."""
WATCH_SECONDS = 5
"""How often it looks, while no shard ends."""
AT_ONCE = 16
"""Reports that are fetched at once."""
COUNT_SECONDS = 1
"""How often it counts them, while shards end."""
CLOSE_SECONDS = 2
"""How long a worker may take to end: one that is still at a shard then was interrupted, and the shard is done again."""
DEVICE_LOST = 75
"""Exit code of a worker whose device fails."""
log = logging.getLogger(__name__)
FAILURES = 15
"""Workers that a shard may kill, before it is given up; a photo that kills them is left alone after five."""
FORKING = "s3pot_batch.pipeline.forking"
"""What the process that workers are forked from imports first."""
QUIET = {
    "distributed.worker.profile.enabled": False,  # 100 looks a second at what each worker does, which nobody asks for
    "distributed.admin.tick.interval": "500ms",  # and 50 a second whether each process still looks
    "distributed.admin.system-monitor.interval": "60s",  # this process counted its open files for every worker
}
"""What else Dask does for every worker, in its process and in this one; of 32 that were idle it took a whole core."""
LOCAL_CPU = (Place("cpu"), Place("cpu"))


@contextmanager
def dask_runner(
    places: Sequence[Place] = LOCAL_CPU, address: str | None = None, *, imports: Sequence[str] = ()
) -> Iterator[Runner]:
    """Workers that stay for as long as the runner is in use, and so do the models that they have loaded.

    Args:
        places: the local worker processes, without ``address``.
        address: a running scheduler, ``tcp://host:port``.
        imports: modules that every local worker will need and that are slow to import.

    Yields:
        The same contract as :func:`s3pot_batch.pipeline.runner.run_serial`. A shard whose worker died more often than
        ``FAILURES`` gets a report with an error.

    Raises:
        ConfigError: no scheduler answers at ``address``, it went away, or all workers did and none came back.
    """
    with _client(places, address, imports) as client:

        def run(
            run_shard: RunShard, tasks: Sequence[ShardTask], context: StageContext, on_report: OnReport
        ) -> list[ShardReport]:
            if address:
                staff = _Staff(client, f"--scheduler {address}", ALONE_SECONDS)
            else:
                staff = _Staff(client, "the worker processes", OWN_SECONDS)
            return _run(staff, run_shard, tasks, context, on_report)

        yield run


class _Staff:
    """The workers as the command sees them during one stage, which waits for nobody for ever.

    Args:
        client: of their scheduler.
        name: what an error calls them.
        patience: seconds without any of them, before the command gives up.
    """

    def __init__(self, client: Client, name: str, patience: float) -> None:
        self.client = client
        self.name = name
        self.patience = patience
        self.seen = time.monotonic()
        self.ended = SimpleQueue[Future[ShardReport]]()
        self._threads, self._counted = 0, -math.inf

    def threads(self) -> int:
        """How many shards they can do at once, as of a second ago at most; 0 for a while after all of them have gone.

        Raises:
            ConfigError: nobody has been there for too long, or the scheduler has gone, and with it what it was given.
        """
        if time.monotonic() - self._counted < COUNT_SECONDS:
            return self._threads
        try:
            self._threads = sum(self.client.nthreads().values())
        except OSError:  # the connection broke just now
            raise self.scheduler_gone() from None
        if self.client.status != "running":
            raise self.scheduler_gone()
        self._counted = time.monotonic()
        if self._threads:
            self.seen = self._counted
        elif self._counted - self.seen > self.patience:
            raise ConfigError(f"{self.name}: nobody has been there to work for {self.patience} s; {_GO_ON}")
        return self._threads

    def next_ended(self) -> list[Future[ShardReport]]:
        """Wait for the next shards that end."""
        while True:
            try:
                ended = [self.ended.get(timeout=WATCH_SECONDS)]
            except Empty:
                self.threads()
                continue
            with suppress(Empty):
                while True:
                    ended.append(self.ended.get_nowait())
            return ended

    def outcome(self, future: Future[ShardReport], task: ShardTask) -> ShardReport:
        """What came of a shard that has ended.

        Raises:
            ConfigError: from the stage, or the scheduler has gone.
        """
        if future.status == "error":
            error = future.exception()
            if isinstance(error, ConfigError):
                raise error
            return failure(task, error)
        while future.status != "cancelled":
            try:
                report: ShardReport = future.result(timeout=WATCH_SECONDS)
            except TimeoutError:  # its worker died before it could tell: another one looks, and finds it done
                self.threads()
            except CancelledError:
                break
            else:
                return report
        raise self.scheduler_gone()

    def scheduler_gone(self) -> ConfigError:
        """The error that says so."""
        return ConfigError(f"{self.name}: their scheduler has gone; {_GO_ON}")


_GO_ON = "what is done stays: run the same command again to go on"


def _run(
    staff: _Staff, run_shard: RunShard, tasks: Sequence[ShardTask], context: StageContext, on_report: OnReport
) -> list[ShardReport]:
    """Run all shards.

    As many are in flight as there are worker threads. More would be put on workers ahead of time, and then a shard that
    kills its worker would take its neighbours' retries with it; tasks are too small for a head start to be worth that.
    """
    done: dict[int, ShardReport] = {}
    waiting = iter(range(len(tasks)))
    flying: dict[Future[ShardReport], tuple[int, ShardTask]] = {}
    killed = Counter[int]()

    def give_out(number: int, task: ShardTask) -> None:
        future = staff.client.submit(attempt_or_leave, run_shard, task, context, pure=False)
        flying[future] = number, task
        future.add_done_callback(staff.ended.put)

    def keep_busy() -> None:
        for number in islice(waiting, max(0, max(1, staff.threads()) - len(flying))):
            give_out(number, tasks[number])

    keep_busy()
    with ExitStack() as stack:
        fetching = ThreadPoolExecutor(AT_ONCE)
        stack.callback(fetching.shutdown, wait=False, cancel_futures=True)  # Ctrl-C waits for no report
        while flying:
            ended = {future: flying.pop(future) for future in staff.next_ended()}
            for future in [future for future in ended if _killed(future)]:
                killed[ended[future][0]] += _killed(future)
                if killed[ended[future][0]] <= FAILURES:
                    give_out(*ended.pop(future))
            keep_busy()  # before the reports are fetched, which takes a while where there are many workers
            reports = fetching.map(staff.outcome, ended, [task for _, task in ended.values()])
            for (number, _), report in zip(ended.values(), reports, strict=True):
                done[number] = report
                on_report(report)
    return [done[number] for number in range(len(tasks))]


def _killed(future: "Future[ShardReport]") -> int:
    """How many workers died at a shard before its scheduler gave it up; somebody else's does so sooner than ours."""
    error = future.exception() if future.status == "error" else None
    return int(error.allowed_failures) + 1 if isinstance(error, KilledWorker) else 0


def attempt_or_leave(run_shard: RunShard, task: ShardTask, context: StageContext) -> ShardReport:
    """:func:`attempt` in a worker, which ends where its device is lost: its nanny starts another, with a fresh one."""
    try:
        return attempt(run_shard, task, context)
    except DeviceLost as error:
        log.error("%s, shard %d: %s; this worker ends", task.stage, task.shard, error)  # noqa: TRY400
        os._exit(DEVICE_LOST)


@contextmanager
def _client(places: Sequence[Place], address: str | None, imports: Sequence[str]) -> Iterator[Client]:
    if address:
        for logger in ("distributed", "distributed.client"):  # what it has to say is said in one line here
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--scheduler {address}: no Dask scheduler answers there ({error})") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError as error:
                raise ConfigError(f"--scheduler {address}: it has no workers") from error
            yield client
        return
    with ExitStack() as stack:
        stack.enter_context(_way_to_start(places, imports))
        try:
            with _interrupts_later():
                cluster = stack.enter_context(_local_cluster(places))
        except RuntimeError as error:
            raise ConfigError(f"the worker processes end as soon as they start ({one_line(error)})") from error
        yield stack.enter_context(Client(cluster, timeout=OWN_SECONDS, set_as_default=False))


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits; threads and processes that are started meanwhile never see it.

    A terminal sends it to every process, and a worker would print a traceback. This one ends the workers.
    """
    resource_tracker.ensure_running()  # started later, by the first worker's start, it would let signals in again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _way_to_start(places: Sequence[Place], imports: Sequence[str]) -> Iterator[None]:
    """Workers on a CPU are forked from a process that has imported what all of them need.

    torch, diffusers and facer take ten seconds of a core. So they are paid once, and a worker that takes the place of a
    dead one is there at once. What a library may have begun on a card when it was imported does not survive a fork.
    """
    forked = all(place.device == "cpu" for place in places)
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver" if forked else "spawn"}):
        context = get_mp_context()  # has its own list of what to import, and sets it the first time
        if forked:
            context.set_forkserver_preload([FORKING, "distributed", "torch", *imports])
        yield


class _PatientNanny(Nanny):
    """Starts a worker again that dies while it starts, too, which Dask's own gives up for good, and ends one soon."""

    async def instantiate(self) -> Status:
        """Start the worker process; a few may die."""
        status = await super().instantiate()
        for _ in range(FAILURES - 1):
            if status == Status.running or self.status not in {Status.init, Status.running}:
                break
            status = await super().instantiate()
        return status

    async def kill(self, timeout: float = CLOSE_SECONDS, reason: str = "nanny-kill") -> None:
        """End the worker process, whatever it is at."""
        with suppress(TimeoutError):  # it was killed by then, and takes its time to be gone
            await super().kill(min(timeout, CLOSE_SECONDS), reason)


def _local_cluster(places: Sequence[Place]) -> SpecCluster:
    """One process per place, with one thread for shards, ``SHARDS`` with a card; its libraries share out the cores."""
    threads = dict(places[0].environment).get("OMP_NUM_THREADS", "1")
    # Thread counts are read when a library loads, which is before a worker's own environment applies. The whole table
    # is replaced: Dask's own also holds MALLOC_TRIM_THRESHOLD_, with which glibc maps and unmaps larger tensors.
    dask.config.set({"distributed.scheduler.allowed-failures": FAILURES})
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    dask.config.set({"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads)})
    dask.config.set(QUIET)
    # Web pages that nobody looks at, and that would tell everybody on this machine what is worked on.
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    # Logs are silenced because a worker's death ends in a report, and its shut-down interests nobody.
    security = Security.temporary()
    address = {"host": "127.0.0.1", "protocol": "tls", "security": security,
               "dashboard": False, "dashboard_address": "127.0.0.1:0"}  # fmt: skip
    workers = {
        number: {
            "cls": _PatientNanny,
            "options": {
                **address,
                "nthreads": 1 if place.device == "cpu" else SHARDS,
                "env": dict(place.environment),
                # Models are no memory that Dask could spill: a limit would only kill workers that still work.
                "memory_limit": 0,
                "silence_logs": logging.CRITICAL,
            },
        }
        for number, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {**address, "port": 0}}
    return SpecCluster(workers, scheduler, security=security, silence_logs=logging.CRITICAL, name="s3pot-batch")
