"""What is seen of a command while it runs: bars on a terminal, else a line every ten seconds, whatever it waits for."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from s3pot_batch.pipeline.at_work import AtWork, at_work
from s3pot_batch.pipeline.copies import called
from s3pot_batch.pipeline.logbook import write_down
from s3pot_batch.pipeline.runner import OnReport
from s3pot_batch.stages.base import ShardReport

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_SECONDS = 10.0
"""Between two plain lines."""
BAR_SECONDS = 1.0
"""Between two looks at what is worked on, on a terminal."""
SHOWN_AT_WORK = 4
"""Shards that are named at once; of many workers, those that take longest."""
Draw = Callable[[], None]
log = logging.getLogger(__name__)


@dataclass
class Meter:
    """How far a stage is."""

    stage: str
    sizes: Mapping[int, int]
    """Items of each shard to do."""
    unit: str = "photos"
    run: Path | None = None
    """Whose locks say what is worked on, and how far that is."""
    ended: set[int] = field(default_factory=set)
    """Shards."""
    done: int = 0
    """Items of these."""
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    busy: Sequence[AtWork] = ()
    """What was worked on when it was looked at last."""
    seen: float = 0.0
    """The most that was known to be done, within shards, too: one that has just ended is in neither for a moment."""

    @property
    def total(self) -> int:
        """Items in all."""
        return sum(self.sizes.values())

    def add(self, report: ShardReport) -> None:
        """Count a shard that has ended."""
        self.ended.add(report.shard)
        self.done += self.sizes[report.shard]
        self.seen = max(self.seen, self.done)
        self.failed += self.sizes[report.shard] if report.error else report.failed

    def look(self) -> None:
        """See what is worked on, and how far it is."""
        done = self.done  # before looking: a shard that ends meanwhile must not count twice
        self.busy = at_work(self.run, self.stage) if self.run and done < self.total else ()
        within = (min(one.done, self.sizes.get(one.shard, 0)) for one in self.busy if one.shard not in self.ended)
        self.seen = max(self.seen, done + sum(within))

    def rate(self) -> str:
        """Items per second so far."""
        return f"{self.seen / max(time.monotonic() - self.started, 1e-9):.1f} {self.unit}/s"

    def left(self) -> str:
        """The time that the rest will take, if it goes on so."""
        if not self.seen:
            return "–"
        elapsed = time.monotonic() - self.started
        return str(timedelta(seconds=round(elapsed / self.seen * (self.total - self.seen))))

    def now(self) -> str:
        """What is worked on, and for how long."""
        more = f" and {len(self.busy) - SHOWN_AT_WORK} more" if len(self.busy) > SHOWN_AT_WORK else ""
        return f"now {', '.join(one.text() for one in self.busy[:SHOWN_AT_WORK])}{more}" if self.busy else ""

    def text(self) -> str:
        """All of it in a line, as of now."""
        self.look()
        failed = f", {self.failed} failed" if self.failed else ""
        now = f"; {now}" if (now := self.now()) else ""
        return (
            f"{self.stage}: {int(self.seen)}/{self.total} {self.unit}, {self.rate()}{failed}, {self.left()} left{now}"
        )


class Display:
    """What a command says on standard error while it runs, and in the run's log.

    Args:
        run: the run folder, if the work is in one.
        quiet: nothing is said but in the log.
        bars: what draws on the terminal, if it is one.
    """

    def __init__(self, run: Path | None, *, quiet: bool, bars: "Progress | None" = None) -> None:
        self.run = run
        self.quiet = quiet
        self.bars = bars
        self.told = set[str]()

    def say(self, line: str) -> None:
        """Say something that is not progress."""
        log.info("%s", line)
        self._write(line)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say every ten seconds what is waited for, as long as this context lasts."""
        started = time.monotonic()
        with _every(LOG_SECONDS, lambda: self._write(f"{what}: {time.monotonic() - started:.0f} s so far")):
            yield

    @contextmanager
    def stage(self, name: str, sizes: Mapping[int, int], unit: str = "photos") -> Iterator[OnReport]:
        """Show one stage.

        Args:
            name: its name.
            sizes: how many items each shard to run has, by shard number.
            unit: what the items are called.

        Yields:
            The callback that takes each shard's report.
        """
        meter = Meter(name, sizes, unit, self.run)
        log.info("%s: %d %s in %d shards", name, meter.total, unit, len(sizes))
        shown = self._nothing if self.quiet else self._bar if self.bars else self._lines
        with shown(meter) as draw:

            def on_report(report: ShardReport) -> None:
                meter.add(report)
                if self.run:
                    write_down(self.run, report, self.told)
                if report.error:
                    self._write(f"{name}, shard {report.shard}: {report.error}")
                draw()

            yield on_report
        log.info("%s", meter.text())

    @contextmanager
    def _nothing(self, _: Meter) -> Iterator[Draw]:
        yield lambda: None

    @contextmanager
    def _bar(self, meter: Meter) -> Iterator[Draw]:
        bars = cast("Progress", self.bars)
        task = bars.add_task(meter.stage, total=meter.total, rate="", failed="", now="")

        def draw() -> None:
            meter.look()
            failed = f"{meter.failed} failed" if meter.failed else ""
            bars.update(task, completed=meter.seen, rate=meter.rate(), failed=failed, now=meter.now())

        with _every(BAR_SECONDS, draw):
            yield draw
        draw()

    @contextmanager
    def _lines(self, meter: Meter) -> Iterator[Draw]:
        shards = f" in {len(meter.sizes)} shards" if self.run else ""
        self._write(f"{meter.stage}: {meter.total} {meter.unit}{shards}")
        with _every(LOG_SECONDS, lambda: self._write(meter.text())):
            yield lambda: self._write(meter.text()) if meter.done == meter.total else None

    def _write(self, line: str) -> None:
        if self.quiet:
            return
        line = called(line)
        if self.bars:
            self.bars.console.print(line, markup=False, highlight=False)
            return
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


@contextmanager
def display(run: Path | None = None, *, quiet: bool = False) -> Iterator[Display]:
    """What is seen of a command, on standard error, until it ends.

    Args:
        run: the run folder, if the work is in one: then its log is written, and it is seen what is worked on.
        quiet: only the log is written.
    """
    if quiet or not sys.stderr.isatty():
        yield Display(run, quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}  left"),
        TimeRemainingColumn(), TextColumn("[red]{task.fields[failed]}"), TextColumn("[dim]{task.fields[now]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Display(run, quiet=quiet, bars=bars)


@contextmanager
def _every(seconds: float, act: Draw) -> Iterator[None]:
    """Do something time and again in the background, until this context is left."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(seconds):
            act()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
