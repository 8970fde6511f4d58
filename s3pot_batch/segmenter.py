"""The door for Python: photos in, masks out, without a run folder. The same code as the command line's."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch import showing
from s3pot_batch.pipeline.config import Config, resolve
from s3pot_batch.pipeline.devices import resolve as resolve_device
from s3pot_batch.pipeline.devices import settle_threads
from s3pot_batch.pipeline.remote import fetched
from s3pot_batch.stages.choices import check_choices
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.images import as_photo, decoding, read_photo
from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.faces import NOTHING, Hint
from s3pot_batch.stages.method.learning import fit_face
from s3pot_batch.stages.method.masks import Decoded, PastedMask, decode_pairs, draw, paste, ratio
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.method.stage_one import ReferencedFace, StageOne
from s3pot_batch.stages.models.protocols import GREY
from s3pot_batch.stages.models.registry import Models
from s3pot_batch.stages.settings import Settings

if TYPE_CHECKING:
    import supervision as sv

Photo = NDArray[np.uint8] | Image.Image | str | PathLike[str]
"""H×W×3 uint8 RGB, a PIL image, or a path or URL."""


@dataclass(frozen=True)
class FaceAnswer:
    """One face of a photo."""

    bbox: tuple[float, ...]
    """x0, y0, x1, y1 in photo pixels."""
    landmarks: NDArray[np.float64]
    """5×2 (x, y) in photo pixels: eyes, nose tip, mouth corners, as seen from the left."""
    score: float
    """The detector's, 0..1."""
    parse_confidence: float
    """The parser's mean probability inside M, 0..1."""
    predicted_iou: float
    """The segmenter's own guess of its mask's IoU."""
    reference: NDArray[np.uint8] = field(repr=False)
    """S×S×3 RGB in the aligned frame: the face with nothing in front of it."""
    contrast: NDArray[np.float32] = field(repr=False)
    """S×S in the aligned frame, 1 − cosine of the photo's and the reference's tokens."""
    aligned: AlignedFace = field(repr=False)
    """The face in its frame, and the way there and back."""
    pasted: PastedMask = field(repr=False)

    @property
    def region(self) -> NDArray[np.bool_]:
        """H×W, the face region M: where the face is, and would be seen with nothing in front."""
        return self.pasted.region

    @property
    def occlusion(self) -> NDArray[np.bool_]:
        """H×W, the hidden part of M."""
        return self.pasted.occlusion

    @property
    def probability(self) -> NDArray[np.float32]:
        """H×W in 0..1, that a pixel of M is hidden; 0 outside M."""
        return self.pasted.probability

    @property
    def ratio(self) -> float:
        """Hidden share of M, 0..1."""
        return self.pasted.occlusion_ratio

    def to_pil(self) -> Image.Image:
        """The aligned face, its reference, and the face with what is hidden in orange, side by side."""
        raw, reference = self.aligned.raw, self.reference
        hidden = self.aligned.alignment.warp_labels(self.occlusion.astype(np.uint8)) > 0
        return showing.beside([Image.fromarray(raw), Image.fromarray(reference), showing.tinted(raw, hidden)])

    def show(self) -> None:
        """Show :meth:`to_pil`, in a notebook or in the system's viewer."""
        showing.show(self.to_pil())

    def figures(self) -> dict[str, str]:
        """What is known of the face, for a table."""
        return {
            "box": ", ".join(f"{value:.0f}" for value in self.bbox), "hidden": f"{self.ratio:.1%}",
            "detector's score": f"{self.score:.3f}", "parser's confidence": f"{self.parse_confidence:.3f}",
            "predicted IoU": f"{self.predicted_iou:.3f}",
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return showing.html(self.to_pil(), "Face, reference, and what is hidden in orange", [self.figures()])


@dataclass(frozen=True)
class PhotoAnswer:
    """What was found in one photo of H×W pixels.

    >>> nobody = PhotoAnswer((480, 640), faces=())
    >>> nobody.occlusion.shape, bool(nobody.occlusion.any()), nobody.ratio
    ((480, 640), False, 0.0)
    """

    shape: tuple[int, int]
    """(H, W)."""
    faces: tuple[FaceAnswer, ...]
    """The surest first; empty where no face was found."""
    photo: NDArray[np.uint8] | None = field(default=None, repr=False)
    """H×W×3 RGB, as it was worked on."""

    @cached_property
    def occlusion(self) -> NDArray[np.bool_]:
        """H×W, hidden pixels of all faces."""
        return self._united([face.occlusion for face in self.faces])

    @cached_property
    def region(self) -> NDArray[np.bool_]:
        """H×W, the regions of all faces."""
        return self._united([face.region for face in self.faces])

    @property
    def ratio(self) -> float:
        """Hidden share of all faces, 0..1; 0 without a face."""
        return ratio(self.occlusion, self.region)

    def to_pil(self) -> Image.Image:
        """The photo with what is hidden in orange."""
        photo = np.full((*self.shape, 3), GREY, np.uint8) if self.photo is None else self.photo
        return showing.tinted(photo, self.occlusion)

    def show(self) -> None:
        """Show :meth:`to_pil`, in a notebook or in the system's viewer."""
        showing.show(self.to_pil())

    def to_supervision(self) -> "sv.Detections":
        """The faces for the package ``supervision``: boxes, masks of what is hidden, scores, and in ``data`` the rest.

        Raises:
            ConfigError: it is not installed.
        """
        try:
            import supervision as sv
        except ImportError as error:
            raise ConfigError("supervision is not installed; install it with: pip install supervision") from error
        if not self.faces:
            return sv.Detections.empty()
        return sv.Detections(
            xyxy=np.array([face.bbox for face in self.faces], np.float32),
            mask=np.stack([face.occlusion for face in self.faces]),
            confidence=np.array([face.score for face in self.faces], np.float32),
            class_id=np.zeros(len(self.faces), int),
            data={
                "class_name": np.array(["face"] * len(self.faces)),
                "occlusion_ratio": np.array([face.ratio for face in self.faces]),
                "predicted_iou": np.array([face.predicted_iou for face in self.faces]),
            },
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        faces = f"{len(self.faces)} face{'' if len(self.faces) == 1 else 's'}"
        said = f"{faces}, {self.ratio:.1%} hidden, in orange" if self.faces else "No face was found"
        return showing.html(self.to_pil(), said, [face.figures() for face in self.faces])

    def _united(self, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return np.any(masks, axis=0) if masks else np.zeros(self.shape, bool)


class Segmenter:
    """Finds the faces of photos, and what hides them.

    Args:
        profile: ``embedded``, ``paper``, or the path of a TOML file that replaces parts of one.
        device: ``auto``, ``cpu``, ``cuda``, or a name that torch knows.
        config: a TOML file with settings, such as a run folder's ``config.toml``.
        settings: all settings; instead of ``config``.
        adapter: a trained adapter's folder, such as a run folder's ``checkpoint``; else the profile's own.

    Raises:
        ConfigError: a setting, a file or the device cannot be used; models that are missing say so at the first photo.
    """

    def __init__(
        self, profile: str | None = None, *, device: str = "auto",
        config: str | PathLike[str] | None = None, settings: Settings | None = None,
        adapter: str | PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        found = resolve(file=Path(config) if config else None, profile=profile)
        if settings is not None:
            check_choices(found.profile, settings)
            found = Config(found.profile_name, found.profile, settings)
        self._config = found.with_checkpoint(fetched(Path(adapter))) if adapter else found
        self.models = Models(self._config.profile, _usable(resolve_device(device)))

    @property
    def settings(self) -> Settings:
        """All that decides results, models aside."""
        return self._config.settings

    def segment(self, image: Photo, *, image_id: str | None = None, hint: Hint = NOTHING) -> PhotoAnswer:
        """Find the faces of one photo, and what hides them.

        >>> wall = np.full((64, 64, 3), 200, np.uint8)
        >>> Segmenter(device="cpu").segment(wall).faces
        ()

        Args:
            image: an array, a PIL image, or a path or URL.
            image_id: what references are seeded by, with the seed; a path's own stem if not given.
            hint: a box or landmarks, where they are known.

        Raises:
            ItemError: the photo cannot be read.
            NotAFace: the landmarks of ``hint`` do not span a face.
        """
        photo, name = self._photo(image, image_id)
        [answer] = self._answers([photo], [name], [hint])
        return answer

    def segment_many(self, images: Iterable[Photo], *, batch_size: int = 8) -> Iterator[PhotoAnswer]:
        """The same for many photos, in order; faces go through the models together, ``batch_size`` photos at a time.

        Raises:
            ItemError: a photo cannot be read. A manifest and the command line go on after such a photo.
        """
        coming = iter(images)
        while group := list(islice(coming, batch_size)):
            read = [self._photo(image, None) for image in group]
            yield from self._answers([photo for photo, _ in read], [name for _, name in read], [NOTHING] * len(read))

    def _photo(self, image: Photo, image_id: str | None) -> tuple[NDArray[np.uint8], str]:
        if isinstance(image, str | PathLike):
            return read_photo(fspath(image), self.settings.faces), image_id or Path(fspath(image)).stem
        if isinstance(image, Image.Image):
            with decoding(image_id or "the picture"):
                return as_photo(image), image_id or ""
        photo = np.ascontiguousarray(image)  # torch takes no array that is turned round
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise ValueError(f"a photo is H×W×3 uint8 RGB, not {'×'.join(map(str, photo.shape))} {photo.dtype}")
        return photo, image_id or ""

    def _answers(
        self, photos: Sequence[NDArray[np.uint8]], names: Sequence[str], hints: Sequence[Hint]
    ) -> list[PhotoAnswer]:
        with _threads_of_workers(self.models.device):
            stage_one = StageOne(self.models, self.settings)
            searches = [stage_one.search(photo, hint) for photo, hint in zip(photos, hints, strict=True)]
            at_once = 1 if self.models.device == "cpu" else len(photos)  # as a run's workers do
            looked = [
                some
                for start in range(0, len(searches), at_once)
                for some in stage_one.together(searches[start : start + at_once])
            ]
            most = self.settings.faces.max_faces
            faces = [(n, slot, face) for n, some in enumerate(looked) for slot, face in enumerate(some[:most])]
            found: dict[int, list[FaceAnswer]] = {n: [] for n in range(len(photos))}
            for start in range(0, len(faces), at_once):
                group = faces[start : start + at_once]
                referenced = stage_one.refer([face for _, _, face in group], [(names[n], slot) for n, slot, _ in group])
                own = self._fitted if self.settings.segments.per_image else None
                decoded = decode_pairs(self._network, [face.pair for face in referenced], own)
                for (n, _, _), face, one in zip(group, referenced, decoded, strict=True):
                    found[n].append(self._face(face, one, photos[n].shape[:2]))
        return [PhotoAnswer(photo.shape[:2], tuple(found[n]), photo) for n, photo in enumerate(photos)]

    @property
    def _network(self) -> S3POT:
        return S3POT(self.models.segmenter, self.models.adapter, self.settings.segments)

    def _fitted(self, n: int, prompted: Prompted) -> S3POT:
        """The network with an adapter of the face's own, which learns from what a run's cache would hold."""
        del n  # each face is fitted when its turn comes
        kept: torch.dtype = getattr(torch, self.settings.training.tokens)
        prompts = replace(prompted.prompts, similarity=prompted.prompts.similarity.to(kept).float())
        rounded = replace(prompted, tokens=prompted.tokens.to(kept).float(), prompts=prompts)
        return fit_face(self._network, rounded, self.settings.training).network

    def _face(self, face: ReferencedFace, decoded: Decoded, shape: tuple[int, int]) -> FaceAnswer:
        detection, settings = face.aligned.detection, self.settings.segments
        refiner = self.models.refiner if settings.refine else None
        mask = draw(face.pair, decoded.occlusion, settings, refiner)
        return FaceAnswer(
            bbox=detection.bbox, landmarks=detection.landmarks, score=detection.score,
            parse_confidence=face.parsed.confidence, predicted_iou=decoded.predicted_iou, reference=face.reference,
            contrast=decoded.contrast, aligned=face.aligned,
            pasted=paste(mask, face.aligned.alignment, shape, settings.threshold),
        )  # fmt: skip


def segment_many(images: Iterable[Photo], *, profile: str | None = None, batch_size: int = 8) -> Iterator[PhotoAnswer]:
    """Segment photos with a profile's own settings; see :meth:`Segmenter.segment_many`."""
    yield from Segmenter(profile).segment_many(images, batch_size=batch_size)


def _usable(device: str) -> str:
    """The device, if torch can work on it.

    Raises:
        ConfigError: it cannot; else the first model would be blamed for it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without that kind of device
        raise ConfigError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def _threads_of_workers(device: str) -> Iterator[None]:
    """A run's workers use one torch thread on a CPU, which decides last bits: the same here, for as long as we work."""
    before = torch.get_num_threads()
    settle_threads(device)
    try:
        yield
    finally:
        torch.set_num_threads(before)
