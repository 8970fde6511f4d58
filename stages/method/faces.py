"""Finding the faces of a photo: the detector proposes, the parser judges and moves the frame to where the face is."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.alignment import AlignedFace, NotAFace
from s3pot_batch.stages.method.candidates import around, at_box, in_a_turn, same_face, shifted, stands
from s3pot_batch.stages.method.parsing import FaceParser, Parsed, ParseMaps
from s3pot_batch.stages.method.refinement import refined
from s3pot_batch.stages.models.protocols import Detection, Detector
from s3pot_batch.stages.settings import FaceSettings

LEAST_PARTS = 2
"""Of two eyes, nose and mouth: what shows fewer is no face."""
UPRIGHT = 0.99
"""A photo whose best face has a lower score, or lies on a side, is looked at lying on its sides and its head, too."""
SURER = 0.01
"""By how much surer the parser has to be of a face that the photo shows lying than of one that stands, if there is."""
DOUBT = 0.13
"""How much surer the parser has to be of what the detector does not believe at all."""
NEAR = 0.02
"""Of the frame's side: where the parts are this near to the landmarks, the frame stays, and a second parse is saved."""
WORSE = 0.005
"""By how much less sure of itself the parser may be after the frame was moved to the parts that it found."""


@dataclass(frozen=True)
class Hint:
    """What is known of a photo's face beforehand: ``bbox`` x0 y0 x1 y1, ``landmarks`` 5×2, in photo pixels."""

    bbox: tuple[float, ...] | None = None
    landmarks: NDArray[np.float64] | None = None


NOTHING = Hint()


@dataclass(frozen=True)
class ParsedFace:
    """A face that was found: in its frame, and parsed."""

    aligned: AlignedFace
    parsed: Parsed


Answer = TypeVar("Answer")
Search = Generator[AlignedFace, Parsed, Answer]
"""A search that asks for one face after the other to be parsed, so that several searches can share a batch."""


def together(
    searches: Sequence[Search[Answer]], parser: FaceParser, each: Callable[..., Iterable[Any]] = map
) -> list[Answer]:
    """Let searches run side by side: the faces that they ask for at one time are parsed as one batch.

    Args:
        searches: an error of the parser is raised in the search whose face it is; what a search raises ends them all.
        parser: what they ask.
        each: calls the searches' own steps: ``map``, or an executor's, whose threads share them then.
    """
    answers: dict[int, Answer] = {}
    faces: dict[int, AlignedFace] = {}

    def step(n: int, seen: ParseMaps | Exception | None) -> AlignedFace | None:
        """Lead one search to the next face that it wants to have parsed; none when it has its answer."""
        try:
            if seen is None:
                return next(searches[n])
            try:
                parsed = _given(seen, faces[n], parser)
            except Exception as error:  # noqa: BLE001  (the search knows whose fault it is)
                return searches[n].throw(error)
            return searches[n].send(parsed)
        except StopIteration as end:
            answers[n] = end.value
            return None

    seen: dict[int, ParseMaps | Exception | None] = dict.fromkeys(range(len(searches)))
    while seen:
        asked = dict(zip(seen, each(step, list(seen), list(seen.values())), strict=True))
        faces = {n: face for n, face in asked.items() if face is not None}
        seen = dict(zip(faces, _seen(parser, list(faces.values())), strict=True))
    return [answers[n] for n in range(len(searches))]


def _given(seen: ParseMaps | Exception, face: AlignedFace, parser: FaceParser) -> Parsed:
    if isinstance(seen, Exception):
        raise seen
    return parser.parsed(seen, face)


def _seen(parser: FaceParser, faces: Sequence[AlignedFace]) -> list[ParseMaps | Exception]:
    """The parser's maps of some faces; one that it fails at costs no other."""
    if not faces:
        return []
    try:
        return [*parser.maps(faces)]
    except Exception as error:  # noqa: BLE001  (raised in the search, see above)
        return [error] if len(faces) == 1 else [one for face in faces for one in _seen(parser, [face])]


