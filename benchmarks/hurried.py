"""Commands and workers that start in no time: forks of processes that have imported torch already.

What they do, how they are started again and how they die is what it always is.
``python -m benchmarks.hurried MODULE …`` is ``python -m MODULE …`` for a program that starts workers.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path

import dask
from distributed.utils import get_mp_context

HEAVY = ("distributed", "s3pot_batch.stages.references", "s3pot_batch.stages.decoded", "benchmarks.standins")


def main(words: Sequence[str]) -> None:
    """Run a module by its name, with the arguments that come after it."""
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context()  # type: ignore[no-untyped-call]  # it has a list of its own, once
    multiprocessing.set_forkserver_preload(list(HEAVY))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell, it is ignored from birth
    sys.argv = list(words)
    runpy.run_module(sys.argv[0], run_name="__main__")


def forked(words: Sequence[str], environment: Mapping[str, str], errors: Path, quota: int | None = None) -> ForkProcess:
    """Start a module as a program of its own, by a fork of this process.

    Args:
        words: its name and arguments.
        environment: what it is to find.
        errors: where its standard error goes; its standard output goes nowhere.
        quota: the most bytes that a file of it may have, as if the disk were full then.
    """
    process = multiprocessing.get_context("fork").Process(target=_forked, args=(words, environment, errors, quota))
    process.start()
    return process


def _forked(words: Sequence[str], environment: Mapping[str, str], errors: Path, quota: int | None) -> None:
    os.setsid()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, target in enumerate((nowhere, nowhere, said)):
        os.dup2(target, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
    if quota is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
    main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
