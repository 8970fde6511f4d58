"""Stage one of the method, from a photo to the references of its faces."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.faces import NOTHING, Answer, FaceFinder, Hint, ParsedFace, Search, together
from s3pot_batch.stages.method.pairs import Pair
from s3pot_batch.stages.method.parsing import FaceParser, Parsed
from s3pot_batch.stages.method.references import ReferenceGenerator
from s3pot_batch.stages.settings import Settings

if TYPE_CHECKING:
    from s3pot_batch.stages.models.registry import Models


@dataclass(frozen=True)
class ReferencedFace:
    """One face with all that stage one knows of it; ``reference`` S×S×3 uint8 RGB in the aligned frame."""

    aligned: AlignedFace
    parsed: Parsed
    reference: NDArray[np.uint8]

    @property
    def pair(self) -> Pair:
        """What stage two needs of it."""
        return Pair(self.aligned.raw, self.reference, self.parsed.region)


class StageOne:
    """Detector, parser and inpainter of a profile, with the settings that they work by."""

    def __init__(self, models: "Models", settings: Settings) -> None:
        self.models = models
        self.settings = settings
        self.parser = FaceParser(models.parser, settings.references.face_classes, complete=settings.references.complete)
        self.finder = FaceFinder(models.detector, self.parser, settings.faces)

    def find(self, photo: NDArray[np.uint8], hint: Hint = NOTHING) -> list[ParsedFace]:
        """The faces of an H×W×3 uint8 RGB photo in their frames, the best first.

        Raises:
            NotAFace: the landmarks of ``hint`` do not span a face.
        """
        return self.finder.find(photo, hint)

    def search(self, photo: NDArray[np.uint8], hint: Hint = NOTHING) -> Search[list[ParsedFace]]:
        """:meth:`find`, as a search for :meth:`together`."""
        return self.finder.search(photo, hint)

    def together(self, searches: Sequence[Search[Answer]], each: Callable[..., Iterable[Any]] = map) -> list[Answer]:
        """The answers of searches over several photos, whose faces are parsed in common batches.

        Args:
            searches: that ask for faces to be parsed, as :meth:`search` does.
            each: ``map``, or that of an executor, whose threads then share the processor's part.
        """
        return together(searches, self.parser, each)

    def refer(self, faces: Sequence[ParsedFace], names: Sequence[tuple[object, ...]]) -> list[ReferencedFace]:
        """Generate the references of faces, as one batch.

        Args:
            faces: of one photo or of several.
            names: what tells each face from all others, for its seed: image id and number.
        """
        if not faces:
            return []
        generator = ReferenceGenerator(
            self.models.inpainter, self.parser.taxonomy, self.settings.references, self.settings.seed
        )
        references = generator.generate(faces, names)
        return [ReferencedFace(face.aligned, face.parsed, one) for face, one in zip(faces, references, strict=True)]