class FaceFinder:
    """Detector and parser together.

    Args:
        detector: finds candidates, down to low scores.
        parser: tells faces from patches that look like one from afar.
        settings: how sure both have to be, and how large the frame is.
    """

    def __init__(self, detector: Detector, parser: FaceParser, settings: FaceSettings) -> None:
        self.detector = detector
        self.parser = parser
        self.settings = settings

    def find(self, photo: NDArray[np.uint8], hint: Hint = NOTHING) -> list[ParsedFace]:
        """:meth:`search`, by itself."""
        [found] = together([self.search(photo, hint)], self.parser)
        return found

    def search(self, photo: NDArray[np.uint8], hint: Hint = NOTHING) -> Search[list[ParsedFace]]:
        """All faces of an H×W×3 uint8 RGB photo, the best first.

        Given landmarks are believed. A given box is searched, and then believed: in there is a face or none, whatever
        else the photo shows.

        Raises:
            NotAFace: the given landmarks do not span a face.
        """
        if hint.landmarks is not None:
            points = np.asarray(hint.landmarks, np.float64).reshape(5, 2)
            box = hint.bbox or (*points.min(0).tolist(), *points.max(0).tolist())
            return [(yield from self._parsed(self._aligned(photo, Detection(box, 1.0, points))))]
        upright = yield from self._judged(photo, self._candidates(photo, hint), believed=hint.bbox is not None)
        standing = bool(upright) and stands(upright[0].aligned.detection)
        if standing and upright[0].aligned.detection.score >= UPRIGHT:
            return upright
        turned = yield from self._judged(
            photo, self._candidates(photo, hint, turned=True), believed=hint.bbox is not None
        )
        if not (turned and upright):
            return turned or upright
        margin = SURER if standing else -SURER
        return turned if turned[0].parsed.confidence > upright[0].parsed.confidence + margin else upright

    def _candidates(self, photo: NDArray[np.uint8], hint: Hint, *, turned: bool = False) -> list[Detection]:
        """What the detector takes for a face, if need be in a box, best first."""
        shown, corner = around(photo, hint.bbox) if hint.bbox else (photo, (0, 0))
        if not shown.size:
            return []
        least = self.settings.min_score
        found = in_a_turn(self.detector, shown, least) if turned else self.detector.detect(shown, least)
        if hint.bbox:
            return at_box([shifted(one, corner) for one in found], hint.bbox)
        best = max((one.score for one in found), default=0.0)
        return [one for one in found if one.score >= self.settings.relative_score * best]

    def _judged(
        self, photo: NDArray[np.uint8], candidates: Iterable[Detection], *, believed: bool
    ) -> Search[list[ParsedFace]]:
        """The candidates that are faces, one look at each face; of a box that is believed, one face."""
        faces: list[ParsedFace] = []
        for candidate in candidates:
            if any(same_face(candidate, face.aligned.detection) for face in faces):
                continue
            doubt = DOUBT * (1 - candidate.score)
            least = 0.0 if believed else self.settings.min_parse_confidence + doubt
            looked = yield from self._looked(photo, candidate, least)
            if looked and not any(same_face(looked.aligned.detection, face.aligned.detection) for face in faces):
                faces.append(looked)
        return faces[:1] if believed else faces

    def _looked(
        self, photo: NDArray[np.uint8], candidate: Detection, min_confidence: float
    ) -> Search[ParsedFace | None]:
        """A candidate as its parse map shows it best, or ``None`` if that shows no face.

        A detector takes many a patch for a face; a parser that looks at it closely finds no parts there, or not surely.
        The parts that it finds lie where the face is, often better than the detector's points: the frame is moved
        there, unless that makes the parser less sure.
        """
        try:
            frame = self._aligned(photo, candidate)
        except NotAFace:
            return None
        first = yield from self._parsed(frame)
        fine = refined(first.aligned.landmarks, first.parsed.parsing, self.parser.taxonomy)
        if fine.parts < LEAST_PARTS or first.parsed.confidence < min_confidence:
            return None
        moved = np.linalg.norm(fine.landmarks - first.aligned.landmarks, axis=1).mean()
        if not self.settings.refine or moved < NEAR * self.settings.frame:
            return first
        try:
            frame = self._aligned(photo, _moved(candidate, first.aligned.alignment.to_photo(fine.landmarks)))
        except NotAFace:
            return first
        second = yield from self._parsed(frame)
        return second if second.parsed.confidence >= first.parsed.confidence - WORSE else first

    def _aligned(self, photo: NDArray[np.uint8], detection: Detection) -> AlignedFace:
        return AlignedFace.drawn(photo, detection, self.settings.frame)

    @staticmethod
    def _parsed(face: AlignedFace) -> Search[ParsedFace]:
        return ParsedFace(face, (yield face))


def _moved(detection: Detection, landmarks: NDArray[np.float64]) -> Detection:
    """The detection at better landmarks, 5×2 in photo pixels; its box goes with them."""
    x, y = (landmarks.mean(0) - detection.landmarks.mean(0)).tolist()
    x0, y0, x1, y1 = detection.bbox
    return replace(detection, bbox=(x0 + x, y0 + y, x1 + x, y1 + y), landmarks=landmarks)
