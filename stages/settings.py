"""Settings that change results: frozen, picklable, and part of a run's fingerprint.

A setting is one field here, with its range and what it does; files, errors, fingerprints and documents follow from it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s3pot_batch.stages.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
AnyNames = Annotated[tuple[str, ...], Field(strict=False)]  # TOML and JSON know lists only
Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Prompting:
    """Marks a setting of ``segments`` that decides the prompts: whatever is made of prompts depends on it."""


class Drawing:
    """Marks a setting of ``segments`` that decides how a mask is drawn of what the decoder has said."""


class Bound:
    """Marks a limit: it decides which photos are read, and nothing about what is made of those that are."""


class Section(BaseModel):
    """One table of the TOML file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class FaceSettings(Section):
    """How faces are found and brought into the aligned frame."""

    max_faces: Count = 4
    """Most faces per photo, best score first; also the number of Zarr rows that the plan gives a photo."""
    min_score: Fraction = 0.1
    """Detections with a lower score are dropped."""
    relative_score: Fraction = 0.5
    """Detections whose score is a smaller fraction of the photo's best are dropped."""
    refine: bool = True
    """Align each face anew by where its parts were found, if that makes the parser surer."""
    min_parse_confidence: Fraction = 0.0
    """A detection whose parts the parser is less sure of, on the mean, is no face; 0 believes all."""
    frame: Count = 256
    """Side of the square aligned frame, in pixels."""
    max_pixels: Annotated[Count, Bound] = 100_000_000
    """Photos with more pixels are refused before decoding (decompression bombs)."""
    max_bytes: Annotated[Count, Bound] = 500_000_000
    """Files with more bytes are refused, before reading where their size is known."""
    max_seconds: Annotated[Positive, Bound] = 60.0
    """A file that takes longer to arrive is given up."""
    local_addresses: Annotated[bool, Bound] = True
    """Whether a URL may lead to this machine or its network, be it by a redirect; ``--confine`` forbids it."""


class ReferenceSettings(Section):
    """How the occlusion-free reference is generated (stage one)."""

    face_classes: Names = ("face", "rb", "lb", "re", "le", "nose", "imouth", "llip", "ulip", "eyeg")
    """The parser's classes that make the parsed face region M; eyeglasses are in M (authors' code)."""
    complete: bool = False
    """M also holds where nine of ten faces have theirs: for a parser that leaves out what something covers."""
    hidden_classes: AnyNames = ("eyeg",)
    """Parsed classes that lie in front of the face: the inpainter is told skin there, and fills them without seeing
    them."""
    dilation: Fraction = 0.03
    """The region handed to the inpainter is M dilated by this fraction of the frame's side."""
    passes: Annotated[int, Field(ge=1, le=2)] = 1
    """2: a second pass inpaints only what the first pass's contrast marks, and keeps the visible face."""
    second_pass_contrast: Fraction = 0.12
    """Mean absolute difference, as a fraction of full scale, from which the second pass fills a pixel anew."""
    seeds: Count = 1
    """Number of references that are averaged."""
    strength: Fraction = 1.0
    """Noise strength of the diffusion inpainter; below 1 it starts from the photo, and keeps more of it."""
    steps: Count = 1
    """Denoising steps."""
    scheduler: Literal["own", "ddim", "unipc", "dpm++", "lcm"] = "own"
    """What makes the steps: the pipeline's own scheduler, or another one."""
    guidance_scale: Positive = 1.0
    """Classifier-free guidance; 1 is none."""
    prompt: str = "a portrait photo of a person, the whole face bare, sharp focus"
    """What a pipeline with a text encoder is told."""
    negative_prompt: str = ""
    """What it is told to keep away from; counts where the guidance is above 1."""
    conditioning_scale: Positive = 1.0
    """Weight of the ControlNet, or of each of several."""
    identity: Fraction = 0.0
    """Weight of the IP-Adapter, which shows the person's face; 0 is none."""
    softness: Fraction = 0.0
    """Over how much of the frame's side what was generated blends into the photo, inside the hole's edge."""


