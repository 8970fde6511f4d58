"""Label Studio's run-length encoding of brush strokes: four channels a pixel, packed bit by bit (thi.ng's rle-pack).

Label Studio's own Python package has it, too, in a loop over bits, and brings forty others; tests hold this to it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from s3pot_batch.pipeline.corrections.drawing import BadDrawing
from s3pot_batch.stages.rle import Mask

LENGTHS = (3, 4, 8, 16)
"""Bits of a run's length; two bits before it say which of the four."""
CHANNELS, OPAQUE = 4, 127
"""Values of a pixel, and the least alpha that counts as drawn is one more."""


def encode_brush(mask: Mask) -> list[int]:
    """H×W bool → bytes; all four channels of a drawn pixel are 255."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=not flat[0]))
    runs = np.diff(starts, append=flat.size) * CHANNELS
    head = f"{flat.size * CHANNELS:032b}{7:05b}" + "".join(f"{bits - 1:04b}" for bits in LENGTHS)
    body = (_run(int(length), drawn=bool(flat[start])) for start, length in zip(starts, runs, strict=True))
    bits = head + "".join(body)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


def _run(length: int, *, drawn: bool) -> str:
    most = 1 << LENGTHS[-1]
    value, text = f"{255 * drawn:08b}", ""
    while length:
        part = min(length, most)
        kind = next(n for n, bits in enumerate(LENGTHS) if part <= 1 << bits)
        text += f"1{kind:02b}{part - 1:0{LENGTHS[kind]}b}{value}"
        length -= part
    return text


def decode_brush(data: Sequence[int], shape: tuple[int, int]) -> Mask:
    """Bytes → H×W bool, true where alpha is more than half.

    Raises:
        BadDrawing: the bytes are cut off, or of another size.
    """
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(data))
        runs = list(_runs(bits))
    except (ValueError, IndexError, TypeError) as error:
        raise BadDrawing(f"a brush stroke is damaged ({error})") from error
    values, lengths = np.array(runs, np.int64).reshape(-1, 2).T
    if lengths.sum() != shape[0] * shape[1] * CHANNELS:
        raise BadDrawing(f"a brush stroke has not {shape[1]}×{shape[0]} pixels")
    return np.asarray(np.repeat(values, lengths).reshape(*shape, CHANNELS)[..., -1] > OPAQUE)


def _runs(bits: str) -> Iterator[tuple[int, int]]:
    """Value and length of each run."""
    total, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    lengths = [int(bits[37 + 4 * n : 41 + 4 * n], 2) + 1 for n in range(4)]
    place, done = 53, 0
    while done < total:
        same, kind = bits[place] == "1", int(bits[place + 1 : place + 3], 2)
        place += 3
        length = int(bits[place : place + lengths[kind]], 2) + 1
        place += lengths[kind]
        for _ in range(1 if same else length):
            if len(bits) < place + word:
                raise ValueError("cut off")
            yield int(bits[place : place + word], 2), length if same else 1
            place += word
        done += length
