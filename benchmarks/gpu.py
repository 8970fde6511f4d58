"""What a device does at paper size, step by step, against the published way in the same run; weights are random.

The published way is float32, one face after the other, ``segment_anything``'s own attention, and matching in Python.
``python -m benchmarks gpu`` takes the full size where there is a CUDA device; ``--size tiny`` runs anywhere. Every
figure is printed as soon as it is there, and what fails is named at the end, so that the rest is measured anyway.
"""

import json
import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.costs import flops_of
from benchmarks.paper_size import SIZES, WRITERS, Size
from benchmarks.paper_size import profile as paper
from benchmarks.right import CHECKS
from benchmarks.ways import STEPS, Way, faces, pictures
from s3pot_batch.stages.models.inpainters.controlnet import ControlNetInpainter
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter

TIMES, ENOUGH = 5, 3.0
"""A step is timed so often, or until so many seconds have passed."""
STAGES = {"stage two": STEPS["segmenter"], "stage one": (*STEPS["parser"], *STEPS["inpainter"])}


@dataclass(frozen=True)
class Speed:
    """One step on a device."""

    seconds: float
    """Of a face: the median of a few runs."""
    spread: float
    """Between the slowest and the quickest run, as a share of the median."""
    waiting: float | None = None
    """Share of the time in which the device does nothing; None on a CPU, and where it was not asked for."""


@dataclass(frozen=True)
class Compared:
    """One step both ways."""

    name: str
    flops: int
    """Of a face, the published way."""
    ours: Speed
    published: Speed


@dataclass
class Report:
    """What was found, written anew after every step."""

    device: str
    size: str
    faces: int
    """At once."""
    out: Path | None = None
    torch: str = torch.__version__
    peak: float = 0.0
    """Operations a second in products of two matrices."""
    steps: list[Compared] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    others: dict[str, Speed] = field(default_factory=dict)
    """Other sizes of batch, and compiled networks."""
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of each item of the run, what lies around the timing included."""
    failed: list[str] = field(default_factory=list)

    def write(self) -> None:
        """As JSON, if it is asked for."""
        if self.out:
            self.out.write_text(json.dumps(asdict(self) | {"out": str(self.out)}, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Clock:
    """When the run began, and after how many seconds it begins nothing more."""

    report: Report
    most: float
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def item(self, name: str) -> Iterator[bool]:
        """Something that may fail without keeping the rest from being measured; false where it is too late for it."""
        started = time.perf_counter()
        late = started - self.began > self.most
        if late:
            print(f"{name}: left out, {self.most:.0f} s are over", flush=True)
        try:
            yield not late
        except Exception as error:  # noqa: BLE001  (a device is lent for minutes: the other figures are worth having)
            traceback.print_exc()
            self.report.failed.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        self.report.took[name] = time.perf_counter() - started
        self.report.write()


def settle(device: str) -> None:
    """Wait until the device has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def speed(work: Callable[[], object], device: str, count: int, *, warm: int = 2, waits: bool = True) -> Speed:
    """The median of a few runs after some that warm up, and how long the device waits meanwhile.

    Kernels are timed in one more run: what the profiler costs is the host's time, not theirs.
    """
    for _ in range(min(warm, 1) if device == "cpu" else warm):
        work()
    found: list[float] = []
    while len(found) < TIMES and sum(found) < ENOUGH:
        settle(device)
        started = time.perf_counter()
        work()
        settle(device)
        found.append(time.perf_counter() - started)
    seconds = float(np.median(found))
    waiting = None if device == "cpu" or not waits else max(0.0, 1 - busy(work, device) / seconds)
    return Speed(seconds / count, (max(found) - min(found)) / seconds, waiting)


def busy(work: Callable[[], object], device: str) -> float:
    """Seconds of one run in which the device computes or copies."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        settle(device)
    return covered([
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]) / 1e6  # fmt: skip


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """How much of a line spans (start, end) cover that may overlap."""
    whole, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        whole += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return whole


def peak(device: str, dtype: torch.dtype, side: int) -> float:
    """Operations a second in a product of two side×side matrices."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    runs = 1 if device == "cpu" else 20  # together, as one takes 1 ms
    found = speed(lambda: [one @ other for _ in range(runs)], device, runs, waits=False)
    return float(2 * side**3 / found.seconds)


def line(one: Compared, most: float) -> str:
    """One step for people."""
    waits = "" if one.ours.waiting is None else f", device busy {100 - 100 * one.ours.waiting:.0f} %"
    return (
        f"{one.name}: {one.ours.seconds:.4f} s a face (±{50 * one.ours.spread:.0f} %), {one.flops / 1e9:.4g} GFLOPs, "
        f"{100 * one.flops / one.ours.seconds / most:.1f} % of the peak{waits}; "
        f"published {one.published.seconds:.4f} s (±{50 * one.published.spread:.0f} %), "
        f"ratio {one.published.seconds / one.ours.seconds:.1f}"
    )


def summed(name: str, steps: Sequence[Compared]) -> str:
    """Several steps of a face together, for people."""
    ours, published = (sum(getattr(one, way).seconds for one in steps) for way in ("ours", "published"))
    known = [one.ours for one in steps if one.ours.waiting is not None]
    waits = sum((one.waiting or 0.0) * one.seconds for one in known)
    at_work = f", device busy {100 - 100 * waits / ours:.0f} %" if known else ""
    return f"{name}: {ours:.4f} s a face{at_work}, published {published:.4f} s, ratio {published / ours:.1f}"


