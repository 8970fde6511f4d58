"""The steps of a face at paper size, ours and as published, over the same weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.matching import plain_loop
from benchmarks.models import LANDMARKS
from benchmarks.paper_size import Size, Unfilled, few_steps
from s3pot_batch.stages.beside import shared
from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.enhancement import enhance, token_region
from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.method.parsing import FaceParser, Parsed
from s3pot_batch.stages.method.references import ReferenceGenerator
from s3pot_batch.stages.models.profiles import Profile
from s3pot_batch.stages.models.protocols import Detection, Parser
from s3pot_batch.stages.models.registry import Models, taxonomy_of
from s3pot_batch.stages.rle import Mask

RADIUS = 0.357
"""Of the disc that is M, as a share of the frame's side: two fifths of the frame, as in ``costs``."""
STEPS = {
    "segmenter": ("image encoder", "FE and matching", "adapter and mask decoder"),
    "parser": ("parser",),
    "inpainter": ("inpainter", "inpainter, few steps"),
}
"""What is measured, by the part whose weights it needs; what matters most comes first."""


def faces(size: Size, count: int) -> list[AlignedFace]:
    """A batch of faces that differ in noise: scikit-image's astronaut."""
    import skimage.data

    rng, found = np.random.default_rng(0), []
    detection = Detection((206, 107, 242, 144), 1.0, LANDMARKS)
    face = AlignedFace.drawn(skimage.data.astronaut(), detection, size.frame)
    for _ in range(count):
        noise = rng.integers(-8, 9, face.raw.shape)
        found.append(replace(face, raw=np.clip(face.raw + noise, 0, 255).astype(np.uint8)))
    return found


def pictures(some: Sequence[AlignedFace]) -> Tensor:
    """2B×S×S×3 uint8: of every face the photo, and what is taken for its reference, the photo upside down."""
    return torch.from_numpy(np.stack([picture for face in some for picture in (face.raw, face.raw[::-1])]))


def disc(side: int) -> Mask:
    """S×S bool: what is taken for M, as a parser with random weights finds none."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(x, y) < RADIUS * side, bool)


class OnHost:
    """A parser whose maps are copied to the processor, where facer's own example takes the likeliest class."""

    def __init__(self, parser: Parser) -> None:
        self.parser, self.taxonomy = parser, parser.taxonomy

    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
        """B×K×S×S."""
        return np.asarray(torch.as_tensor(self.parser.parse(frames, landmarks)).cpu())


class Way:
    """The steps of a face with one profile on one device; a model is loaded when the first step needs it.

    Args:
        profile: over weights of the size.
        device: where it runs.
        some: the faces that go through it together.
    """

    def __init__(self, profile: Profile, device: str, some: Sequence[AlignedFace]) -> None:
        self.settings, self.models, self.faces = profile.settings, Models(profile, device), some
        self.published = dict(profile.segmenter.options)["fused"] is False
        self.taxonomy = taxonomy_of(profile.parser)
        self.pictures = pictures(some)
        self.region = torch.from_numpy(disc(profile.settings.faces.frame))

    @cached_property
    def parser(self) -> FaceParser:
        """What finds M."""
        asked = self.settings.references
        parser = OnHost(self.models.parser) if self.published else self.models.parser
        return FaceParser(parser, asked.face_classes, complete=asked.complete)

    @cached_property
    def references(self) -> ReferenceGenerator:
        """What generates references."""
        with Unfilled():
            return ReferenceGenerator(self.models.inpainter, self.taxonomy, self.settings.references)

    @cached_property
    def network(self) -> S3POT:
        """What stage two runs."""
        with Unfilled():
            segmenter = self.models.segmenter
        return S3POT(segmenter, self.models.adapter, self.settings.segments)

    @cached_property
    def tokens(self) -> list[tuple[Tensor, Tensor]]:
        """C×T×T each, of photo and reference."""
        found = self.network.segmenter.encode(self.pictures)
        return list(zip(found[::2], found[1::2], strict=True))

    @cached_property
    def prompted(self) -> list[Prompted]:
        """What the decoder is asked."""
        return [self.network.prompt(*two, self.region.to(two[0].device)) for two in self.tokens]

    @cached_property
    def parsed(self) -> list[ParsedFace]:
        """The faces as a parser would have found them."""
        blank = Parsed(np.zeros(self.region.shape, np.uint8), self.region.numpy(), 1.0)
        return [ParsedFace(face, blank) for face in self.faces]

    def step(self, name: str) -> Callable[[], object]:
        """One of ``STEPS`` for all faces; what it needs is there when this returns."""
        names = [(f"{n}", 0) for n in range(len(self.faces))]
        if name == "parser":
            parser = self.parser
            return lambda: self.parse(parser)
        if name in STEPS["inpainter"]:
            references, parsed = self.references, self.parsed
            if name != "inpainter":
                references = replace(references, settings=few_steps(references.settings))
            return lambda: references.generate(parsed, names)
        network = self.network
        if name == "image encoder":
            return lambda: network.segmenter.encode(self.pictures)
        if name == "FE and matching":
            tokens = self.tokens
            return lambda: self.match(tokens)
        prompted = self.prompted
        return torch.no_grad()(lambda: network(prompted))

    def parse(self, parser: FaceParser) -> list[Parsed]:
        """Maps as one batch, and then each face's region, as threads share them beside a card."""
        if self.published:
            return parser.parse(self.faces)
        with shared(self.models.device) as each:
            return list(each(parser.parsed, parser.maps(self.faces), self.faces))

    def match(self, tokens: Sequence[tuple[Tensor, Tensor]]) -> object:
        """FE and matching of pairs, C×T×T each: as one batch, or, as published, one after the other."""
        if not self.published:
            return self.network.prompt_all([(*two, self.region.to(two[0].device)) for two in tokens])
        return [self._matched(*two) for two in tokens]

    def _matched(self, raw: Tensor, reference: Tensor) -> object:
        inside = token_region(self.region, raw.shape[-1]).to(raw.device)
        with torch.no_grad():
            enhanced = enhance(self.network.segmenter, raw, reference, inside)
        wanted = F.normalize(enhanced.reference[inside.flatten()], dim=-1)
        return plain_loop((wanted @ F.normalize(enhanced.raw, dim=-1).T).cpu().numpy())
