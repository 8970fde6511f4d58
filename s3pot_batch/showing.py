"""What the door's answers look like: as a picture, and in a notebook."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.pipeline.report.sheets import marked

WIDEST = 480
"""Of a picture in a notebook, in pixels."""


def tinted(photo: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> Image.Image:
    """An H×W×3 RGB photo whose hidden pixels, an H×W mask, are orange."""
    return Image.fromarray(marked(photo, hidden.astype(np.float32)))


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of the same height in a row."""
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    at = 0
    for picture in pictures:
        row.paste(picture, (at, 0))
        at += picture.width
    return row


def show(picture: Image.Image) -> None:
    """Show a picture: in a notebook below the cell, else in the system's viewer."""
    try:
        from IPython import display, get_ipython
    except ImportError:
        picture.show()
        return
    if get_ipython() is None:
        picture.show()
    else:
        display.display(picture)  # type: ignore[no-untyped-call]


def html(picture: Image.Image, alt: str, figures: Sequence[Mapping[str, object]]) -> str:
    """A picture above a table of figures, a line for each, in HTML that needs nothing else."""
    small = picture.copy()
    small.thumbnail((WIDEST, WIDEST))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80)
    source = base64.b64encode(stream.getvalue()).decode()
    table = ""
    if figures:
        head = "".join(f"<th>{escape(name)}</th>" for name in figures[0])
        lines = ("".join(f"<td>{escape(str(value))}</td>" for value in line.values()) for line in figures)
        table = f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
    image = f'<img alt="{escape(alt)}" src="data:image/webp;base64,{source}">'
    return f"<figure>{image}<figcaption>{escape(alt)}</figcaption></figure>{table}"
