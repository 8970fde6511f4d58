"""Edges: a decoded mask is cut anew along the photo's own edges, by GrabCut (Rother et al., 2004; OpenCV)."""

import cv2
import numpy as np
from numpy.typing import NDArray

SURE, RULED_OUT = 0.97, 0.02
"""Decoded probability above which a pixel stays hidden, and below which it stays seen; GrabCut decides between."""
ROUNDS = 3


def cut_along_edges(
    photo: NDArray[np.uint8], region: NDArray[np.bool_], occlusion: NDArray[np.float32], threshold: float
) -> NDArray[np.float32]:
    """Let the photo's colours decide where the decoder is unsure.

    Args:
        photo: S×S×3 uint8 RGB.
        region: S×S, M.
        occlusion: S×S decoded probability that a pixel is hidden, 0 outside M.
        threshold: probability above which a pixel starts as hidden.

    Returns:
        S×S float32, 1 where a pixel of M is hidden; ``occlusion`` itself if it marks nothing.
    """
    if not (occlusion > threshold).any():
        return occlusion
    labels = np.where(occlusion > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[occlusion > SURE] = cv2.GC_FGD
    labels[~region | (occlusion < RULED_OUT)] = cv2.GC_BGD
    return (grabcut(photo, labels) & region).astype(np.float32)


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
    cv2.setRNGSeed(0)  # the colour models start from k-means
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cut, _, _ = cv2.grabCut(photo[..., ::-1].copy(), labels.copy(), None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD))
