"""Kills at random: whatever dies, the same command goes on, and its answer is that of a run that nobody disturbed.

    python -m benchmarks.chaos --kills 200 --seed 0

The command is the real one, with models that cost nothing. Its driver, its workers, and the programs of a cluster of
somebody else are killed, its device is lost, its memory and its disk are full, its storage hangs.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import typer

from benchmarks.elsewhere import Elsewhere, elsewhere
from benchmarks.hurried import forked
from benchmarks.tidy_run import TidyRun, compare
from s3pot_batch.stages.attempts import HOPELESS

KILLS, WORKERS = 200, 2
SECONDS = (0.1, 1.2)
"""Between two kills."""
WHILE_STARTING = 0.05
"""Share of the kills that come although the command has not begun to work: it takes longer to start than to work."""
PATIENCE = 240
"""Seconds after which a command that nobody disturbs hangs."""
PER_RUN = 40
"""Kills in one run folder, at most: then it is left in peace to end."""
QUOTAS = (0, 1, 50, 300, 1000, 3000, 6000, 12_000, 20_000, 50_000)
"""Bytes of the largest file that a full disk still takes."""
TOKENS = ("device lost", "out of memory", "out of memory while loading")
DEADLY_DEATHS = HOPELESS
"""What the photo that kills its worker costs a run."""


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """All of it."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        names = ("runs", "rows lost", "rows doubled", "rows that differ", "arrays that differ", "shards redone",
                 "shards redone at most", "commands that hung", "commands with a traceback")  # fmt: skip
        figures = ", ".join(f"{name}: {self.found[name]}" for name in names)
        return "\n".join([f"chaos, {self.kills.total()} kills: {kinds}", f"chaos, {figures}", *self.notes])


