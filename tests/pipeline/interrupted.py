"""A program that works on shards until it is interrupted: ``python -m tests.pipeline.interrupted RUN serial|dask``."""

import signal
import sys
from pathlib import Path

from s3pot_batch.pipeline.cli.common import clear_errors
from s3pot_batch.pipeline.runner import run_serial
from tests.pipeline import toy_stage
from tests.pipeline.test_running import CONTEXT, PLACES, tasks


def main(run: Path, how: str) -> None:
    with clear_errors():
        if how == "serial":
            run_serial(toy_stage.waits, tasks(run), CONTEXT, print)
        else:
            from s3pot_batch.pipeline.scheduling import dask_runner

            with dask_runner(PLACES) as run_dask:
                run_dask(toy_stage.waits, tasks(run), CONTEXT, print)


if __name__ == "__main__":
    # In the background of a shell, SIGINT is ignored from birth; this program is there to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]), sys.argv[2])
