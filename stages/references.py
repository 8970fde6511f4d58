"""Stage one: photos in, aligned faces with their parse map and occlusion-free reference out."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.manifests.embedded import SCHEME as EMBEDDED
from s3pot_batch.manifests.embedded import manifest_of
from s3pot_batch.manifests.errors import one_line
from s3pot_batch.manifests.hints import outside
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, items_path
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages import store
from s3pot_batch.stages.attempts import Attempts
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.beside import ahead, shared
from s3pot_batch.stages.errors import ConfigError, ItemError, RetryableError, ShardError
from s3pot_batch.stages.images import Photo, decode_photo
from s3pot_batch.stages.method.alignment import Alignment, NotAFace
from s3pot_batch.stages.method.faces import Hint, ParsedFace, Search
from s3pot_batch.stages.method.pairs import Pair
from s3pot_batch.stages.method.stage_one import ReferencedFace, StageOne
from s3pot_batch.stages.models.memory import device_full
from s3pot_batch.stages.models.registry import taxonomy_of
from s3pot_batch.stages.reading import read_bytes
from s3pot_batch.stages.store import ArraySpec

STORE = "references.zarr"
KILLS = "the process that worked on it died, again and again; look at the photo, then --retry-failed"


class BadLandmarks(ItemError):
    """The manifest's landmarks do not span a face, or lie outside the photo."""


class BadBox(ItemError):
    """The manifest's box lies outside the photo."""


@dataclass(frozen=True)
class _Found:
    """One face of one photo, on its way to its Zarr row."""

    item: PlannedItem
    slot: int
    face: ParsedFace

    @property
    def row(self) -> int:
        return self.item.row + self.slot


def arrays(context: StageContext) -> dict[str, ArraySpec]:
    """What the stage's store holds."""
    side = context.settings.faces.frame
    return {
        "raw": ArraySpec("uint8", side, "aligned photo, RGB", 3),
        "reference": ArraySpec("uint8", side, "the same face with nothing in front of it, RGB", 3),
        "parsing": ArraySpec("uint8", side, f"class id of {taxonomy_of(context.profile.parser).name}"),
        "region": ArraySpec("uint8", side, "1 inside the parsed face region M"),
    }


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Find, align and parse the faces of a shard's photos, and generate their references."""
    stage_one = StageOne(context.models, context.settings)
    _ = context.models.inpainter  # loaded by now as the others are: whoever dies of that is no photo's fault
    with Attempts(items_path(context.run, "references", items[0].shard).with_suffix(".trying")) as attempts:
        outcomes = {
            item.index: _stamped(Outcome(item.index, item.image_id, "failed", "KilledWorker", KILLS), item.image)
            for item in items if item.index in attempts.left_alone
        }  # fmt: skip
        context.headway.add(len(outcomes))
        suspects = [item for item in items if item.index in attempts.suspects]
        others = [item for item in items if item not in suspects and item.index not in outcomes]
        values: dict[int, Mapping[str, NDArray[np.generic]]] = {}
        for photos in (others, *([suspect] for suspect in suspects)):
            done, arrays_of = _worked_on(photos, stage_one, attempts, context)
            outcomes |= done
            values |= arrays_of
    return ShardResult([outcomes[item.index] for item in items], values)


def _worked_on(
    items: Sequence[PlannedItem], stage_one: StageOne, attempts: Attempts, context: StageContext
) -> tuple[dict[int, Outcome], dict[int, Mapping[str, NDArray[np.generic]]]]:
    """Outcomes of some photos by their numbers, and arrays by Zarr row."""
    at_once = context.faces_at_once
    outcomes: dict[int, Outcome] = {}
    values: dict[int, Mapping[str, NDArray[np.generic]]] = {}
    looked_at: set[int] = set()

    waiting: list[_Found] = []

    def refer(least: int) -> None:
        """Generate the references of those that wait, a batch at a time, until fewer than ``least`` are left."""
        while len(waiting) >= least:
            group = waiting[:at_once]
            del waiting[:at_once]
            attempts.begin(*looked_at, *{one.item.index for one in group})
            for one, face in zip(group, _referred(group, stage_one), strict=True):
                index = one.item.index
                if isinstance(face, Exception):
                    outcomes[index] = _failed(outcomes[index], face)
                elif outcomes[index].status == "ok":
                    values[one.row] = _arrays(face)
                    faces_so_far = outcomes[index].faces
                    outcomes[index] = replace(outcomes[index], faces=(*faces_so_far, _described(one.row, face)))
            through = {one.item.index for one in group} - {one.item.index for one in waiting}
            attempts.came_through(*through)
            context.headway.add(len(through))

    with closing(_looks(items, stage_one, attempts, context, looked_at)) as looks:
        # beside a card there is more to look at meanwhile; on a CPU one step comes after the other
        for item, outcome, faces in looks if context.device != "cpu" else [*looks]:
            outcomes[item.index] = outcome
            waiting += [_Found(item, slot, face) for slot, face in enumerate(faces)]
            refer(at_once)
    refer(1)
    return outcomes, values


Look = tuple[PlannedItem, Outcome, list[ParsedFace]]
"""A photo with what is known of it before its references are there, and its faces."""


