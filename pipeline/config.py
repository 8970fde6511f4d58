"""From profile, TOML file and command line to settings, and the fingerprints that keep a run folder consistent."""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.fingerprint import difference, fingerprint
from s3pot_batch.stages.base import Stage, StageContext, stage_named, stages_towards
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import DEFAULT, Profile, find_profile
from s3pot_batch.stages.settings import SECTIONS, Settings, changed, values_of

WRITTEN = ("fingerprints", "inputs")
"""Tables of a run's ``config.toml`` that are results: read back, never set."""
CONFIG = "config.toml"
HEAD = "# Written by s3pot-batch. Give it to --config to work with the same settings elsewhere.\n"


@dataclass(frozen=True)
class Config:
    """What a command works with, resolved."""

    profile_name: str
    profile: Profile
    settings: Settings

    def stages(self, target: str) -> tuple[Stage, ...]:
        """A stage and all that have to come before it with these settings, in order."""
        return stages_towards(target, self.settings)

    def inputs(self, stage: str) -> dict[str, Any]:
        """Everything that decides the results of a stage, as JSON types; see the run folder's ``config.toml``."""
        found = stage_named(stage)
        needed = found.needed(self.settings)
        return {
            **({} if found.version is None else {"schema_version": found.version}),
            **{name: self.fingerprint(name) for name in needed},
            **self._models(found.parts),
            **values_of(self.settings, found.settings),
        }

    def _models(self, parts: Sequence[str]) -> dict[str, object]:
        from s3pot_batch.stages.models.registry import describe

        adapter = self.profile.adapter
        if "adapter" not in parts or not adapter.sha256:
            return describe(self.profile, *parts) if parts else {}
        # trained in a run folder: known by its bytes, wherever the folder is
        trained = {"kind": adapter.kind, "weights": adapter.sha256, "dtype": adapter.dtype}
        others = [part for part in parts if part != "adapter"]
        return {**(describe(self.profile, *others) if others else {}), "adapter": trained}

    def fingerprint(self, stage: str) -> str:
        """SHA-256 of :meth:`inputs`."""
        return fingerprint(self.inputs(stage))

    def context(self, stage: str, run: Path, *, device: str, batch_size: int) -> StageContext:
        """What all shards of ``stage`` share."""
        return StageContext(run.absolute(), self.profile, self.settings, self.fingerprint(stage), device, batch_size)

    def with_settings(self, changes: dict[str, Any]) -> "Config":
        """The same with some settings replaced, by section."""
        return replace(self, settings=changed(self.settings, changes))

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
        adapter = replace(self.profile.adapter, weights=str(model.parent.resolve()), sha256=digest)
        return replace(self, profile=replace(self.profile, adapter=adapter))


def resolve(*, file: Path | None = None, profile: str | None = None, seed: int | None = None) -> Config:
    """Settings from the profile, a TOML file over them, the command line over both.

    A run folder's own ``config.toml`` is such a file too.

    Raises:
        ConfigError: naming the file, the key, and what is known instead.
    """
    from s3pot_batch.stages.choices import check_choices

    content = _read(file) if file else {}
    name = profile or content.get("profile", DEFAULT)
    if not isinstance(name, str):
        raise ConfigError(f"{file}: profile = {name!r} is not a name or a TOML file")
    found = find_profile(name)
    known = ("profile", "seed", *SECTIONS)
    unknown = [key for key in content if key not in {*known, *WRITTEN}]
    if unknown:
        raise ConfigError(f"{file}: unknown key {unknown[0]}; known are {', '.join(known)}")
    changes = {key: value for key, value in content.items() if key in known[1:]}
    settings = changed(found.settings, {"seed": 0, **changes} | ({} if seed is None else {"seed": seed}), str(file))
    try:
        check_choices(found, settings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file else str(error)) from error
    return Config(name, found, settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from error


def differing_inputs(config: Config, run: Path, stage: str) -> list[str] | None:
    """In what the settings differ from those that a run folder's stage was made with; ``None`` if it holds none."""
    made = _settled(run).get("inputs", {})
    return difference(made[stage], _plain(config.inputs(stage))) if stage in made else None


def outdated_stages(config: Config, run: Path, stages: Sequence[Stage]) -> dict[str, str]:
    """Which later stages of a run folder were made with other settings, and with which.

    They are done again. Stage one costs most, and has to be asked for in another folder.

    Raises:
        ConfigError: it is the first stage; the line names every setting that differs.
    """
    outdated = dict[str, str]()
    for stage in stages:
        differing = "; ".join(differing_inputs(config, run, stage.name) or ())
        if differing and not stage.needs:
            raise ConfigError(f"{run} holds {stage.name} made with other settings: {differing}; use another --run")
        if differing:
            outdated[stage.name] = differing
    return outdated


def write_run(config: Config, run: Path, stages: Sequence[str]) -> None:
    """Write the run folder's ``config.toml``: resolved settings, and per stage what its fingerprint is made of."""
    settled, values = _settled(run), config.settings.model_dump(mode="json")
    own = {section for stage in stages for section in stage_named(stage).sections}
    content = {
        "profile": config.profile_name,
        "seed": config.settings.seed,
        **{name: values[name] if name in own else settled.get(name, values[name]) for name in SECTIONS},
        "fingerprints": settled.get("fingerprints", {}) | {stage: config.fingerprint(stage) for stage in stages},
        "inputs": settled.get("inputs", {}) | {stage: config.inputs(stage) for stage in stages},
    }
    with replacing(run / CONFIG) as temporary:
        temporary.write_text(HEAD + tomli_w.dumps(_plain(content)), encoding="utf-8")


def is_damaged(run: Path) -> bool:
    """Whether a run folder's ``config.toml`` is not what was written there; it is made anew then."""
    return (run / CONFIG).exists() and not _settled(run)


def _settled(run: Path) -> dict[str, Any]:
    """A run folder's ``config.toml``; nothing if it is damaged, of which its fingerprints tell."""
    path = run / CONFIG
    try:
        found = _read(path) if path.exists() else {}
        made = {stage: fingerprint(inputs) for stage, inputs in found.get("inputs", {}).items()}
    except (ConfigError, AttributeError, TypeError, ValueError):
        return {}
    return found if made == found.get("fingerprints", {}) else {}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """``value`` as it comes back from TOML, which knows no null and no tuple."""
    return json.loads(json.dumps(_without_nulls(value)))


def _without_nulls(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(part) for key, part in value.items() if part is not None}
    return value
