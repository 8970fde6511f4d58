"""Profiles: which five models a run uses, as frozen specs that can cross a wire."""

from dataclasses import dataclass, field

from stages.settings import Settings

PARTS = ("detector", "parser", "inpainter", "segmenter", "adapter")


@dataclass(frozen=True)
class PartSpec:
    """One model of a profile.

    ``kind`` names the builder, ``weights`` is a file or folder: an absolute path, or ``embedded:NAME`` for the
    package's own weights. ``sha256`` pins a file's content. ``options`` holds the builder's keyword arguments.
    """

    kind: str
    weights: str = ""
    sha256: str = ""
    dtype: str = "float32"
    options: tuple[tuple[str, object], ...] = ()

    def option(self, name: str, default: object = None) -> object:
        """The builder's keyword argument ``name``, or ``default``."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class Profile:
    """Five parts and a name, and the settings that suit them: what a TOML file does not say."""

    name: str
    detector: PartSpec
    parser: PartSpec
    inpainter: PartSpec
    segmenter: PartSpec
    adapter: PartSpec
    settings: Settings = field(default_factory=Settings)
