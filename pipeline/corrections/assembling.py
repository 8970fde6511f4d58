"""From drawings to corrections: which photo is meant, and which face each shape belongs to."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from s3pot_batch.pipeline.corrections import box_of
from s3pot_batch.pipeline.corrections.drawing import FACE, OCCLUSION, BadDrawing, Drawing, Drawn
from s3pot_batch.stages.rle import Mask, decode_rle, encode_rle

Face = tuple[list[float] | None, Mask, Mask]
"""Box of the answer's face, if it is one; occlusion and region, H×W each."""


class Names:
    """The photos of a run by what tools may call them.

    Args:
        image_ids: of all photos.
        names: their exported files' names, without a suffix.
        images: where the photos are.
    """

    def __init__(self, image_ids: Sequence[str], names: Sequence[str], images: Sequence[str]) -> None:
        self.known: dict[str, str] = {}
        self.ends: dict[str, set[str]] = {}
        for image_id, name, image in zip(image_ids, names, images, strict=True):
            for one in (name, image_id, with_suffix(name, image), f"{name}.png"):
                self.known.setdefault(_plain(one), image_id)
            for one in (name, with_suffix(name, image)):
                self.ends.setdefault(_plain(one).rsplit("/", 1)[-1], set()).add(image_id)

    def find(self, called: str) -> str:
        """The ``image_id`` of the photo that a tool calls so: by its whole name, then with folders added or left out.

        Raises:
            BadDrawing: no photo, or several.
        """
        name = _plain(called)
        for one in _shorter(name):
            if one in self.known:
                return self.known[one]
        last = name.rsplit("/", 1)[-1]
        found = self.ends.get(last) or self.ends.get(str(PurePosixPath(last).with_suffix(""))) or set()
        if len(found) > 1:
            raise BadDrawing(f"{len(found)} photos of this run are called so; keep their folders in the tool")
        if not found:
            raise BadDrawing("no photo of this run is called so")
        return next(iter(found))


def with_suffix(name: str, image: str) -> str:
    """An exported name with its photo's suffix, if that has one and the name does not end with it."""
    suffix = PurePosixPath(image.split("?", 1)[0]).suffix if "/" in image or "." in image else ""
    return name if name.lower().endswith(suffix.lower()) else f"{name}{suffix}"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _shorter(name: str) -> Iterable[str]:
    """The name, without its suffix, and both with fewer and fewer of its folders."""
    parts = name.split("/")
    for first in range(len(parts)):
        rest = "/".join(parts[first:])
        yield rest
        stem, dot, _ = rest.rpartition(".")
        if dot and stem:
            yield stem


def assemble(drawing: Drawing, row: Mapping[str, Any]) -> dict[str, Any]:
    """A photo's correction but for where it comes from.

    Args:
        drawing: what was drawn.
        row: the photo's row of the answer.

    Raises:
        BadDrawing: it was drawn on a picture of another size.
    """
    shape = drawing.shape
    if row["height"] is not None and shape != (row["height"], row["width"]):
        raise BadDrawing(
            f"drawn on {shape[1]}×{shape[0]} pixels, and the upright photo has {row['width']}×{row['height']}; "
            "export --photos writes the photos as the masks see them"
        )
    answered = [
        (face["bbox"], decode_rle(face["occlusion"]), decode_rle(face["face_region"])) for face in row["faces"] or ()
    ]
    empty = np.zeros(shape, bool)
    if any(one.label == FACE for one in drawing.drawn):
        faces, loose = _drawn_faces(drawing.drawn, empty)
        faces = _matched(faces, answered)
    else:  # only occlusions are drawn there: the faces are where they were
        faces, loose = [(box, empty, region) for box, _, region in answered], [one.mask for one in drawing.drawn]
    faces = _given(faces, loose, empty)
    hidden, whole = empty.copy(), empty.copy()
    for _, occlusion, region in faces:
        hidden |= occlusion
        whole |= region
    return {
        "height": shape[0], "width": shape[1],
        "faces": [
            {"bbox": box or box_of(region if region.any() else occlusion), "occlusion": encode_rle(occlusion),
             "face_region": encode_rle(region)}
            for box, occlusion, region in faces
        ],
        "occlusion": encode_rle(hidden), "face_region": encode_rle(whole),
    }  # fmt: skip


def _drawn_faces(drawn: Collection[Drawn], empty: Mask) -> tuple[list[Face], list[Mask]]:
    """The faces by groups, each with its occlusion, and the occlusions that no face's group holds."""
    groups: dict[object, dict[str, Mask]] = {}
    for n, one in enumerate(drawn):
        own = ("alone", n) if one.group is None else ("group", one.group)
        parts = groups.setdefault(own, {})
        parts[one.label] = parts.get(one.label, empty) | one.mask
    faces: list[Face] = [
        (None, parts.get(OCCLUSION, empty), parts[FACE]) for parts in groups.values() if FACE in parts
    ]  # fmt: skip
    return faces, [parts[OCCLUSION] for parts in groups.values() if FACE not in parts]


def _matched(faces: Sequence[Face], answered: Sequence[Face]) -> list[Face]:
    """The drawn faces with the boxes of the answer's that they overlap most, in the answer's order, new ones last.

    A face of the answer without a region could not be shown in any tool, and stays.
    """
    pairs = sorted(
        ((_iou(face[2], known[2]), n, m) for n, face in enumerate(faces) for m, known in enumerate(answered)),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    place: dict[int, int] = {}
    for iou, n, m in pairs:
        if iou > 0 and n not in place and m not in place.values():
            place[n] = m
    known = {m: (answered[m][0], faces[n][1], faces[n][2]) for n, m in place.items()}
    known |= {m: face for m, face in enumerate(answered) if m not in known and not face[2].any()}
    return [known[m] for m in sorted(known)] + [face for n, face in enumerate(faces) if n not in place]


def _iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max(int((one | other).sum()), 1))


def _given(faces: Sequence[Face], loose: Sequence[Mask], empty: Mask) -> list[Face]:
    """The faces with the occlusions that name none: each goes to the face that it covers most, else stands alone."""
    given, alone = list(faces), empty
    for mask in loose:
        shares = [int((mask & region).sum()) for _, _, region in given]
        if max(shares, default=0) == 0:
            alone = alone | mask
            continue
        box, occlusion, region = given[n := int(np.argmax(shares))]
        given[n] = (box, occlusion | mask, region)
    return [*given, (None, alone, empty)] if alone.any() else given
