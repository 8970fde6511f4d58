"""From profile, TOML file and command line to settings, and the fingerprints that keep a run folder consistent."""

import hashlib
import json
import math
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from manifests.fingerprint import difference, fingerprint
from stages.base import StageContext
from stages.errors import ConfigError
from stages.models.profiles import PartSpec, Profile
from stages.settings import Settings

SECTIONS = ("faces", "references", "segments", "training")
FRACTIONS = (
    "min_score", "min_parse_confidence", "dilation", "second_pass_contrast", "strength", "threshold", "min_similarity",
    "reach",
)  # fmt: skip
WRITTEN = ("fingerprints", "inputs")
"""Tables of a run's ``config.toml`` that are results: read back, never set."""
PROMPTING = ("enhance", "min_similarity", "reach")
"""Segment settings that decide the prompts."""
OWNERS = {
    "references": ("faces", "references"), "tokens": (), "train": ("training",), "fits": ("training",),
    "segments": ("segments",),
}  # fmt: skip
"""Whose settings a stage settles for its run folder."""
CONFIG = "config.toml"


@dataclass(frozen=True)
class Config:
    """What a command works with, resolved."""

    profile_name: str
    profile: Profile
    settings: Settings

    def inputs(self, stage: str) -> dict[str, Any]:
        """Everything that decides the results of ``stage``, as JSON types; see the run folder's ``config.toml``."""
        from manifests.schema import SCHEMA_VERSION
        from stages.models.catalog import describe

        values = json.loads(json.dumps(asdict(self.settings)))
        if stage == "references":
            return {
                "schema_version": SCHEMA_VERSION,
                "seed": self.settings.seed,
                **describe(self.profile, "detector", "parser", "inpainter"),
                **{name: values[name] for name in ("faces", "references")},
            }
        before = {"references": self.fingerprint("references"), **describe(self.profile, "segmenter")}
        if stage == "tokens":
            prompting = {name: values["segments"][name] for name in PROMPTING}
            return {**before, "segments": prompting, "training": {"tokens": values["training"]["tokens"]}}
        learning = {
            "tokens": self.fingerprint("tokens"),
            "training": values["training"],
            "segments": {name: values["segments"][name] for name in ("target", "reweight")},
        }
        if stage == "train":
            return {**learning, "seed": self.settings.seed}
        adapter = self.profile.adapter
        trained = {"adapter": {"kind": adapter.kind, "weights": adapter.sha256, "dtype": adapter.dtype}}
        started = trained if adapter.sha256 else describe(self.profile, "adapter")
        if stage == "fits":
            return {**learning, **started}
        fitted = {"fits": self.fingerprint("fits")} if self.settings.segments.per_image else {}
        return {**before, **started, **fitted, "segments": values["segments"]}

    def fingerprint(self, stage: str) -> str:
        """SHA-256 of :meth:`inputs`."""
        return fingerprint(self.inputs(stage))

    def context(self, stage: str, *, device: str, batch_size: int) -> StageContext:
        """What all shards of ``stage`` share."""
        return StageContext(self.profile, self.settings, self.fingerprint(stage), device, batch_size)

    def with_per_image(self) -> "Config":
        """The same with per-image fitting."""
        segments = replace(self.settings.segments, per_image=True)
        return replace(self, settings=replace(self.settings, segments=segments))

    def with_checkpoint(self, model: Path) -> "Config":
        """The same with a trained adapter: a ``model.safetensors``, or the folder that holds it.

        Raises:
            ConfigError: it is not there.
        """
        model = model / "model.safetensors" if model.is_dir() else model
        if not model.is_file() or model.name != "model.safetensors":
            raise ConfigError(f"{model}: no checkpoint there; make one with: s3pot-batch train")
        with model.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        adapter = PartSpec("selector", str(model.parent.resolve()), digest)
        return replace(self, profile=replace(self.profile, adapter=adapter))