def compared(name: str, ours: Way, published: Way, device: str) -> Compared:
    """One step both ways; the published way sees one face."""
    theirs = published.step(name)
    flops = flops_of(theirs)  # which warms it up
    mine = speed(ours.step(name), device, len(ours.faces))
    return Compared(name, flops, mine, speed(theirs, device, 1, warm=0, waits=False))


def measured(report: Report, clock: Clock, ways: tuple[Way, Way], device: str) -> None:
    """Every step both ways, and whether both are right; each part's weights are written before its steps."""
    chosen, folder = SIZES[report.size], Path(ways[0].models.profile.segmenter.weights).parent
    for part, names in STEPS.items():
        with clock.item(f"{part}'s weights") as begun:
            if begun:
                torch.manual_seed(0)
                WRITERS[part](chosen, folder, device)
        for name in names:
            with clock.item(name) as begun:
                if begun:
                    report.steps.append(compared(name, *ways, device))
                    print(line(report.steps[-1], report.peak), flush=True)
        checked(report, clock, ways, part)
        for stage, members in STAGES.items():
            if names[-1] == members[-1]:
                whole(stage, report, members)
    whole("in all", report, [name for names in STEPS.values() for name in names])


def checked(report: Report, clock: Clock, ways: tuple[Way, Way], part: str) -> None:
    """Print what is to be right of a part."""
    for title, check in CHECKS.get(part, {}).items():
        with clock.item(title) as begun:
            if begun:
                report.checks[title] = check(*ways)
                print(f"{title}: {report.checks[title]:.7g}", flush=True)


def whole(name: str, report: Report, members: Sequence[str]) -> None:
    """Print several steps together, if all of them were measured."""
    steps = [one for one in report.steps if one.name in members]
    if len(steps) == len(members):
        print(summed(name, steps), flush=True)


def tried(report: Report, clock: Clock, way: Way, size: Size, batches: Sequence[int]) -> None:
    """The image encoder with other numbers of faces at once."""
    for count in batches:
        name = f"image encoder, {count} faces at once"
        with clock.item(name) as begun:
            if begun:
                seen = pictures(faces(size, count))
                found = speed(lambda seen=seen: way.network.segmenter.encode(seen), way.models.device, count)  # type: ignore[misc]
                other(report, name, "image encoder", found)


def by_compiler(report: Report, clock: Clock, way: Way) -> None:
    """Encoder and diffusion once more, by ``torch.compile``; what it takes to compile them is told, too."""
    parts = {"image encoder": way.models.segmenter, "inpainter": way.models.inpainter}
    for name, part in parts.items():
        with clock.item(f"{name}, compiled") as begun:
            if begun and isinstance(part, (SamSegmenter, ControlNetInpainter)):
                started = time.perf_counter()
                part.compile()
                way.step(name)()
                settle(way.models.device)
                print(f"{name}: first compiled answer after {time.perf_counter() - started:.0f} s", flush=True)
                other(report, f"{name}, compiled", name, speed(way.step(name), way.models.device, len(way.faces)))


def other(report: Report, name: str, step: str, found: Speed) -> None:
    """Keep and print a step that was done otherwise."""
    report.others[name] = found
    flops = [one.flops for one in report.steps if one.name == step]
    share = f", {100 * flops[0] / found.seconds / report.peak:.1f} % of the peak" if flops else ""
    waits = "" if found.waiting is None else f", device busy {100 - 100 * found.waiting:.0f} %"
    print(f"{name}: {found.seconds:.4f} s a face (±{50 * found.spread:.0f} %){share}{waits}", flush=True)


def gpu(
    size: str = "", *, compiled: bool = False, out: Path | None = None, batches: Sequence[int] = (),
    seconds: float = math.inf,
) -> None:  # fmt: skip
    """Print every step's speed, its share of the device's peak, and the same of the published way.

    Args:
        size: a name of ``SIZES``; by default what suits the device.
        compiled: at last, encoder and diffusion by ``torch.compile``; never on a CPU.
        out: a JSON file for the figures.
        batches: faces at once that the image encoder tries besides.
        seconds: nothing more is begun after so long.

    Raises:
        SystemExit: something failed.
    """
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    chosen = SIZES[size or ("tiny" if device == "cpu" else "full")]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    report = Report(name, chosen.name, chosen.batch, out)
    clock = Clock(report, seconds)
    report.peak = peak(device, dtype, 1024 if device == "cpu" else 8192)
    print(f"{name}: {report.peak / 1e12:.3g} TFLOP/s in {dtype} products; size {chosen.name}, {chosen.batch} faces "
          f"at once, torch {torch.__version__}, {os.cpu_count()} cores", flush=True)  # fmt: skip
    kind: Literal["exact", "half"] = "exact" if device == "cpu" else "half"
    with tempfile.TemporaryDirectory() as folder:
        some = faces(chosen, chosen.batch)
        ours = Way(paper(chosen, Path(folder), kind), device, some)
        published = Way(paper(chosen, Path(folder), "published"), device, some[:1])
        measured(report, clock, (ours, published), device)
        tried(report, clock, ours, chosen, batches)
        if compiled and device != "cpu":
            by_compiler(report, clock, ours)
    print("; ".join(f"{item} {took:.1f} s" for item, took in report.took.items()), flush=True)
    if report.failed:
        raise SystemExit("failed: " + "; ".join(report.failed))
