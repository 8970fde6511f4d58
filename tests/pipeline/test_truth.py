"""Ground truth as people have it: read right, or refused with a reason, and never guessed."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from s3pot_batch.pipeline.evaluation.truth import BadTruth, as_mask, read_truth
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.rle import encode_rle

MASK = np.zeros((12, 16), bool)
MASK[3:9, 4:12] = True
BYTES = MASK.astype(np.uint8)


def palette(*colours):
    image = Image.fromarray(BYTES).convert("L")
    image.putpalette([c for colour in colours for c in colour])
    return image


def with_alpha(colour, elsewhere=(0, 0, 0, 0)):
    pixels = np.zeros((*MASK.shape, 4), np.uint8)
    pixels[:], pixels[MASK] = elsewhere, colour
    return Image.fromarray(pixels)


def reopened(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return Image.open(content)


RIGHT = {
    "0 and 255": Image.fromarray(BYTES * 255),
    "0 and 1": Image.fromarray(BYTES),
    "one bit": Image.fromarray(MASK),
    "soft edges": Image.fromarray((BYTES * 200 + 20).astype(np.uint8)),
    "a small one's soft edges": Image.fromarray(np.where(BYTES.cumsum(axis=0) == 1, 128, BYTES * 255).astype(np.uint8)),
    "rgb": Image.fromarray(BYTES * 255).convert("RGB"),
    "a grey palette": palette((0, 0, 0), (255, 255, 255)),
    "a coloured palette of two labels": palette((0, 0, 0), (128, 0, 0)),
    "white on transparent": with_alpha((255, 255, 255, 255)),
    "white on opaque black": with_alpha((255, 255, 255, 255), (0, 0, 0, 255)),
    "16 bit": Image.fromarray(BYTES.astype(np.uint16) * 65535),
    "16 bit, 0 and 1": Image.fromarray(BYTES.astype(np.uint16)),
    "16 bit, 0 and 255": Image.fromarray(BYTES.astype(np.uint16) * 255),
    "real numbers": Image.fromarray(BYTES.astype(np.float32)),
    "jpeg": reopened(Image.fromarray(BYTES * 255), "JPEG", quality=75),
    "whole numbers": Image.fromarray(BYTES.astype(np.int32)),
}
WRONG = {
    "three labels": Image.fromarray(BYTES * 2),
    "too dark to be a mask": Image.fromarray(BYTES * 100),
    "a palette of three labels": Image.fromarray(BYTES * 2).convert("P"),
    "red": with_alpha((255, 0, 0, 255), (0, 0, 0, 255)),
    "black on transparent": with_alpha((0, 0, 0, 255)),
    "12 bits": Image.fromarray(BYTES.astype(np.uint16) * 4095),
    "not a number": Image.fromarray(np.where(MASK, np.nan, 0).astype(np.float32)),
    "negative": Image.fromarray(np.where(MASK, -1, 255).astype(np.int32)),
    "a photo in colour": with_alpha((200, 120, 90, 255), (20, 40, 200, 255)).convert("RGB"),
}
WRONG |= {
    "labels, and 255 where nobody knows": Image.fromarray(
        np.where(BYTES.cumsum(axis=0) == 1, 255, BYTES).astype(np.uint8)
    ),
    "a third label between": Image.fromarray(
        np.where(BYTES.cumsum(axis=0) == 1, 128, BYTES * 255).astype(np.uint8)
    ).resize((128, 96), Image.Resampling.NEAREST),
    "a grey photo": Image.effect_noise((16, 12), 90),
    "a photo cut out": Image.merge("LA", (Image.effect_noise((16, 12), 90), Image.fromarray(BYTES * 255))),
    "white that nobody sees": Image.merge("LA", (Image.fromarray(BYTES * 255), Image.new("L", (16, 12)))),
    "0 and -1": Image.fromarray(-BYTES.astype(np.int32)),
    "labels as a jpeg": reopened(Image.fromarray(BYTES), "JPEG", quality=100),
}
WRONG["a palette of three labels"].putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])


@pytest.mark.parametrize("name", RIGHT)
def test_a_mask_is_read(tmp_path, name):
    RIGHT[name].save(tmp_path / "m.tif")
    assert (read_truth("m.tif", tmp_path) == MASK).all()
    assert (as_mask(RIGHT[name], name) == MASK).all()


@pytest.mark.parametrize("name", WRONG)
def test_what_could_mean_two_things_is_refused(name):
    with pytest.raises(BadTruth, match=f"^{name}: "):
        as_mask(WRONG[name], name)


def test_nothing_hidden_is_an_answer_too():
    assert not as_mask(Image.new("L", (4, 3)), "none").any()
    assert as_mask(Image.new("L", (4, 3), 255), "all").all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_mask_is_turned_as_its_photo_is(form):
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(np.rot90(BYTES * 255).copy()).convert("RGB")
    assert (as_mask(reopened(turned, form, exif=exif), form) == MASK).mean() > 0.95


def test_run_lengths_in_all_their_forms(tmp_path):
    rle = encode_rle(MASK)
    lengths = {"size": [12, 16], "counts": [51, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 51]}
    for cell in (rle, json.dumps(rle), rle | {"counts": rle["counts"].encode()}, lengths, json.dumps(lengths)):
        assert (read_truth(cell, tmp_path) == MASK).all()


@pytest.mark.parametrize(
    "cell",
    [
        1, 0.5, True, "", [1, 2], b"m.png", "{", "{}", {"size": [2, 2], "counts": [5]}, "gone.png",
        {"size": [2, 2], "counts": "~"}, '{"size": [2, 2]}', '{"size": [60000, 60000], "counts": [3600000000]}',
        '{"size": [1, 1e999], "counts": [1]}',
    ],
)  # fmt: skip
def test_what_is_no_mask_is_the_rows_own_error(tmp_path, cell):
    with pytest.raises(ItemError):
        read_truth(cell, tmp_path)
