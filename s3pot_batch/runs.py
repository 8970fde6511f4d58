"""A run's answer as a table, whose masks are decoded when they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import read_table
from s3pot_batch.pipeline.copies import called
from s3pot_batch.pipeline.remote import at_hand
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.rle import decode_rle

if TYPE_CHECKING:
    import pandas as pd

MASKS = ("occlusion", "face_region")
"""Columns that hold a mask of the whole photo."""


@dataclass(frozen=True)
class RunMask:
    """A mask of a run's answer: small until it is decoded, by :meth:`decode` or ``numpy.asarray``.

    >>> mask = RunMask({"size": [2, 3], "counts": [2, 2, 2]})  # runs of 0 and 1 in turn, column by column
    >>> mask.shape
    (2, 3)
    >>> mask.decode().tolist()
    [[False, True, False], [False, True, False]]
    """

    rle: Mapping[str, Any] = field(repr=False)
    """COCO RLE."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        height, width = self.rle["size"]
        return int(height), int(width)

    def decode(self) -> NDArray[np.bool_]:
        """H×W bool, true where the mask is.

        Raises:
            BadRle: the run lengths are not those of a mask.
        """
        return decode_rle(self.rle)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The same, for NumPy; it is always a new array."""
        if copy is False:
            raise ValueError("a mask is decoded anew each time: it cannot be given without a copy")
        return self.decode() if dtype is None else self.decode().astype(dtype)


def read_run(run: str | PathLike[str]) -> "pd.DataFrame":
    """Read a run's answer, one row per photo in the manifest's order, by ``image_id``.

    Args:
        run: a run folder, such as ``runs/in``, or its URL.

    Returns:
        The columns of ``segments.parquet``; ``occlusion`` and ``face_region`` hold a :class:`RunMask` or ``None``.

    Raises:
        ConfigError: there is no answer, its storage cannot be used, or pandas is not installed.
        ManifestError: the answer cannot be read.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError("read_run makes a pandas table; install it with: pip install pandas") from error
    with at_hand(Path(run), only=[ANSWER], purpose="read") as folder:
        path = folder / ANSWER
        if not path.exists():
            raise ConfigError(f"{called(str(path))}: no answer there; run: s3pot-batch segment")
        table: pd.DataFrame = read_table(path).to_pandas()
    for name in MASKS:
        if name in table:
            masks = [None if rle is None else RunMask(rle) for rle in table[name]]
            table[name] = pd.Series(masks, table.index, object)
    return table.set_index("image_id", drop=False)