def _looks(
    items: Sequence[PlannedItem], stage_one: StageOne, attempts: Attempts, context: StageContext, looked_at: set[int]
) -> Generator[Look]:
    """All photos in order, decoded, their faces aligned and parsed: on a card in batches, ahead of who asks for them.

    ``looked_at`` holds those that are looked at just now.
    """

    def batches() -> Iterator[Sequence[PlannedItem]]:
        for start in range(0, len(items), context.faces_at_once):
            batch = items[start : start + context.faces_at_once]
            looked_at.update(item.index for item in batch)
            attempts.begin(*looked_at)
            yield batch

    with shared(context.device) as each, closing(
        ahead(lambda batch: _looked_at(batch, stage_one, each), batches(), context.device)
    ) as found:  # fmt: skip
        for looks in found:
            looked_at.difference_update(item.index for item, _, _ in looks)
            for item, outcome, faces in looks:
                if not faces:
                    attempts.came_through(item.index)
                    context.headway.add(1)
                yield item, outcome, faces


def _looked_at(batch: Sequence[PlannedItem], stage_one: StageOne, each: Callable[..., Iterable[Any]]) -> list[Look]:
    started = time.perf_counter()
    found = stage_one.together([_find(item, stage_one) for item in batch], each)
    seconds = (time.perf_counter() - started) / len(batch)
    return [
        (item, outcome if item.problem else replace(outcome, seconds=seconds), faces)
        for item, (outcome, faces) in zip(batch, found, strict=True)
    ]


def _referred(group: Sequence[_Found], stage_one: StageOne) -> list[ReferencedFace | Exception]:
    """The references of some faces; one that cannot be made costs no other."""
    try:
        return list(stage_one.refer([one.face for one in group], [(one.item.image_id, one.slot) for one in group]))
    except Exception as error:
        if not _of_a_photo(error):
            raise
        return [error] if len(group) == 1 else [face for one in group for face in _referred([one], stage_one)]


def _of_a_photo(error: Exception) -> bool:
    """Whether an error may come from what a photo shows, and not from the device or the settings."""
    from torch import AcceleratorError

    return not (device_full(error) or isinstance(error, AcceleratorError | ConfigError | RetryableError | ShardError))


def _failed(outcome: Outcome, error: Exception) -> Outcome:
    return replace(outcome, status="failed", error_type=type(error).__name__, error=one_line(error, 500), faces=())


def _find(item: PlannedItem, stage_one: StageOne) -> Search[tuple[Outcome, list[ParsedFace]]]:
    """Decode one photo and align its faces; what goes wrong becomes the photo's status and reason."""
    if item.problem:
        kind, _, reason = item.problem.partition(": ")
        return Outcome(item.index, item.image_id, "failed", kind, reason), []
    outcome, faces = Outcome(item.index, item.image_id, "no_face"), list[ParsedFace]()
    try:
        outcome = _stamped(outcome, item.image)  # before it is read: what is written meanwhile counts as later
        content = read_bytes(item.image, stage_one.settings.faces)
        outcome = replace(outcome, file_size=len(content), content=hashlib.sha256(content).hexdigest())
        photo = decode_photo(content, item.image, stage_one.settings.faces.max_pixels)
        del content
        outcome = replace(outcome, height=photo.shape[0], width=photo.shape[1])
        faces = yield from _faces_of(item, photo, stage_one)
    except Exception as error:
        if not _of_a_photo(error):
            raise
        outcome = _failed(outcome, error)
    most = stage_one.settings.faces.max_faces
    if faces:
        outcome = replace(outcome, status="ok", faces_left_out=max(len(faces) - most, 0))
    return outcome, faces[:most]


def _stamped(outcome: Outcome, location: str) -> Outcome:
    """An outcome with the size and time of its photo's file, or the time of the manifest that the photo lies in."""
    try:
        found = Path(manifest_of(location) if location.startswith(EMBEDDED) else location).stat()
    except (OSError, ValueError):
        return outcome
    return replace(outcome, file_size=found.st_size, file_time=found.st_mtime_ns)


def _faces_of(item: PlannedItem, photo: Photo, stage_one: StageOne) -> Search[list[ParsedFace]]:
    height, width = photo.shape[:2]
    for name, kind, points in (("bbox", BadBox, item.bbox), ("landmarks", BadLandmarks, item.landmarks)):
        if points and outside(points, height, width):
            where = f"lies outside the photo of {width}×{height} pixels"
            raise kind(f"{item.image}: its {name} {list(points)} {where}; correct the manifest's {name}")
    landmarks = np.array(item.landmarks).reshape(5, 2) if item.landmarks else None
    try:
        return (yield from stage_one.search(photo, Hint(item.bbox, landmarks)))
    except NotAFace as error:
        raise BadLandmarks(f"{item.image}: {error}; correct the manifest's landmarks") from error


def _described(row: int, face: ReferencedFace) -> FaceOutcome:
    detection, alignment = face.aligned.detection, face.aligned.alignment
    return FaceOutcome(
        row, detection.bbox, detection.score, tuple(detection.landmarks.ravel().tolist()),
        tuple(alignment.matrix.ravel().tolist()), face.parsed.confidence,
    )  # fmt: skip


def _arrays(face: ReferencedFace) -> dict[str, NDArray[np.generic]]:
    """A face as the store's arrays hold it."""
    return {
        "raw": face.aligned.raw, "reference": face.reference, "parsing": face.parsed.parsing,
        "region": face.parsed.region,
    }  # fmt: skip


def alignment_of(face: FaceOutcome, side: int) -> Alignment:
    """Where a described face lies in its frame of that side."""
    return Alignment(np.array(face.matrix).reshape(2, 3), side)


def read_pair(run: Path, row: int) -> Pair:
    """One Zarr row of this stage's answer."""
    raw, reference, region = store.read_row(run / STORE, row, "raw", "reference", "region")
    return Pair(raw, reference, region.astype(bool))
