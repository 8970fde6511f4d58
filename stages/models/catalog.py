"""The catalog of profiles, and one builder for every kind of part."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ConfigError
from stages.models.profiles import PARTS, PartSpec, Profile
from stages.settings import FaceSettings, ReferenceSettings, SegmentSettings, Settings, TrainingSettings

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from stages.faces.detection import FaceDetector
    from stages.models.inpainter import Inpainter
    from stages.models.parser import Parser
    from stages.segmentation.selection import PromptSelector

CACHE = Path("~/.cache/s3pot-batch")

EMBEDDED = Profile(
    name="embedded",
    detector=PartSpec("heatmap", "embedded:detector.safetensors"),
    parser=PartSpec("facer", "embedded:parser.pt"),
    inpainter=PartSpec(
        "controlnet", "embedded:inpainter", options=(("size", 128), ("six_channels", True), ("residual", True))
    ),
    segmenter=PartSpec("sam_small", "embedded:segmenter.safetensors"),
    adapter=PartSpec("selector", "embedded:adapter"),
    settings=Settings(
        faces=FaceSettings(min_score=0.38, min_parse_confidence=0.8),
        segments=SegmentSettings(target="occlusion", min_similarity=0.7, edges="grabcut"),
        training=TrainingSettings(epochs=2),  # more of them fit the wrong prompts, too
    ),
)

PAPER = Profile(
    name="paper",
    detector=PartSpec("retinaface", f"{CACHE}/mobilenet0.25_Final.pth"),
    parser=PartSpec("facer", f"{CACHE}/face_parsing.farl.celebm.main_ema_181500_jit.pt"),
    inpainter=PartSpec("controlnet", f"{CACHE}/sd15-inpaint-controlnet", dtype="float16",
                       options=(("size", 512), ("six_channels", False))),
    segmenter=PartSpec("sam_vit", f"{CACHE}/sam_vit_h_4b8939.pth", options=(("size", "vit_h"),)),
    adapter=PartSpec("selector", f"{CACHE}/adapter"),
    settings=Settings(references=ReferenceSettings(steps=20)),
)  # fmt: skip

SOURCES = {
    "mobilenet0.25_Final.pth": "https://github.com/FacePerceiver/facer/releases/download/models-v1/mobilenet0.25_Final.pth",
    "face_parsing.farl.celebm.main_ema_181500_jit.pt": "https://github.com/FacePerceiver/facer/releases/download/models-v1/face_parsing.farl.celebm.main_ema_181500_jit.pt",
    "sam_vit_h_4b8939.pth": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
    "sam_vit_l_0b3195.pth": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
    "sam_vit_b_01ec64.pth": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
}
"""Public files that ``models pull`` fetches, by file name."""

PROFILES = {profile.name: profile for profile in (EMBEDDED, PAPER)}


def profile_names() -> list[str]:
    """The built-in profiles; the first is the default."""
    return list(PROFILES)


def profile(name: str) -> Profile:
    """A built-in profile, or one read from a TOML file that starts from one and replaces parts.

    Raises:
        ConfigError: there is no such profile, or the file has unknown keys.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise ConfigError(f"no profile {name}; choose {', '.join(PROFILES)}, or give a TOML file")
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    base = profile(str(content.pop("base", "embedded")))
    unknown = sorted(set(content) - {*PARTS, "name"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; a profile has base, name, {', '.join(PARTS)}")
    named = [part for part in PARTS if part in content]
    parts: dict[str, Any] = {part: _changed(path, getattr(base, part), content[part]) for part in named}
    return replace(base, name=str(content.get("name", path.stem)), **parts)


def _changed(path: Path, spec: PartSpec, change: dict[str, Any]) -> PartSpec:
    options = dict(spec.options) | change.pop("options", {}) if change.get("kind", spec.kind) == spec.kind else (
        change.pop("options", {}))  # fmt: skip
    unknown = sorted(set(change) - {"kind", "weights", "sha256", "dtype"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; a part has kind, weights, sha256, dtype, options")
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return replace(spec, **change, options=tuple(sorted(frozen.items())))


def describe(profile: Profile, *parts: str) -> dict[str, object]:
    """What of a profile decides results, for the fingerprint: kinds, weights' SHA-256, dtype, options; no paths."""
    from stages.models.weights import weights_digest

    specs = {part: getattr(profile, part) for part in parts or PARTS}
    return {
        part: {"kind": spec.kind, "weights": weights_digest(spec), "dtype": spec.dtype,
               "options": dict(spec.options)}
        for part, spec in specs.items()
    }  # fmt: skip


def verify(profile: Profile) -> list[str]:
    """What is wrong with a profile's weights, a line each; empty when all is well."""
    from stages.models.weights import weights_digest

    problems = []
    for part in PARTS:
        spec: PartSpec = getattr(profile, part)
        try:
            digest = weights_digest(spec)
        except ConfigError as error:
            problems.append(f"{part}: {error}")
            continue
        if spec.sha256 and spec.sha256 != digest:
            problems.append(f"{part}: {spec.weights} hashes to {digest}, not to the pinned {spec.sha256}")
    return problems


def pull(profile: Profile, *, offline: bool) -> list[str]:
    """Fetch the public files that a profile names and that are not there; returns what was done, a line each.

    Raises:
        ConfigError: offline, or a part has no public source.
    """
    from torch.hub import download_url_to_file

    done = []
    for part in PARTS:
        spec: PartSpec = getattr(profile, part)
        path = Path(spec.weights).expanduser()
        if spec.weights.startswith("embedded:") or path.exists():
            done.append(f"{part}: there")
        elif path.name not in SOURCES:
            done.append(f"{part}: {path} has no public source; put the files there yourself")
        elif offline:
            raise ConfigError(f"{part}: {path} is missing and --offline forbids fetching {SOURCES[path.name]}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(SOURCES[path.name], str(path), hash_prefix=spec.sha256 or None, progress=False)
            done.append(f"{part}: fetched {path.name}")
    return done


def _heatmap(spec: PartSpec, device: str) -> "FaceDetector":
    import torch

    from stages.faces.detection import HeatmapDetector
    from stages.models.detection_net import DetectionNet
    from stages.models.weights import read_state, weights_path

    net = DetectionNet(**dict(spec.options))  # type: ignore[arg-type]
    net.load_state_dict(read_state(weights_path(spec)))
    return HeatmapDetector(net.eval().to(device), torch.device(device))


def _retinaface(spec: PartSpec, device: str) -> "FaceDetector":
    from stages.faces.retinaface import RetinaFace
    from stages.models.weights import weights_path

    return RetinaFace(weights_path(spec), device)


def _facer(spec: PartSpec, device: str) -> "Parser":
    from stages.models.parser import FacerParser
    from stages.models.weights import weights_path

    return FacerParser(weights_path(spec), device)


def _controlnet(spec: PartSpec, device: str) -> "Inpainter":
    from stages.models.inpainter import ControlNetInpainter
    from stages.models.weights import weights_path

    return ControlNetInpainter(weights_path(spec), device, spec.dtype, **dict(spec.options))  # type: ignore[arg-type]


def _sam_small(spec: PartSpec, device: str) -> "Sam":
    from stages.models.sam import build_small_sam
    from stages.models.weights import read_state, weights_path

    sam = build_small_sam(**dict(spec.options))  # type: ignore[arg-type]
    sam.load_state_dict(read_state(weights_path(spec)))
    return sam.to(device)


def _sam_vit(spec: PartSpec, device: str) -> "Sam":
    from stages.models.sam import build_vit_sam
    from stages.models.weights import read_state, weights_path

    sam = build_vit_sam(**dict(spec.options))  # type: ignore[arg-type]
    sam.load_state_dict(read_state(weights_path(spec)))
    return sam.to(device)


def _selector(spec: PartSpec, device: str) -> "PromptSelector":
    from stages.models.weights import weights_path
    from stages.segmentation.checkpoint import load_adapter

    return load_adapter(weights_path(spec)).to(device)


def token_shape(spec: PartSpec) -> tuple[int, int]:
    """Channels C and side T of a segmenter's tokens C×T×T, without loading it.

    Raises:
        ConfigError: the part is no segmenter.
    """
    from inspect import signature

    from stages.models.sam import build_small_sam, build_vit_sam

    builders: dict[str, Callable[..., Any]] = {"sam_small": build_small_sam, "sam_vit": build_vit_sam}
    if spec.kind not in builders:
        raise ConfigError(f"{spec.kind} is no segmenter; known are {', '.join(builders)}")
    bound = signature(builders[spec.kind]).bind(**dict(spec.options))
    bound.apply_defaults()
    sizes = bound.arguments
    if spec.kind == "sam_small":
        return sizes["embed_dim"], sizes["img_size"] // 2
    return sizes["out_chans"], sizes["img_size"] // sizes["patch_size"]


BUILDERS: dict[str, Callable[[PartSpec, str], Any]] = {
    "heatmap": _heatmap, "retinaface": _retinaface, "facer": _facer, "controlnet": _controlnet,
    "sam_small": _sam_small, "sam_vit": _sam_vit, "selector": _selector,
}  # fmt: skip


@cache
def load(spec: PartSpec, device: str) -> Any:  # noqa: ANN401  (each part has its own protocol)
    """Build a part once per process and device; the caller knows which protocol its part follows.

    Raises:
        ConfigError: unknown kind, missing weights, or weights that do not fit.
    """
    if spec.kind not in BUILDERS:
        raise ConfigError(f"unknown kind of model {spec.kind}; known are {', '.join(BUILDERS)}")
    try:
        return BUILDERS[spec.kind](spec, device)
    except (RuntimeError, TypeError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"{spec.weights} does not fit a {spec.kind} with {dict(spec.options)}: {line}") from error
