"""Running shards one after the other, and what every scheduler does around one shard."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from s3pot_batch.manifests.errors import DamagedOutcomes, ManifestError
from s3pot_batch.pipeline.devices import resolve, settle_threads
from s3pot_batch.stages.base import RunShard, ShardReport, ShardTask, StageContext
from s3pot_batch.stages.errors import ConfigError, DamagedData, DeviceLost, RetryableError, ShardError

MAX_TRIES = 4
"""Of a shard that fails with one face at once, too: what takes a device's memory may go away."""
FITTING: dict[str, int] = {}
"""The largest batch that a stage may fill in this process, since it ran out of memory with a larger one."""

OnReport = Callable[[ShardReport], None]
Runner = Callable[[RunShard, Sequence[ShardTask], StageContext, OnReport], list[ShardReport]]
"""What :func:`run_serial` is: tasks in, their reports out in the same order, and each told of as it comes."""
log = logging.getLogger(__name__)


def run_serial(
    run_shard: RunShard, tasks: Sequence[ShardTask], context: StageContext, on_report: OnReport
) -> list[ShardReport]:
    """Run all shards in this process.

    Args:
        run_shard: the stage.
        tasks: the shards to run.
        context: what they share; the batch size is a first try.
        on_report: called with each report as it comes.

    Returns:
        The reports in the order of ``tasks``.

    Raises:
        ConfigError: from the stage; no shard could do better.
        DeviceLost: the device of this process fails.
        KeyboardInterrupt: Ctrl-C, also where something within the shard swallowed it.
    """
    reports = []
    with _heard() as interrupted:
        for task in tasks:
            report = attempt(run_shard, task, context)
            if interrupted:  # some libraries drop what is raised while they are imported, or make another error of it
                raise KeyboardInterrupt
            reports.append(report)
            on_report(report)
    return reports


@contextmanager
def _heard() -> Iterator[list[int]]:
    """Gets an entry for each Ctrl-C, which is raised as ever; signals belong to a process's first thread."""
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


def attempt(run_shard: RunShard, task: ShardTask, context: StageContext) -> ShardReport:
    """Run one shard: half the batch after a :class:`RetryableError`, a report with an error after any other.

    A batch that was halved stays so for the stage's later shards in this process, which would fill memory again.

    Raises:
        ConfigError: from the stage; no shard could do better.
        DeviceLost: this process cannot use its device any more.
    """
    context = replace(context, device=resolve(context.device))
    settle_threads(context.device)
    try:
        return _with_retries(run_shard, task, context)
    except ConfigError:
        raise
    except (ShardError, RetryableError, ManifestError, OSError) as error:
        log.error("%s, shard %d: %s", task.stage, task.shard, error)  # noqa: TRY400  (known: no traceback)
        return failure(task, error)
    except Exception as error:  # the boundary: one broken shard must not stop the others
        if _device_failed(error):
            reason = str(error).strip().splitlines()[0]
            raise DeviceLost(f"the device failed ({reason}); run the same command again to go on") from error
        log.exception("%s, shard %d: unexpected error", task.stage, task.shard)
        return failure(task, error)


def _device_failed(error: Exception) -> bool:
    """Whether it is torch's own error of a device; whoever raises that has loaded torch, which takes seconds."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.AcceleratorError)


def _with_retries(run_shard: RunShard, task: ShardTask, context: StageContext) -> ShardReport:
    tries = 0
    while True:
        batch = min(context.batch_size, FITTING.get(task.stage, context.batch_size))
        tries += 1
        try:
            return run_shard(task, replace(context, batch_size=batch))
        except RetryableError as error:
            if batch == 1 and tries >= MAX_TRIES:
                raise
            FITTING[task.stage] = max(1, batch // 2)
            log.warning("%s, shard %d: %s; again with a batch of %d", task.stage, task.shard, error,
                        FITTING[task.stage])  # fmt: skip


def failure(task: ShardTask, error: BaseException) -> ShardReport:
    """The report of a shard that did not come through: the kind of error and its first line."""
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    damaged = (error.stage, error.shard) if isinstance(error, DamagedData | DamagedOutcomes) else None
    return ShardReport(task.stage, task.shard, error=f"{type(error).__name__}: {reason}", damaged=damaged)