class SegmentSettings(Section):
    """How the prompted segmenter's answer becomes a mask (stage two)."""

    target: Literal["face", "occlusion", "both"] = "face"
    """What the mask decoder is asked for: the visible face (authors' code), the occlusion, or both (the mean)."""
    enhance: Annotated[bool, Prompting] = True
    """FE: match prompt-conditioned features; else the encoder's plain tokens."""
    adapter: bool = True
    """PS's adapter, one self-attention layer; else the prompts go to the decoder as they are."""
    window: Annotated[bool, Prompting] = False
    """FE, matching and the decoder see only what is in and around M, one face after the other: as good, and quicker on
    a processor's core; a GPU is quicker with batches of whole frames (as published)."""
    prompt_step: Count = 1
    """The decoder gets every n-th prompt along x and y; its time grows with their number."""
    mask_prompt: bool = False
    """Give the points' labels to SAM's mask prompt too, as a coarse map over M (beyond the paper)."""
    min_similarity: Annotated[Fraction, Prompting] = 0.0
    """A match whose cosine is lower is none, and its photo token an occlusion point; 0 counts all (as published)."""
    reach: Annotated[Fraction, Prompting] = 1.0
    """How far from its own place a token may find its match, as a fraction of the frame's side; 1 is anywhere (as
    published)."""
    per_image: bool = False
    """Fit the adapter to every face anew before it is segmented (per-image fitting)."""
    refine: Annotated[bool, Drawing] = False
    """Let the refiner, a network that sees photo and reference pixel by pixel, correct the decoder (beyond the
    paper)."""
    edges: Annotated[Literal["decoder", "grabcut"], Drawing] = "decoder"
    """What draws the mask's edges: the decoder alone, or GrabCut where the decoder is unsure (beyond the paper)."""
    threshold: Annotated[Fraction, Drawing] = 0.5
    """Occlusion probability above which a pixel of M is called occluded."""


class TrainingSettings(Section):
    """Contrastive training of the adapter (authors' settings)."""

    objectives: Names = ("face_recall", "occlusion_rejection", "face_hinge")
    """Which objectives are summed."""
    sharpness: Annotated[float, Field(gt=0)] = 10.0
    """How fast a logit becomes a probability: p = sigmoid(sharpness · logit) (authors' code: 10)."""
    epochs: Count = 50
    """Passes over all pairs; of a per-image fit, the most steps."""
    batch: Count = 3
    """Pairs per step."""
    learning_rate: Positive = 1e-4
    """Of AdamW, at the start of a cosine."""
    weight_decay: Positive = 1e-6
    """Of AdamW."""
    patience: Count = 5
    """Per-image fitting stops after so many epochs without an improvement."""
    min_delta: Positive = 1e-4
    """The least fall of the loss that counts as one."""
    tokens: Literal["float16", "float32"] = "float16"
    """Precision of the token cache."""


class Settings(Section):
    """Everything that changes a result, model parts aside."""

    faces: FaceSettings = FaceSettings()
    references: ReferenceSettings = ReferenceSettings()
    segments: SegmentSettings = SegmentSettings()
    training: TrainingSettings = TrainingSettings()
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""


SECTIONS = tuple(name for name, field in Settings.model_fields.items() if name != "seed")
PROMPTING = tuple(
    f"segments.{name}" for name, field in SegmentSettings.model_fields.items() if Prompting in field.metadata
)
"""Dotted names of the settings that decide the prompts."""
DECODING = tuple(
    f"segments.{name}" for name, field in SegmentSettings.model_fields.items() if Drawing not in field.metadata
)
"""Dotted names of the settings that decide what the decoder says."""


def changed(settings: Settings, changes: dict[str, Any], where: str = "settings") -> Settings:
    """The settings with some values replaced, checked.

    >>> changed(Settings(), {"segments": {"threshold": 0.6}, "seed": 3}).segments.threshold
    0.6

    Args:
        settings: what stays where nothing is said.
        changes: new values, by section: ``{"segments": {"threshold": 0.6}, "seed": 3}``.
        where: what the values come from, for the error.

    Raises:
        ConfigError: a key or a value is wrong; the line names both, and what is allowed.
    """
    values = settings.model_dump()
    for key, value in changes.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} is a section: write [{key}] with its settings below")
        values[key] = {**values[key], **value} if key in SECTIONS else value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_line(error)}") from error


def values_of(settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """The named settings as JSON types, by section; a name is a section's, its bounds aside, or ``section.setting``."""
    every, found = settings.model_dump(mode="json"), dict[str, Any]()
    for name in names:
        section, _, key = name.partition(".")
        if key:
            found.setdefault(section, {})[key] = every[section][key]
        else:
            bounds = _bounds(section)
            whole = every[section]
            found[section] = {k: v for k, v in whole.items() if k not in bounds} if bounds else whole
    return found


def _bounds(section: str) -> set[str]:
    kind = Settings.model_fields[section].annotation
    fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else {}
    return {name for name, field in fields.items() if Bound in field.metadata}


def _line(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = type(getattr(Settings(), str(first["loc"][0]))) if len(first["loc"]) > 1 else Settings
        return f"unknown key {name}; known are {', '.join(section.model_fields)}"
    message = str(first["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return f"{name} = {first['input']!r}: {message[:1].lower()}{message[1:]}"
