"""Training on several devices: ``torchrun --nproc-per-node 4 -m -- s3pot_batch train …`` starts a process for each."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from s3pot_batch.pipeline.copies import url_of
from s3pot_batch.pipeline.devices import resolve, settle_threads
from s3pot_batch.pipeline.job import open_job, work
from s3pot_batch.pipeline.options import Options
from s3pot_batch.pipeline.report.summary import Summary
from s3pot_batch.stages.base import ShardTask, stage_named
from s3pot_batch.stages.errors import ConfigError

LONG = timedelta(days=30)
"""How long the others wait for what comes before the training, and for each other."""


def launched() -> bool:
    """Whether this process is one of several that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def check_seen_by_all(*folders: Path | None) -> None:
    """Make sure that processes started by torchrun have their run folders in common.

    Raises:
        ConfigError: one of them is a URL, of which a process by itself would make a working copy.
    """
    for folder in folders:
        if launched() and (url := url_of(folder)):
            raise ConfigError(f"{url}: torchrun's processes share no URL; give a folder, or train with one process")


def train_together(options: Options) -> Summary | None:
    """Train one adapter with all processes; each sees its part of every batch, and the answer is that of one.

    Args:
        options: the same for all of them, on one run folder that all can read.

    Returns:
        What the first process has to say; the others keep quiet.
    """
    from torch import distributed

    distributed.init_process_group("gloo", timeout=LONG)
    try:
        first = distributed.get_rank() == 0
        if first:
            work(open_job(options, "tokens"))
        distributed.barrier()
        job, stage = open_job(replace(options, workers=0), "train"), stage_named("train")
        pending = [bool(job.pending(stage))]
        distributed.broadcast_object_list(pending)  # or some would find it done, and others begin
        if first:
            return work(job)
        if pending[0]:
            number = os.environ.get("LOCAL_RANK", "0")
            device = resolve(options.device)
            device = f"cuda:{number}" if device.startswith("cuda") else device
            settle_threads(device)
            context = job.config.context("train", job.run, device=device, batch_size=options.batch_size)
            stage.module.work(ShardTask("train", job.run.absolute(), 0), context)
        return None
    finally:
        distributed.destroy_process_group()
