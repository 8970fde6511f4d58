"""How far a stage is: a bar with rate and time left on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from s3pot_batch.pipeline.runner import OnReport
from s3pot_batch.stages.base import ShardReport

LOG_SECONDS = 10.0
"""Least time between two plain lines."""


@contextmanager
def progress(stage: str, sizes: dict[int, int], unit: str = "photos") -> Iterator[OnReport]:
    """Show a stage's progress on standard error.

    Args:
        stage: its name.
        sizes: how many items each shard to run has, by shard number.
        unit: what the items are called.

    Yields:
        The callback that takes each shard's report.
    """
    with (_bar if sys.stderr.isatty() else _lines)(stage, sizes, unit) as on_report:
        yield on_report


@contextmanager
def _bar(stage: str, sizes: dict[int, int], unit: str) -> Iterator[OnReport]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[rate]}}  left"),
        TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(stage, total=sum(sizes.values()), rate="")

        def on_report(report: ShardReport) -> None:
            nonlocal done
            done += sizes[report.shard]
            bar.update(task, completed=done, rate=_rate(done, started, unit))
            if report.error:
                bar.console.print(f"{stage}, shard {report.shard}: {report.error}", markup=False, style="red")

        yield on_report


@contextmanager
def _lines(stage: str, sizes: dict[int, int], unit: str) -> Iterator[OnReport]:
    total, done = sum(sizes.values()), 0
    started = said = time.monotonic()
    _say(f"{stage}: {total} {unit} in {len(sizes)} shards")

    def on_report(report: ShardReport) -> None:
        nonlocal done, said
        done += sizes[report.shard]
        if report.error:
            _say(f"{stage}, shard {report.shard}: {report.error}")
        now = time.monotonic()
        if done == total or now - said >= LOG_SECONDS:
            said = now
            left = timedelta(seconds=round((now - started) / done * (total - done)))
            _say(f"{stage}: {done}/{total} {unit}, {_rate(done, started, unit)}, {left} left")

    yield on_report


def _rate(done: int, started: float, unit: str) -> str:
    return f"{done / max(time.monotonic() - started, 1e-9):.1f} {unit}/s"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