@dataclass
class Round:
    """One run folder, disturbed until it is done."""

    tidy: TidyRun
    run: Path
    rng: random.Random
    tally: Tally
    most: int
    """Kills that are left."""
    options: tuple[str, ...] = ()
    cluster: Elsewhere | None = None
    allowed: int = 0
    """Shards that the kills may have cost."""

    def disturbed(self, kinds: tuple[str, ...]) -> None:
        """Start the command again and again, and kill at random while it runs."""
        (self.tidy.folder / "chaos" / "log").unlink(missing_ok=True)
        self.allowed = DEADLY_DEATHS
        done = 0
        while done < min(self.most, PER_RUN) and not self.tidy.done(self.run):
            before = self.tidy.logged()
            program = self.start()
            while program.is_alive() and done < min(self.most, PER_RUN):
                time.sleep(self.rng.uniform(*SECONDS))
                starting = self.tidy.logged() == before
                if program.is_alive() and (not starting or self.rng.random() < WHILE_STARTING):
                    done += self.strike(self.rng.choice(kinds), program)
            self.ended(program)
        self.in_peace()

    def in_peace(self) -> None:
        """Let it end."""
        for token in TOKENS:
            (self.tidy.folder / "chaos" / token).unlink(missing_ok=True)
        self.recover()
        for _ in range(2 + DEADLY_DEATHS):
            self.ended(self.start())
            if self.tidy.done(self.run):
                return
        self.tally.notes.append(f"{self.run.name} with {' '.join(self.options)} does not come to an end")

    def start(self, quota: int | None = None) -> ForkProcess:
        """Start the command."""
        options = ("--scheduler", self.cluster.address) if self.cluster else self.options
        return forked(self.tidy.command(self.run, *options), self.tidy.environment, self.errors, quota)

    @property
    def errors(self) -> Path:
        """Where the command's standard error goes."""
        return self.tidy.folder / "errors"

    def ended(self, program: ForkProcess) -> None:
        """Wait for the command to end, and see how."""
        program.join(PATIENCE)
        if program.is_alive():
            self.tally.found["commands that hung"] += 1
            self.tally.notes.append(f"{self.run.name} hung: {self.errors.read_text()[-500:]}")
            program.kill()
            program.join()
        errors = self.errors.read_text(errors="replace") if self.errors.exists() else ""
        if "Traceback" in errors:
            self.tally.found["commands with a traceback"] += 1
            self.tally.notes.append(f"{self.run.name}, exit code {program.exitcode}: {errors[-1500:]}")
        self.recover()

    def recover(self) -> None:
        """Start again what was killed of the cluster elsewhere."""
        if self.cluster and any(program.poll() is not None for program in self.cluster.programs):
            self.cluster.restart(WORKERS)

    def strike(self, kind: str, program: ForkProcess) -> int:
        """One kill, if there is somebody to kill; how many died."""
        if kind in TOKENS:
            token = self.tidy.folder / "chaos" / kind
            if token.exists():
                return 0
            token.touch()
            return self.counted(kind)
        if kind in DRIVER:
            os.kill(program.pid or 0, getattr(signal, kind.split()[1]))
            program.join(30)
            return self.counted(kind, WORKERS)
        if kind in {"scheduler", "nanny"} and self.cluster:
            victim = self.cluster.programs[0 if kind == "scheduler" else self.rng.randint(1, WORKERS)]
            victim.kill()
            victim.wait()
            return self.counted(kind, WORKERS if kind == "scheduler" else 1)
        return self.strike_worker(kind, program)

    def strike_worker(self, kind: str, program: ForkProcess) -> int:
        """The same for one of the workers."""
        workers = self.workers(program)
        if not workers:
            return 0
        worker = self.rng.choice(workers)
        with suppress(psutil.NoSuchProcess):
            if kind == "storage hangs":
                worker.suspend()
                time.sleep(self.rng.uniform(1, 3))
                worker.resume()
                return self.counted(kind, 0)
            worker.kill()
            done = self.counted("worker")
            return done + (self.newborn(program, workers) if kind == "worker at start-up" else 0)
        return 0

    def newborn(self, program: ForkProcess, known: list[psutil.Process]) -> int:
        """Kill the next worker that starts while it does so."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and program.is_alive():
            for worker in self.workers(program):
                if worker not in known:
                    time.sleep(self.rng.uniform(0, 0.6))
                    with suppress(psutil.NoSuchProcess):
                        worker.kill()
                        return self.counted("worker at start-up")
            time.sleep(0.02)
        return 0

    def workers(self, program: ForkProcess) -> list[psutil.Process]:
        """The worker processes: forks of a server that each program which watches over some has."""
        watchers = self.cluster.programs[1:] if self.cluster else [program]
        found: list[psutil.Process] = []
        for watcher in watchers:
            with suppress(psutil.NoSuchProcess):
                for server in psutil.Process(watcher.pid).children():
                    found += server.children()
        return found

    def counted(self, kind: str, shards: int = 1) -> int:
        """Note a kill, and how many shards it may cost."""
        self.tally.kills[kind] += 1
        self.allowed += shards
        return 1

    def full_disk(self) -> None:
        """Start the command on disks that are full sooner or later."""
        (self.tidy.folder / "chaos" / "log").unlink(missing_ok=True)
        self.allowed = DEADLY_DEATHS
        for quota in self.rng.sample(QUOTAS, min(5, len(QUOTAS), self.most)):
            self.ended(self.start(quota))
            self.counted("disk full", 10**6)
        self.in_peace()

    def judged(self, clean: Path) -> None:
        """Hold the run against a clean one."""
        found = self.tally.found
        found["runs"] += 1
        if not self.tidy.done(self.run):
            return
        begun = self.tidy.begun()
        redone = sum(count - 1 for count in begun.values())
        found["shards redone"] += redone
        found["shards redone at most"] += min(self.allowed, redone) if self.allowed >= 10**6 else self.allowed
        if redone > self.allowed:
            self.tally.notes.append(f"{self.run.name}: {redone} shards redone, {self.allowed} allowed; {begun}")
        difference = compare(clean, self.run)
        found["rows lost"] += difference.lost
        found["rows doubled"] += difference.doubled
        found["rows that differ"] += len(difference.rows)
        found["arrays that differ"] += len(difference.arrays)
        if difference.rows or difference.arrays:
            self.tally.notes.append(f"{self.run.name} with {' '.join(self.options)}: {difference}")


DRIVER = ("driver SIGKILL", "driver SIGTERM", "driver SIGINT")
LOCAL = (*(("worker", "worker", "worker at start-up", "storage hangs", *TOKENS) * 4), *DRIVER)
ELSEWHERE = (*(("worker", "worker at start-up") * 5), "nanny", "scheduler", "driver SIGKILL", "storage hangs")

WAYS = (
    ("local", WORKERS),
    ("serial", 0),
    ("disk", 0),
    ("elsewhere", WORKERS),
    ("local", WORKERS),
    ("serial", 0),
    ("disk", WORKERS),
)
"""One after the other: what is done to a run, and its workers."""


def chaos(kills: int = KILLS, seed: int = 0) -> None:
    """Kill so often, and print what came of it."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as place:
        tidy = TidyRun.made(Path(place) / "tidy")
        clean = Round(tidy, Path(place) / "clean", rng, tally, 0, ("--workers", str(WORKERS)))
        clean.in_peace()
        number = 0
        try:
            while (left := kills - tally.kills.total()) > 0:
                number += 1
                one_round(Round(tidy, Path(place) / f"run-{number}", rng, tally, left), number, clean.run)
        finally:
            print(tally.text())


def one_round(disturbed: Round, number: int, clean: Path) -> None:
    """A run in one of the ways that there are, one after the other, and its judgement."""
    with ExitStack() as stack:
        way, workers = WAYS[number % len(WAYS)]
        disturbed.options = ("--workers", str(workers))
        if way == "elsewhere":
            tidy = disturbed.tidy
            disturbed.cluster = stack.enter_context(
                elsewhere(tidy.folder / "cluster", tidy.environment, WORKERS, through="benchmarks.hurried")
            )
        kinds = {"local": LOCAL, "elsewhere": ELSEWHERE, "serial": (*DRIVER, "out of memory")}
        if way == "disk":
            disturbed.full_disk()
        else:
            disturbed.disturbed(kinds[way])
        disturbed.judged(clean)


if __name__ == "__main__":
    typer.run(chaos)
