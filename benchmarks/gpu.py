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
from dataclasses import asdict, dataclass, field, replace
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
from benchmarks.whole_run import WholeRun, write_photos
from s3pot_batch.stages.models.inpainters.controlnet import ControlNetInpainter
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter

TIMES, ENOUGH = 5, 3.0
"""A step is timed so often, or until so many seconds have passed."""
USUAL, FEW = STEPS["inpainter"]
STAGES = {
    "segmenter": {"stage two": STEPS["segmenter"]},
    "inpainter": {
        "stage one": (*STEPS["parser"], USUAL), "stage one, few steps": (*STEPS["parser"], FEW),
        "in all": (*STEPS["segmenter"], *STEPS["parser"], USUAL),
        "in all, few steps": (*STEPS["segmenter"], *STEPS["parser"], FEW),
    },
}  # fmt: skip
"""What is told of several steps together, once the part is done that comes last."""


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
    """Other sizes of batch, compiled networks, and the pipeline itself."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds of a face in each stage of the pipeline itself."""
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
        for stage, members in STAGES.get(part, {}).items():
            whole(stage, report, members)


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


def by_compiler(report: Report, clock: Clock, way: Way, step: str, part: object) -> None:
    """A step once more, by ``torch.compile``; what it takes to compile it is told, too."""
    with clock.item(f"{step}, compiled") as begun:
        if begun:
            started = time.perf_counter()
            if isinstance(part, SamSegmenter | ControlNetInpainter) and part.sizes.compiled:
                part.sizes.known.clear()  # of another number of steps; what is compiled is kept
            elif isinstance(part, SamSegmenter | ControlNetInpainter):
                part.compile()
            way.step(step)()
            settle(way.models.device)
            print(f"{step}: first compiled answer after {time.perf_counter() - started:.0f} s", flush=True)
            other(report, f"{step}, compiled", step, speed(way.step(step), way.models.device, len(way.faces), warm=0))


def as_it_runs(report: Report, clock: Clock, run: WholeRun, name: str, *, warm: bool) -> None:
    """The pipeline itself, from photos to masks."""
    with clock.item(name) as begun:
        if begun:
            found = speed(run, run.device, run.photos, warm=int(warm and run.device != "cpu"))
            report.stages[name] = run.seconds
            other(report, name, "", found)
            print(
                f"{name}: {', '.join(f'{stage} {seconds:.4f}' for stage, seconds in run.seconds.items())}", flush=True
            )


def runs(report: Report, clock: Clock, way: Way, manifest: Path, *, compiled: bool) -> None:
    """The pipeline itself, few steps and all, and networks by ``torch.compile`` in between.

    Few steps draw twice as many faces at once: as guidance asks twice of each, UNet and ControlNet then see batches of
    one size, and are compiled once.
    """
    size, device = SIZES[report.size], way.models.device
    usual = WholeRun(way.models.profile, manifest, device, size.batch, size.photos // 2)
    few = replace(usual.few(), at_once=2 * size.batch, photos=size.photos)
    as_it_runs(report, clock, few, "paper-lcm as it runs", warm=True)
    if not compiled:
        as_it_runs(report, clock, usual, "paper as it runs", warm=True)
        return
    twice = Way(way.models.profile, device, faces(size, few.at_once))
    by_compiler(report, clock, way, "image encoder", way.models.segmenter)
    by_compiler(report, clock, twice, FEW, way.models.inpainter)
    as_it_runs(report, clock, few, "paper-lcm as it runs, compiled", warm=False)
    by_compiler(report, clock, way, USUAL, way.models.inpainter)
    as_it_runs(report, clock, usual, "paper as it runs, compiled", warm=False)


def other(report: Report, name: str, step: str, found: Speed) -> None:
    """Keep and print a step that was done otherwise."""
    report.others[name] = found
    flops = [one.flops for one in report.steps if one.name == step]
    share = f", {100 * flops[0] / found.seconds / report.peak:.1f} % of the peak" if flops else ""
    waits = "" if found.waiting is None else f", device busy {100 - 100 * found.waiting:.0f} %"
    print(f"{name}: {found.seconds:.4f} s a face (±{50 * found.spread:.0f} %){share}{waits}", flush=True)


def held(report: Report) -> list[str]:
    """What was found against what is wanted of an H100, a line each, of the quicker of plain and compiled."""
    steps = {one.name: one for one in report.steps}
    if len(steps) < sum(map(len, STEPS.values())):
        return []

    def best(name: str) -> float:
        own = steps[name].ours
        return min(own.seconds, report.others.get(f"{name}, compiled", own).seconds)

    def ratio(names: Sequence[str], published: Sequence[str]) -> float:
        return sum(steps[name].published.seconds for name in published) / sum(map(best, names))

    encoder = steps["image encoder"]
    one = {name: STAGES["inpainter"][name] for name in ("stage one", "stage one, few steps")}
    lines = [
        f"encoder: {100 * encoder.flops / best(encoder.name) / report.peak:.0f} % of the peak; wanted 50 %",
        f"stage two: {ratio(STEPS['segmenter'], STEPS['segmenter']):.1f} times the published way; wanted 30",
        *(f"{name}: {ratio(names, names):.1f} times the published way; wanted 10" for name, names in one.items()),
        f"stage one, few steps: {ratio(one['stage one, few steps'], one['stage one']):.1f} times paper's published way",
        *(f"{name}: {sum(map(best, STAGES['inpainter'][name])):.3f} s a face, step by step; wanted 0.15"
          for name in ("in all", "in all, few steps")),
    ]  # fmt: skip
    for name in report.stages:
        found = report.others[name]
        busy = "" if found.waiting is None else f", device busy {100 - 100 * found.waiting:.0f} %"
        lines.append(f"{name}: {found.seconds:.3f} s a face{busy}; wanted 0.15 and 90 %")
    return lines


def gpu(
    size: str = "", *, compiled: bool = False, out: Path | None = None, batches: Sequence[int] = (),
    seconds: float = math.inf,
) -> None:  # fmt: skip
    """Print every step's speed, its share of the device's peak, and the same of the published way.

    Args:
        size: a name of ``SIZES``; by default what suits the device.
        compiled: encoder and diffusion by ``torch.compile``, too.
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
        runs(report, clock, ours, write_photos(Path(folder), chosen.photos), compiled=compiled)
    for one in held(report):
        print(one, flush=True)
    print("; ".join(f"{item} {took:.1f} s" for item, took in report.took.items()), flush=True)
    if report.failed:
        raise SystemExit("failed: " + "; ".join(report.failed))
