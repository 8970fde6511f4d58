"""Somebody else's Dask cluster, as ``--scheduler`` finds it: programs of their own on this machine."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SECONDS = 120
"""How long its scheduler may take to start."""


@dataclass
class Elsewhere:
    """A scheduler program and some worker programs, of one thread each."""

    folder: Path
    """Where the scheduler says its address."""
    environment: Mapping[str, str]
    nannies: bool = True
    """Whether a worker program watches over its worker, and starts another when it dies."""
    through: str | None = None
    """A module that runs the workers' programs."""
    programs: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    """The scheduler, then the workers' programs."""

    def start(self, *words: str) -> None:
        """Start a program of Dask's that joins in."""
        shown = ("--scheduler-file", str(self.folder / "scheduler.json"), "--no-dashboard")
        command = [sys.executable, "-m", *words, *shown]
        self.programs.append(
            subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        )

    def start_worker(self) -> None:
        """Start one more worker."""
        options = ("--nthreads", "1", "--nanny" if self.nannies else "--no-nanny", "--memory-limit", "0")
        through = (self.through,) if self.through else ()
        self.start(*through, "distributed.cli.dask_worker", *options, "--local-directory", str(self.folder))

    @property
    def address(self) -> str:
        """The scheduler's.

        Raises:
            TimeoutError: it does not say it.
        """
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError, KeyError):
                return str(json.loads((self.folder / "scheduler.json").read_text())["address"])
            time.sleep(0.1)
        raise TimeoutError("the scheduler does not start")

    def restart(self, workers: int) -> None:
        """Kill what is left, and start all of it again."""
        self.end()
        (self.folder / "scheduler.json").unlink(missing_ok=True)
        self.start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(workers):
            self.start_worker()

    def end(self) -> None:
        """Kill every program, with what it has started."""
        for program in self.programs:
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(program.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            program.kill()
            program.wait()
        self.programs.clear()


@contextmanager
def elsewhere(
    folder: Path, environment: Mapping[str, str], workers: int = 1, *, nannies: bool = True, through: str | None = None
) -> Iterator[Elsewhere]:
    """A cluster that is killed in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Elsewhere(folder, environment, nannies, through)
    try:
        cluster.restart(workers)
        yield cluster
    finally:
        cluster.end()
