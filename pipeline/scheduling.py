"""Running shards on Dask: a cluster of local processes, or a scheduler that is already there.

The only module that imports Dask. Tasks with their photos' names, and reports, cross the wire: a few kilobytes a shard.
"""

# mypy: allow-untyped-calls
# (distributed annotates itself in part only)

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker

import dask
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, as_completed

from s3pot_batch.pipeline.devices import Place
from s3pot_batch.pipeline.runner import OnReport, Runner, attempt, failure
from s3pot_batch.stages.base import RunShard, ShardReport, ShardTask, StageContext
from s3pot_batch.stages.errors import ConfigError, DeviceLost, ShardError

CONNECT_SECONDS = 30
DEVICE_LOST = 75
"""Exit code of a worker whose device fails."""
log = logging.getLogger(__name__)
FAILURES = 9
"""Workers that a shard may kill, before it is given up; a photo that kills them is left alone after three."""
LOCAL_CPU = (Place("cpu"), Place("cpu"))


@contextmanager
def dask_runner(places: Sequence[Place] = LOCAL_CPU, address: str | None = None) -> Iterator[Runner]:
    """Workers that stay for as long as the runner is in use, and so do the models that they have loaded.

    Args:
        places: the local worker processes, without ``address``.
        address: a running scheduler, ``tcp://host:port``.

    Yields:
        The same contract as :func:`s3pot_batch.pipeline.runner.run_serial`. A shard whose worker died more often than
        ``distributed.scheduler.allowed-failures`` gets a report with an error.

    Raises:
        ConfigError: no scheduler answers at ``address``.
    """
    with _client(places, address) as client:

        def run(
            run_shard: RunShard, tasks: Sequence[ShardTask], context: StageContext, on_report: OnReport
        ) -> list[ShardReport]:
            return _run(client, run_shard, tasks, context, on_report)

        yield run


def _run(
    client: Client, run_shard: RunShard, tasks: Sequence[ShardTask], context: StageContext, on_report: OnReport
) -> list[ShardReport]:
    """Run all shards.

    As many are in flight as there are worker threads. More would be put on workers ahead of time, and then a shard that
    kills its worker would take its neighbours' retries with it; tasks are too small for a head start to be worth that.
    """
    done: dict[int, ShardReport] = {}
    waiting = iter(range(len(tasks)))
    flying: dict[Future[ShardReport], tuple[int, ShardTask]] = {}
    queue = as_completed(loop=client.loop)
    while len(done) < len(tasks):
        threads = sum(client.nthreads().values())
        for number in islice(waiting, max(0, max(1, threads) - len(flying))):
            task = tasks[number]
            future = client.submit(attempt_or_leave, run_shard, task, context, pure=False)
            flying[future] = number, task
            queue.add(future)
        future = next(queue)
        number, task = flying.pop(future)
        done[number] = _outcome(future, task)
        on_report(done[number])
    return [done[number] for number in range(len(tasks))]


def attempt_or_leave(run_shard: RunShard, task: ShardTask, context: StageContext) -> ShardReport:
    """:func:`attempt` in a worker, which ends where its device is lost: its nanny starts another, with a fresh one."""
    try:
        return attempt(run_shard, task, context)
    except DeviceLost as error:
        log.error("%s, shard %d: %s; this worker ends", task.stage, task.shard, error)  # noqa: TRY400
        os._exit(DEVICE_LOST)


def _outcome(future: Future[ShardReport], task: ShardTask) -> ShardReport:
    if future.status == "finished":
        report: ShardReport = future.result()
        return report
    error = future.exception() if future.status == "error" else ShardError("the scheduler lost it")
    if isinstance(error, ConfigError):
        raise error
    return failure(task, error)


@contextmanager
def _client(places: Sequence[Place], address: str | None) -> Iterator[Client]:
    if address:
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
        with _interrupts_later():
            cluster = stack.enter_context(_local_cluster(places))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(len(places))
        yield client


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


def _local_cluster(places: Sequence[Place]) -> SpecCluster:
    """One process per place. A worker has one thread for shards; its libraries share out the cores."""
    threads = dict(places[0].environment).get("OMP_NUM_THREADS", "1")
    # Thread counts are read when a library loads, which is before a worker's own environment applies. The whole table
    # is replaced: Dask's own also holds MALLOC_TRIM_THRESHOLD_, with which glibc maps and unmaps larger tensors.
    dask.config.set({"distributed.scheduler.allowed-failures": FAILURES})
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    dask.config.set({"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads)})
    # Logs are silenced because a worker's death ends in a report, and its shut-down interests nobody.
    address = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    workers = {
        number: {
            "cls": Nanny,
            "options": {
                **address,
                "nthreads": 1,
                "env": dict(place.environment),
                # Models are no memory that Dask could spill: a limit would only kill workers that still work.
                "memory_limit": 0,
                "silence_logs": logging.CRITICAL,
            },
        }
        for number, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {**address, "port": 0}}
    return SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL, name="s3pot-batch")
