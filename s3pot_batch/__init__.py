"""S³POT (arXiv 2602.00635): which pixels of a face are hidden by something.

    from s3pot_batch import Segmenter

    answer = Segmenter().segment("photo.jpg")
    answer.occlusion          # H×W bool, true where a face is hidden
    answer.faces[0].ratio     # hidden share of the first face
    answer.show()             # the photo with what is hidden in orange

``read_run("runs/in")`` gives a run's answer as a pandas table.
``python -m s3pot_batch`` is the command line, for whole datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3pot_batch.manifests.errors import ManifestError
    from s3pot_batch.runs import RunMask, read_run
    from s3pot_batch.segmenter import FaceAnswer, PhotoAnswer, Segmenter, segment_many
    from s3pot_batch.stages.errors import ConfigError, ItemError, S3potError
    from s3pot_batch.stages.settings import Settings

__all__ = [
    "ConfigError", "FaceAnswer", "ItemError", "ManifestError", "PhotoAnswer", "RunMask", "S3potError", "Segmenter",
    "Settings", "read_run", "segment_many",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("FaceAnswer", "PhotoAnswer", "Segmenter", "segment_many"), "segmenter"),
    **dict.fromkeys(("RunMask", "read_run"), "runs"),
    **dict.fromkeys(("ConfigError", "ItemError", "S3potError"), "stages.errors"),
    "ManifestError": "manifests.errors",
    "Settings": "stages.settings",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and nothing before: the command line's ``--help`` should not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
