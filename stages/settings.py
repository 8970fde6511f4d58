"""Settings that change results. They are frozen, picklable, and part of a run's fingerprint."""

from dataclasses import dataclass, field
from typing import Literal

FACE_CLASSES = (
    "face", "rb", "lb", "re", "le", "nose", "imouth", "llip", "ulip", "eyeg",
)  # fmt: skip
"""facer ``celebm/448`` class names that make the parsed face region M; eyeglasses are in M (authors' code)."""


@dataclass(frozen=True)
class FaceSettings:
    """How faces are found and brought into the aligned frame."""

    max_faces: int = 4
    """Most faces per photo, best score first; also the number of Zarr rows that the plan gives a photo."""
    min_score: float = 0.4
    """Detections with a lower score (0..1) are dropped."""
    refine: bool = True
    """Parse each detected face once more than needed, and align it anew by where its parts were found."""
    min_parse_confidence: float = 0.0
    """With ``refine``: a detection whose parts the parser is less sure of, on the mean, is no face; 0 believes all."""
    frame: int = 256
    """Side of the square aligned frame, in pixels."""
    max_pixels: int = 100_000_000
    """Photos with more pixels are refused before decoding (decompression bombs)."""


@dataclass(frozen=True)
class ReferenceSettings:
    """How the occlusion-free reference is generated (stage one)."""

    face_classes: tuple[str, ...] = FACE_CLASSES
    dilation: float = 0.03
    """The region handed to the inpainter is M dilated by this fraction of the frame's side."""
    passes: Literal[1, 2] = 1
    """2: a second pass inpaints only what the first pass's contrast marks, and keeps the visible face."""
    second_pass_contrast: float = 0.12
    """Mean absolute difference, as a fraction of full scale, from which the second pass fills a pixel anew."""
    seeds: int = 1
    """Number of references that are averaged."""
    strength: float = 1.0
    """Noise strength of the diffusion inpainter, 0..1."""
    steps: int = 1
    """Denoising steps."""
    guidance_scale: float = 1.0
    conditioning_scale: float = 1.0


@dataclass(frozen=True)
class SegmentSettings:
    """How the prompted segmenter's answer becomes a mask (stage two)."""

    target: Literal["face", "occlusion", "both"] = "face"
    """What the mask decoder is asked for: the visible face (authors' code), the occlusion, or both (the mean)."""
    enhance: bool = True
    """FE: match prompt-conditioned features; else the encoder's plain tokens."""
    reweight: bool = True
    """PS's self-attention layer; else the prompts go to the decoder as they are."""
    mask_prompt: bool = False
    """Give the points' labels to SAM's mask prompt too, as a coarse map over M (beyond the paper)."""
    min_similarity: float = 0.0
    """A match whose cosine is lower is none, and its photo token an occlusion point; 0 counts all (as published)."""
    reach: float = 1.0
    """How far from its own place a token may find its match, as a fraction of the frame's side; 1 is anywhere (as
    published)."""
    per_image: bool = False
    """Fit the selector to every face anew before it is segmented (per-image fitting)."""
    edges: Literal["decoder", "grabcut"] = "decoder"
    """What draws the mask's edges: the decoder alone, or GrabCut where the decoder is unsure (beyond the paper)."""
    threshold: float = 0.5
    """Occlusion probability above which a pixel of M is called occluded."""


@dataclass(frozen=True)
class TrainingSettings:
    """Contrastive training of the prompt selection layer (authors' settings)."""

    objectives: tuple[str, ...] = ("face_recall", "occlusion_rejection", "face_hinge")
    """Which of the three are summed."""
    epochs: int = 50
    batch: int = 3
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    patience: int = 5
    """Per-image fitting stops after so many epochs without an improvement."""
    min_delta: float = 1e-4
    """The least fall of the loss that counts as one."""
    tokens: Literal["float16", "float32"] = "float16"
    """Precision of the token cache."""


@dataclass(frozen=True)
class Settings:
    """Everything that changes a result, model parts aside."""

    faces: FaceSettings = field(default_factory=FaceSettings)
    references: ReferenceSettings = field(default_factory=ReferenceSettings)
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0
