"""What implementations of each part there are, and how one is loaded.

An implementation is a module in the part's folder (``parsers/facer.py`` is the parser of kind ``facer``) with a
function ``build(weights, device, dtype, **options)``. Other packages add theirs through entry points of the group
``s3pot_batch.parsers`` (``.detectors``, ``.inpainters``, ``.segmenters``, ``.adapters``, ``.refiners``), each naming
such a module.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import weights_digest, weights_path
from s3pot_batch.stages.models.memory import out_of_memory
from s3pot_batch.stages.models.profiles import PARTS, PartSpec, Profile
from s3pot_batch.stages.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from s3pot_batch.stages.models.protocols import Adapter, Detector, Inpainter, Parser, Refiner, Segmenter, TokenShape
    from s3pot_batch.stages.models.taxonomy import Taxonomy

Part = TypeVar("Part")
HERE = "s3pot_batch.stages.models"
REQUIRED = {"parser": ("TAXONOMY",), "segmenter": ("token_shape",), "adapter": ("untrained", "save")}
"""What the module of a part's implementation holds besides ``build``: all that is asked before weights are loaded."""
LOADING = RLock()
"""Two shards of one worker want the same models, and each is to be loaded once."""


class Registry(Generic[Part]):
    """The implementations of one part, by kind."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._plugins = Plugins(part, f"s3pot_batch.{part}s", f"{HERE}.{part}s")
        self._loaded: dict[tuple[PartSpec, str], Part] = {}

    def kinds(self) -> tuple[str, ...]:
        """The kinds that there are, ours first."""
        return self._plugins.names()

    def module(self, kind: str) -> ModuleType:
        """The module that implements ``kind``.

        Raises:
            ConfigError: there is none, or it lacks what a module of this part has to have.
        """
        found = self._plugins.find(kind)
        for name in ("build", *REQUIRED.get(self.part, ())):
            if not hasattr(found, name):
                raise ConfigError(f"{self.part} {kind}: its module has no {name}")
        return cast("ModuleType", found)

    def check(self, kind: str) -> None:
        """Make sure that there is ``kind``, without importing what is ours: torch takes seconds.

        Raises:
            ConfigError: there is none, or it lacks what a module of this part has to have.
        """
        if kind not in self._plugins.ours():
            self.module(kind)

    def where(self, kind: str) -> str:
        """The name of the module that implements ``kind``, which is there; it is not imported."""
        return self._plugins.where(kind)

    def load(self, spec: PartSpec, device: str) -> Part:
        """Build a part once per process and device.

        Raises:
            ConfigError: unknown kind, missing weights, or weights that do not fit. That memory ran out, or that the
                device fails, is no fault of the weights and stays the error that it is.
        """
        with LOADING:
            if (spec, device) not in self._loaded:
                self._loaded[spec, device] = self._built(spec, device)
            return self._loaded[spec, device]

    def _built(self, spec: PartSpec, device: str) -> Part:
        build = cast("Callable[..., Part]", self.module(spec.kind).build)
        weights = self._path(spec) if spec.weights else None
        try:
            return _settled(build(weights, device, spec.dtype, **dict(spec.options)), device)
        except (RuntimeError, TypeError, KeyError) as error:
            from torch import AcceleratorError

            if out_of_memory(error) or isinstance(error, AcceleratorError):  # the weights may fit well
                raise
            line = str(error).splitlines()[0]
            raise ConfigError(f"{spec.weights} does not fit a {spec.kind} with {dict(spec.options)}: {line}") from error

    def _path(self, spec: PartSpec) -> Path:
        try:
            return weights_path(spec)
        except ConfigError as error:
            if self.part != "adapter":
                raise
            raise ConfigError(f"{spec.weights}: no adapter there; make one with: s3pot-batch train") from error


DETECTORS: "Registry[Detector]" = Registry("detector")
PARSERS: "Registry[Parser]" = Registry("parser")
INPAINTERS: "Registry[Inpainter]" = Registry("inpainter")
SEGMENTERS: "Registry[Segmenter]" = Registry("segmenter")
ADAPTERS: "Registry[Adapter]" = Registry("adapter")
REFINERS: "Registry[Refiner]" = Registry("refiner")
REGISTRIES: "Mapping[str, Registry[Any]]" = {
    registry.part: registry for registry in (DETECTORS, PARSERS, INPAINTERS, SEGMENTERS, ADAPTERS, REFINERS)
}


def _settled(part: Part, device: str) -> Part:
    """A part that is all there: another thread has a stream of its own, which waits for no kernel of this one's."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return part


@dataclass(frozen=True)
class Models:
    """The six models of a profile on one device, each loaded when it is first asked for."""

    profile: Profile
    device: str = "cpu"

    @property
    def detector(self) -> "Detector":
        """Finds faces."""
        return DETECTORS.load(self.profile.detector, self.device)

    @property
    def parser(self) -> "Parser":
        """Parses aligned faces."""
        return PARSERS.load(self.profile.parser, self.device)

    @property
    def inpainter(self) -> "Inpainter":
        """Generates references."""
        return INPAINTERS.load(self.profile.inpainter, self.device)

    @property
    def segmenter(self) -> "Segmenter":
        """Encodes, and decodes prompts to masks."""
        return SEGMENTERS.load(self.profile.segmenter, self.device)

    @property
    def adapter(self) -> "Adapter":
        """The trained layer between prompts and decoder."""
        if not self.profile.adapter.weights:
            with LOADING:
                return _untrained(self.profile, self.device)
        return ADAPTERS.load(self.profile.adapter, self.device)

    @property
    def refiner(self) -> "Refiner":
        """Corrects what was decoded."""
        return REFINERS.load(self.profile.refiner, self.device)


@cache
def _untrained(profile: Profile, device: str) -> "Adapter":
    """The same weights every time: a fit to one face starts from them."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = ADAPTERS.module(profile.adapter.kind).untrained(Models(profile, device).segmenter)
    return cast("Adapter", fresh.eval().to(device))


@cache
def taxonomy_of(spec: PartSpec) -> "Taxonomy":
    """The classes of a parser, without loading its weights.

    Raises:
        ConfigError: the part is no parser.
    """
    return cast("Taxonomy", PARSERS.module(spec.kind).TAXONOMY)


@cache
def token_shape(spec: PartSpec) -> "TokenShape":
    """The shape of a segmenter's tokens, without loading its weights.

    Raises:
        ConfigError: the part is no segmenter, or its options do not suit it.
    """
    try:
        return cast("TokenShape", SEGMENTERS.module(spec.kind).token_shape(**dict(spec.options)))
    except (TypeError, KeyError) as error:
        raise ConfigError(f"a segmenter of kind {spec.kind} cannot have {dict(spec.options)}: {error}") from error


def describe(profile: Profile, *parts: str) -> dict[str, object]:
    """What of a profile decides results, for the fingerprint: kinds, weights' SHA-256, dtype, options; no paths."""
    specs = {part: profile.part(part) for part in parts or PARTS}
    return {
        part: {"kind": spec.kind, "weights": weights_digest(spec), "dtype": spec.dtype, "options": dict(spec.options)}
        for part, spec in specs.items()
    }
