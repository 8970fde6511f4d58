"""The aligned frame: where five landmarks put a face, and the way back to the photo."""

import warnings
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray


def alignment_matrix(landmarks: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The similarity that takes a photo into the square frame in which CelebAMask-HQ was annotated.

    Args:
        landmarks: 5×2 (x, y) photo pixels: left eye, right eye, nose tip, left and right mouth corner, as seen.
        size: side of the frame in pixels.

    Returns:
        2×3 float64, photo pixels → frame pixels (facer's ``get_face_align_matrix_celebm``).

    Raises:
        ValueError: the five points do not span a face.
    """
    import torch

    points = torch.as_tensor(np.asarray(landmarks, np.float32).reshape(1, 5, 2))
    matrix = _facer_transform().get_face_align_matrix_celebm(points, (size, size))[0, :2].double().numpy()
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise ValueError(f"the landmarks {np.asarray(landmarks).tolist()} do not span a face")
    return np.asarray(matrix, np.float64)


def inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2×3 affine that undoes ``matrix``."""
    return np.asarray(np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2], np.float64)


@cache
def _facer_transform() -> ModuleType:
    # facer's __init__ imports its viewer and all its models, which takes seconds: only when a face is aligned.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it still imports a module that timm has renamed
        import facer.transform

    return facer.transform  # type: ignore[no-any-return]