def resolve(*, file: Path | None = None, profile: str | None = None, seed: int | None = None) -> Config:
    """Settings from the profile, a TOML file over them, the command line over both.

    A run folder's own ``config.toml`` is such a file too.

    Raises:
        ConfigError: naming the file, the key, and what is known instead.
    """
    from stages.models.catalog import profile as find_profile
    from stages.models.catalog import profile_names

    content = _read(file) if file else {}
    name = profile or content.get("profile", profile_names()[0])
    number = content.get("seed", 0) if seed is None else seed
    if not isinstance(name, str):
        raise ConfigError(f"{file}: profile = {name!r} is not a name or a TOML file")
    if type(number) is not int or number < 0:
        raise ConfigError(f"seed = {number!r} is not a whole number from 0")
    found = find_profile(name)
    sections = {
        section: _section(file, section, getattr(found.settings, section), content[section])
        for section in SECTIONS
        if section in content
    }
    return Config(name, found, replace(found.settings, seed=number, **sections))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from error
    known = ("profile", "seed", *SECTIONS, *WRITTEN)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key}; known are {', '.join(known[: -len(WRITTEN)])}")
        if key in SECTIONS and not isinstance(value, dict):
            raise ConfigError(f"{path}: {key} is a section: write [{key}] with its settings below")
    return content


def _section(file: Path | None, section: str, default: Any, changes: Mapping[str, Any]) -> Any:  # noqa: ANN401
    hints = get_type_hints(type(default))
    known = [entry.name for entry in fields(default)]
    for key in changes:
        if key not in known:
            raise ConfigError(f"{file}: unknown key {section}.{key}; known are {', '.join(known)}")
    checked = {key: _checked(f"{file}: {section}.{key}", key, value, hints[key]) for key, value in changes.items()}
    return replace(default, **checked)


def _checked(where: str, key: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    """``value`` as the type that the setting has: Literal, whole number, number, truth value, text, list of text."""
    if get_origin(hint) is Literal:
        if value in get_args(hint) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{where} = {value!r}: choose one of {', '.join(map(repr, get_args(hint)))}")
    if get_origin(hint) is tuple:
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ConfigError(f"{where} = {value!r} is not a list of text")
    if hint is float and type(value) in {int, float}:
        if not (math.isfinite(value) and 0 <= value <= (1 if key in FRACTIONS else math.inf)):
            raise ConfigError(f"{where} = {value!r}: must be {'from 0 to 1' if key in FRACTIONS else '0 or more'}")
        return float(value)
    if hint is int and type(value) is int and value < 1:
        raise ConfigError(f"{where} = {value!r}: must be 1 or more")
    if type(value) is not hint:
        raise ConfigError(f"{where} = {value!r} is not of type {hint.__name__}")
    return value


def check_run(config: Config, run: Path, stages: Sequence[str]) -> None:
    """Make sure that what a run folder holds of ``stages`` was made with the same settings.

    Raises:
        ConfigError: naming every setting that differs.
    """
    made = _settled(run).get("inputs", {})
    for stage in stages:
        differing = difference(made[stage], _plain(config.inputs(stage))) if stage in made else []
        if differing:
            raise ConfigError(
                f"{run} holds {stage} made with other settings: {'; '.join(differing)}; use another --run"
            )


def write_run(config: Config, run: Path, stages: Sequence[str]) -> None:
    """Write the run folder's ``config.toml``: resolved settings, and per stage what its fingerprint is made of."""
    settled = _settled(run)
    values = asdict(config.settings)
    sections = {name: settled.get(name, values[name]) for name in SECTIONS}
    sections |= {name: values[name] for stage in stages for name in OWNERS[stage]}
    prints = settled.get("fingerprints", {}) | {stage: config.fingerprint(stage) for stage in stages}
    inputs = settled.get("inputs", {}) | {stage: _plain(config.inputs(stage)) for stage in stages}
    tables = {
        **sections,
        "fingerprints": prints,
        **{f"inputs.{stage}": inputs[stage] for stage in inputs},
    }
    lines = [
        "# Written by s3pot-batch. Give it to --config to work with the same settings elsewhere.",
        f"profile = {_toml(config.profile_name)}",
        f"seed = {config.settings.seed}",
    ]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    run.mkdir(parents=True, exist_ok=True)
    temporary = run / f".{CONFIG}.{uuid.uuid4().hex}"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(run / CONFIG)


def _settled(run: Path) -> dict[str, Any]:
    path = run / CONFIG
    return _read(path) if path.exists() else {}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """``value`` as it comes back from TOML, which knows no null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items() if part is not None}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _toml(value: Any) -> str:  # noqa: ANN401
    """A value in TOML: JSON but for tables."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in _plain(value).items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return json.dumps(value, ensure_ascii=False)
