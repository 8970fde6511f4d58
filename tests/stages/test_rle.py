import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from s3pot_batch.stages.rle import BadRle, decode_rle, encode_rle


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 9))
def test_masks_survive_the_encoding(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    encoded = encode_rle(mask)
    assert (decode_rle(encoded) == mask).all()
    assert (coco.decode({**encoded, "counts": encoded["counts"].encode()}) == mask).all()


def test_bytes_and_lists_are_counts_too():
    mask = np.zeros((4, 3), bool)
    mask[1:3, 1] = True
    encoded = encode_rle(mask)
    assert (decode_rle({**encoded, "counts": encoded["counts"].encode()}) == mask).all()
    assert (decode_rle({"size": [4, 3], "counts": [5, 2, 5]}) == mask).all()


@given(st.binary(max_size=12), st.integers(0, 40), st.integers(0, 40))
def test_anything_else_is_an_error_and_never_a_mask(counts, height, width):
    try:
        found = decode_rle({"size": [height, width], "counts": counts})
    except BadRle:
        return
    assert found.shape == (height, width)
    if found.size:
        assert (coco.decode({"size": [height, width], "counts": encode_rle(found)["counts"].encode()}) == found).all()


@pytest.mark.parametrize(
    "rle",
    [
        {}, {"size": [2, 2]}, {"counts": "4"}, {"size": [2], "counts": [4]}, {"size": None, "counts": [4]},
        {"size": [2, 2], "counts": [3]}, {"size": [2, 2], "counts": [5, -1]}, {"size": [2, 2], "counts": None},
        {"size": [-2, -2], "counts": [4]}, {"size": [2, 2], "counts": "o"}, {"size": [2, 2], "counts": "\u20ac"},
        {"size": [2, 2], "counts": ["many"]}, {"size": [3, 3], "counts": encode_rle(np.ones((4, 4), bool))["counts"]},
    ],
)  # fmt: skip
def test_what_is_no_mask_says_so(rle):
    with pytest.raises(BadRle):
        decode_rle(rle)
