"""Edges: a decoded mask is cut anew along the photo's own edges, by GrabCut (Rother et al., 2004; OpenCV)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.region import BOUND, disc, enlarged, shrunk, window

SURE, RULED_OUT = 0.97, 0.005
"""Decoded probability above which a pixel stays hidden, and below which it stays seen; GrabCut decides between."""
THIN = 0.035
"""Radius, as a fraction of the side, up to which a part of the mask counts as thin: about two tokens."""
LIKELY, EVIDENT = 18.0, 30.0
"""Contrast in CIE Lab units from which a pixel of a thin part starts as hidden, and from which it stays so."""
LINE, STANDS_OUT = 0.02, 10.0
"""Half a line's width, as a fraction of the side, and by how many Lab units its contrast exceeds that beside it."""
BEYOND = 0.25
"""How far from M, as a fraction of the side, an occluder is taken to go on outside of it."""
HELD = 0.4
"""Share of a thick part that a cut has to leave, or colours do not tell the part from the face."""
ROUNDS, AROUND = 2, 1 / 8
"""GrabCut's rounds, and how far it looks beyond what may be hidden, as a fraction of the side: a third round, and the
rest of the frame, bring nothing."""


def cut_along_edges(
    photo: NDArray[np.uint8], reference: NDArray[np.uint8], region: NDArray[np.bool_],
    occlusion: NDArray[np.float32], threshold: float,
) -> NDArray[np.float32]:  # fmt: skip
    """Let the photo's colours decide where the decoder is unsure.

    A decoder that sees tokens draws the frame of a pair of glasses several times too thick, and is sure of it. In thin
    parts, therefore, what hides the face is what differs from the reference, pixel by pixel. GrabCut likes short edges
    and cuts hair-thin lines off; those that stand out of the contrast are put back. A hand or a mask goes on outside of
    the face, and GrabCut is not to learn its colours as those of what is seen. Of a hand that it cannot tell from the
    face at all, the decoder's word stands. A larger frame is cut at ``BOUND`` pixels: GrabCut takes seconds at a
    thousand.

    Args:
        photo: S×S×3 uint8 RGB.
        reference: S×S×3 uint8 RGB, the same face with nothing in front.
        region: S×S, M.
        occlusion: S×S decoded probability that a pixel is hidden, 0 outside M.
        threshold: probability above which a pixel starts as hidden.

    Returns:
        S×S float32, 1 where a pixel of M is hidden; ``occlusion`` itself if it marks nothing.
    """
    marked = occlusion > threshold
    if not marked.any():
        return occlusion
    side = photo.shape[0]
    if side > BOUND:
        smaller = [cv2.resize(picture, (BOUND, BOUND), interpolation=cv2.INTER_AREA) for picture in (photo, reference)]
        inside = shrunk(region.astype(np.float32)) > 0.5
        cut = cut_along_edges(smaller[0], smaller[1], inside, shrunk(occlusion), threshold) > threshold
        return (enlarged(cut, side) & region).astype(np.float32)
    labels = np.where(marked, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[occlusion > SURE] = cv2.GC_FGD
    thin, contrast = thin_parts(marked), colour_contrast(photo, reference, photo.shape[0] / 256)
    labels[thin] = np.where(contrast > LIKELY, cv2.GC_PR_FGD, cv2.GC_PR_BGD)[thin]
    labels[thin & (contrast > EVIDENT) & (occlusion > 0.9)] = cv2.GC_FGD
    labels[~region | (occlusion < RULED_OUT)] = cv2.GC_BGD
    labels[goes_on(marked & ~thin, region)] = cv2.GC_PR_FGD
    cut = (grabcut(photo, labels) | (thin & lines(contrast))) & region
    return (cut | lost(marked & ~thin, cut)).astype(np.float32)


def lost(thick: NDArray[np.bool_], cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """S×S, the connected parts of which a cut leaves less than ``HELD``.

    A hand has the face's own colours, and GrabCut, which tells things by theirs, takes it for the face.
    """
    count, parts = cv2.connectedComponents(thick.astype(np.uint8))
    sizes = np.bincount(parts.ravel(), minlength=count)
    held = np.bincount(parts.ravel(), weights=cut.ravel(), minlength=count)
    return np.asarray(thick & (held < HELD * sizes)[parts], bool)


def goes_on(marked: NDArray[np.bool_], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """S×S, where an occluder may go on outside M: near it, and the nearest pixel of M is marked."""
    outside = (~region).astype(np.uint8)
    away, nearest = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    hidden = np.zeros(int(nearest.max()) + 1, bool)
    hidden[nearest[region]] = marked[region]
    return np.asarray(hidden[nearest] & ~region & (away <= BEYOND * len(region)), bool)


def thin_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The S×S mask's parts that a disc of radius ``THIN`` does not fit into."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc(round(THIN * mask.shape[0])))
    return np.asarray(mask & (opened == 0), bool)


def colour_contrast(photo: NDArray[np.uint8], reference: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """S×S distance in CIE Lab between two S×S×3 RGB pictures, both softened by ``sigma`` pixels."""
    soft = [
        cv2.GaussianBlur(cv2.cvtColor(picture.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), (0, 0), sigma)
        for picture in (photo, reference)
    ]
    return np.asarray(np.linalg.norm(soft[0] - soft[1], axis=2), np.float32)


def lines(contrast: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where an S×S contrast is a thin line's: higher than beside it (white top-hat), and as wide as half its height."""
    around = disc(round(LINE * contrast.shape[0]))
    beside, ridge = cv2.morphologyEx(contrast, cv2.MORPH_OPEN, around), cv2.dilate(contrast, around)
    return np.asarray((contrast > np.maximum(LIKELY, ridge / 2)) & (contrast - beside > STANDS_OUT), bool)


def grabcut(photo: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """OpenCV's GrabCut on an S×S×3 photo, the same at every call.

    Args:
        photo: S×S×3 uint8 RGB.
        labels: S×S uint8 of ``cv2.GC_*``; where all are foreground or all background, there is nothing to cut.

    Returns:
        S×S, the foreground.
    """
    foreground = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.all() or not foreground.any():
        return foreground
    seen = window(labels != cv2.GC_BGD, round(AROUND * len(labels)))
    cv2.setRNGSeed(0)  # the colour models start from k-means
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cut, _, _ = cv2.grabCut(
        photo[seen][..., ::-1].copy(), labels[seen].copy(), None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    found = np.zeros_like(foreground)
    found[seen] = np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found
