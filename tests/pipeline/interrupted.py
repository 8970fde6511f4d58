"""Programs to be interrupted: ``python -m tests.pipeline.interrupted RUN serial|dask`` on toy shards, and commands."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from s3pot_batch.pipeline.cli import main as command_line
from s3pot_batch.pipeline.cli.common import clear_errors
from s3pot_batch.pipeline.runner import run_serial
from tests.pipeline import toy_stage
from tests.pipeline.toy_stage import CONTEXT, PLACES, tasks

WITHOUT_TORCH = replace(CONTEXT, device="cuda:0")
"""A device named in full is taken as it is; only for a CPU's threads would torch be loaded, which takes seconds."""


def main(run: Path, how: str) -> None:
    with clear_errors():
        if how == "serial":
            run_serial(toy_stage.waits, tasks(run), WITHOUT_TORCH, print)
        else:
            from s3pot_batch.pipeline.scheduling import dask_runner

            with dask_runner(PLACES) as run_dask:
                run_dask(toy_stage.waits, tasks(run), CONTEXT, print)


def command(folder: Path, *words: str) -> None:
    """The command line in a process and a process group of its own, in a folder, where ``stderr`` is what it says."""
    os.setsid()
    os.chdir(folder)
    with (folder / "stderr").open("w") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    sys.argv = ["s3pot-batch", *words]
    interruptible()
    command_line()


def interruptible() -> None:
    """Ctrl-C is heard, as in a terminal: in the background of a shell, and by workers, it is ignored from birth."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


if __name__ == "__main__":
    interruptible()
    main(Path(sys.argv[1]), sys.argv[2])
