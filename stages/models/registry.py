"""What implementations of each part there are, and how one is loaded.

An implementation is a module in the part's folder (``parsers/facer.py`` is the parser of kind ``facer``) with a
function ``build(weights, device, dtype, **options)``. Other packages add theirs through entry points of the group
``s3pot_batch.parsers`` (``.detectors``, ``.inpainters``, ``.segmenters``, ``.adapters``), each naming such a module.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import weights_digest, weights_path
from s3pot_batch.stages.models.profiles import PARTS, PartSpec, Profile

if TYPE_CHECKING:
    from s3pot_batch.stages.models.protocols import Adapter, Detector, Inpainter, Parser, Segmenter, TokenShape
    from s3pot_batch.stages.models.taxonomy import Taxonomy

Part = TypeVar("Part")
HERE = "s3pot_batch.stages.models"


class Implementation(Protocol):
    """What the module of an implementation holds; a parser's also ``TAXONOMY``, a segmenter's ``token_shape``."""

    build: Callable[..., object]


class Registry(Generic[Part]):
    """The implementations of one part, by kind. Nothing is imported before it is asked for."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._loaded: dict[tuple[PartSpec, str], Part] = {}

    def kinds(self) -> tuple[str, ...]:
        """The kinds that there are, ours first."""
        return (*self._ours(), *(kind for kind in self._others() if kind not in self._ours()))

    def _ours(self) -> tuple[str, ...]:
        folder = import_module(f"{HERE}.{self.part}s").__path__
        return tuple(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))

    def _others(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=f"s3pot_batch.{self.part}s")}

    def module(self, kind: str) -> ModuleType:
        """The module that implements ``kind``.

        Raises:
            ConfigError: there is none.
        """
        if kind in self._ours():  # first: to look through all installed packages takes a while
            return import_module(f"{HERE}.{self.part}s.{kind}")
        others = self._others()
        if kind not in others:
            raise ConfigError(f"unknown kind of {self.part} {kind}; known are {', '.join(self.kinds())}")
        try:
            return cast("ModuleType", others[kind].load())
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.part} {kind}: {others[kind].value} cannot be imported ({error})") from error

    def load(self, spec: PartSpec, device: str) -> Part:
        """Build a part once per process and device.

        Raises:
            ConfigError: unknown kind, missing weights, or weights that do not fit.
        """
        if (spec, device) not in self._loaded:
            self._loaded[spec, device] = self._built(spec, device)
        return self._loaded[spec, device]

    def _built(self, spec: PartSpec, device: str) -> Part:
        build = cast("Callable[..., Part]", self.module(spec.kind).build)
        weights = weights_path(spec) if spec.weights else None
        try:
            return build(weights, device, spec.dtype, **dict(spec.options))
        except (RuntimeError, TypeError, KeyError) as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's; the weights may fit well
                raise
            line = str(error).splitlines()[0]
            raise ConfigError(f"{spec.weights} does not fit a {spec.kind} with {dict(spec.options)}: {line}") from error


DETECTORS: "Registry[Detector]" = Registry("detector")
PARSERS: "Registry[Parser]" = Registry("parser")
INPAINTERS: "Registry[Inpainter]" = Registry("inpainter")
SEGMENTERS: "Registry[Segmenter]" = Registry("segmenter")
ADAPTERS: "Registry[Adapter]" = Registry("adapter")
REGISTRIES: "Mapping[str, Registry[Any]]" = {
    registry.part: registry for registry in (DETECTORS, PARSERS, INPAINTERS, SEGMENTERS, ADAPTERS)
}


@dataclass(frozen=True)
class Models:
    """The five models of a profile on one device, each loaded when it is first asked for."""

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
        return ADAPTERS.load(self.profile.adapter, self.device)


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
