"""What a device does at paper size, step by step, against the published way in the same run; weights are random.

The published way is float32, one face after the other, ``segment_anything``'s own attention, and matching in Python.
``python -m benchmarks gpu`` takes the full size where there is a CUDA device; ``--size tiny`` runs anywhere.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.costs import flops_of
from benchmarks.matching import plain_loop
from benchmarks.models import LANDMARKS
from benchmarks.paper_size import SIZES, Size, write
from benchmarks.paper_size import profile as paper
from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.enhancement import enhance, token_region
from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.method.parsing import FaceParser, Parsed
from s3pot_batch.stages.method.references import ReferenceGenerator
from s3pot_batch.stages.models.profiles import Profile
from s3pot_batch.stages.models.protocols import Detection
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.rle import Mask

RADIUS = 0.357
"""Of the disc that is M, as a share of the frame's side: two fifths of the frame, as in ``costs``."""
TIMES = 3


@dataclass(frozen=True)
class Speed:
    """One step on a device."""

    seconds: float
    """Of a face."""
    waiting: float | None
    """Share of the time in which the device does nothing; None on a CPU."""


@dataclass(frozen=True)
class Compared:
    """One step both ways."""

    name: str
    flops: int
    """Of a face, the published way."""
    ours: Speed
    published: Speed


def faces(size: Size) -> list[AlignedFace]:
    """A batch of faces that differ in noise: scikit-image's astronaut."""
    import skimage.data

    rng, found = np.random.default_rng(0), []
    detection = Detection((206, 107, 242, 144), 1.0, LANDMARKS)
    face = AlignedFace.drawn(skimage.data.astronaut(), detection, size.frame)
    for _ in range(size.batch):
        noise = rng.integers(-8, 9, face.raw.shape)
        found.append(replace(face, raw=np.clip(face.raw + noise, 0, 255).astype(np.uint8)))
    return found


def disc(side: int) -> Mask:
    """S×S bool: what is taken for M, as a parser with random weights finds none."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(x, y) < RADIUS * side, bool)


class Way:
    """The steps of a face with one profile on one device.

    Args:
        profile: over weights of the size.
        device: where it runs.
        some: the faces that go through it together.
    """

    def __init__(self, profile: Profile, device: str, some: Sequence[AlignedFace]) -> None:
        settings, models = profile.settings, Models(profile, device)
        self.faces = some
        self.published = dict(profile.segmenter.options)["fused"] is False
        self.parser = FaceParser(models.parser, settings.references.face_classes, complete=settings.references.complete)
        self.references = ReferenceGenerator(models.inpainter, self.parser.taxonomy, settings.references)
        self.network = S3POT(models.segmenter, models.adapter, settings.segments)
        region = disc(settings.faces.frame)
        blank = Parsed(np.zeros(region.shape, np.uint8), region, 1.0)
        self.parsed = [ParsedFace(face, blank) for face in some]
        self.pictures = torch.from_numpy(np.stack([picture for face in some for picture in (face.raw, face.raw[::-1])]))
        tokens = models.segmenter.encode(self.pictures)
        self.tokens = list(zip(tokens[::2], tokens[1::2], strict=True))
        self.region = torch.from_numpy(region)
        self.prompted = [self.network.prompt(*two, self.region.to(tokens.device)) for two in self.tokens]

    def steps(self) -> dict[str, Callable[[], object]]:
        """What is measured, each for all faces of the batch."""
        names = [(f"{n}", 0) for n in range(len(self.faces))]
        return {
            "parser": lambda: self.parser.parse(self.faces),
            "inpainter": lambda: self.references.generate(self.parsed, names),
            "image encoder": lambda: self.network.segmenter.encode(self.pictures),
            "FE and matching": lambda: [self.match(*two) for two in self.tokens],
            "adapter and mask decoder": torch.no_grad()(lambda: self.network(self.prompted)),
        }

    def match(self, raw: Tensor, reference: Tensor) -> object:
        """FE and matching of one pair, C×T×T each."""
        if not self.published:
            return self.network.prompt(raw, reference, self.region.to(raw.device))
        inside = token_region(self.region, raw.shape[-1]).to(raw.device)
        with torch.no_grad():
            enhanced = enhance(self.network.segmenter, raw, reference, inside)
        wanted = F.normalize(enhanced.reference[inside.flatten()], dim=-1)
        return plain_loop((wanted @ F.normalize(enhanced.raw, dim=-1).T).cpu().numpy())


def settle(device: str) -> None:
    """Wait until the device has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def speed(work: Callable[[], object], device: str, count: int) -> Speed:
    """The mean of a few runs after one that warms up, and how long the device waits meanwhile.

    Kernels are timed in one more run: what the profiler costs is the host's time, not theirs.
    """
    work()
    settle(device)
    started = time.perf_counter()
    for _ in range(TIMES):
        work()
    settle(device)
    seconds = (time.perf_counter() - started) / TIMES
    if device == "cpu":
        return Speed(seconds / count, None)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        settle(device)
    kernels = [
        event for event in profiler.events() if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6  # they are on one stream, one after the other
    return Speed(seconds / count, max(0.0, 1 - busy / seconds))


def peak(device: str, dtype: torch.dtype, side: int) -> float:
    """Operations a second in a product of two side×side matrices."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(2 * side**3 / speed(lambda: one @ other, device, 1).seconds)


def measure(size: Size, device: str, folder: Path, *, compiled: bool = False) -> list[Compared]:
    """Every step both ways; the published way sees one face.

    Args:
        size: of networks and batches.
        device: ``cpu`` or ``cuda:0``; a CPU works in float32 both ways.
        folder: where weights are written.
        compiled: ours by ``torch.compile``.
    """
    write(size, folder)
    some = faces(size)
    published = Way(paper(size, folder, "published"), device, some[:1]).steps()
    kind: Literal["exact", "half"] = "exact" if device == "cpu" else "half"
    ours = Way(paper(size, folder, kind, compiled=compiled), device, some).steps()
    return [
        Compared(name, flops_of(work), speed(ours[name], device, len(some)), speed(work, device, 1))
        for name, work in published.items()
    ]


def line(one: Compared, most: float) -> str:
    """One step for people."""
    waits = "" if one.ours.waiting is None else f", device waits {100 * one.ours.waiting:.0f} %"
    return (
        f"{one.name}: {1 / one.ours.seconds:.2f} faces/s, {one.flops / 1e9:.3g} GFLOPs a face, "
        f"{100 * one.flops / one.ours.seconds / most:.1f} % of the peak{waits}; "
        f"published {1 / one.published.seconds:.2f} faces/s, ratio {one.published.seconds / one.ours.seconds:.1f}"
    )


def gpu(size: str = "", *, compiled: bool = False) -> None:
    """Print every step's speed, its share of the device's peak, and the same of the published way."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    chosen = SIZES[size or ("tiny" if device == "cpu" else "full")]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    most = peak(device, dtype, 1024 if device == "cpu" else 8192)
    print(f"{name}: {most / 1e12:.3g} TFLOP/s in {dtype} products; size {chosen.name}, {chosen.batch} faces at once")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(chosen, device, Path(folder), compiled=compiled)
    for one in found:
        print(line(one, most), flush=True)
    ours, published = (sum(getattr(one, way).seconds for one in found) for way in ("ours", "published"))
    print(f"in all {ours:.4f} s a face, published {published:.4f} s, ratio {published / ours:.1f}")
