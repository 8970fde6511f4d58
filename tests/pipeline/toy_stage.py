"""Toy stages that a worker process can import, and what they are given. None of it loads torch."""

import gc
import os
import signal
import time
from pathlib import Path

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import replacing
from s3pot_batch.pipeline.devices import Place
from s3pot_batch.stages.attempts import Attempts
from s3pot_batch.stages.base import ShardReport, ShardTask, StageContext
from s3pot_batch.stages.errors import ConfigError, RetryableError, ShardError
from s3pot_batch.stages.models.profiles import PartSpec, Profile
from s3pot_batch.stages.settings import Settings

TOY = PartSpec("toy")
PROFILE = Profile("toy", TOY, TOY, TOY, TOY, TOY)
CONTEXT = StageContext(Path(), PROFILE, Settings(), fingerprint="f", device="cpu", batch_size=8)
PLACES = tuple(Place("cpu", (("CUDA_VISIBLE_DEVICES", card), ("OMP_NUM_THREADS", "1"))) for card in ("", ""))


def tasks(run: Path, count: int = 3, stage: str = "toy") -> list[ShardTask]:
    return [ShardTask(stage, run, shard) for shard in range(count)]


def report(task: ShardTask, items: int = 2) -> ShardReport:
    return ShardReport(task.stage, task.shard, items=items, ok=items)


def works(task: ShardTask, context: StageContext) -> ShardReport:
    assert context.device == "cpu"
    return report(task)


def tells_photos(task: ShardTask, context: StageContext) -> ShardReport:
    return ShardReport(task.stage, task.shard, error=" ".join(item.image_id for item in task.items))


def tells_garbage(task: ShardTask, context: StageContext) -> ShardReport:
    """Whether garbage is collected, and how many thousands of objects are left alone."""
    return ShardReport(task.stage, task.shard, items=gc.get_freeze_count() // 1000, error=str(gc.isenabled()))


def second_fails(task: ShardTask, context: StageContext) -> ShardReport:
    if task.shard == 1:
        raise ShardError("the array is gone")
    return report(task)


def second_lacks_a_file(task: ShardTask, context: StageContext) -> ShardReport:
    if task.shard == 1:
        raise ManifestError("shard 1 of references is not finished")
    return report(task)


def second_breaks(task: ShardTask, context: StageContext) -> ShardReport:
    if task.shard == 1:
        raise ZeroDivisionError("first line\nsecond line")
    return report(task)


def only_small_batches(task: ShardTask, context: StageContext) -> ShardReport:
    with (task.run / "tries").open("a") as file:
        file.write(f"{os.getpid()} {context.batch_size}\n")
    if context.batch_size > 2:
        raise RetryableError("out of memory")
    return report(task, items=context.batch_size)


def tells_batch(task: ShardTask, context: StageContext) -> ShardReport:
    return report(task, items=context.batch_size)


def never_fits(task: ShardTask, context: StageContext) -> ShardReport:
    with (task.run / f"tries-{task.shard}").open("a") as file:
        file.write(f"{context.batch_size}\n")
    raise RetryableError("out of memory")


def misconfigured(task: ShardTask, context: StageContext) -> ShardReport:
    raise ConfigError("the weights are missing; pull them")


def second_kills_its_worker(task: ShardTask, context: StageContext) -> ShardReport:
    if task.shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return report(task)


def dies_at_the_second_photo(task: ShardTask, context: StageContext) -> ShardReport:
    with Attempts(task.run / f"{task.shard}.trying") as attempts:
        left = [photo for photo in range(4) if photo not in attempts.left_alone]
        for photo in sorted(left, key=attempts.suspects.__contains__):
            attempts.begin(photo)
            if photo == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            attempts.came_through(photo)
    return report(task, items=len(left))


def loses_its_device_once(task: ShardTask, context: StageContext) -> ShardReport:
    import torch

    if task.shard == 1 and not (task.run / "lost").exists():
        (task.run / "lost").touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore of it")
    return report(task)


def waits(task: ShardTask, context: StageContext) -> ShardReport:
    with replacing(task.run / f"started-{task.shard}") as path:
        path.write_text(repr(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    time.sleep(60)
    return report(task)


def swallows_ctrl_c(task: ShardTask, context: StageContext) -> ShardReport:
    """As a library may while it is imported: nobody hears of it, or it is another error."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        if task.shard:
            raise ImportError("cannot import name x") from None
    return report(task)


def works_once(task: ShardTask, context: StageContext) -> ShardReport:
    if task.shard:
        time.sleep(60)
    return report(task)


def tells_torch_threads(task: ShardTask, context: StageContext) -> ShardReport:
    import torch

    return report(task, items=torch.get_num_threads())


TASKS: list[int] = []
"""Of this process: what stays in memory from task to task, as models do."""


def tells_process(task: ShardTask, context: StageContext) -> ShardReport:
    TASKS.append(task.shard)
    return ShardReport(task.stage, task.shard, items=len(TASKS), error=str(os.getpid()))


def tells_environment(task: ShardTask, context: StageContext) -> ShardReport:
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    return ShardReport(task.stage, task.shard, error=" ".join(os.environ.get(name, "?") for name in names))
