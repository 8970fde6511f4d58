import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from s3pot_batch.stages.depth import UnknownRange, as_bytes
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import MOST_TEXT, ImageTooLarge, NotAnImage, TruncatedImage, decoding, read_photo
from s3pot_batch.stages.reading import MissingFile
from s3pot_batch.stages.settings import FaceSettings

LIMIT = FaceSettings(max_pixels=10_000)


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new(mode, (6, 4)) if mode == "I;16" else Image.new("RGB", (6, 4)).convert(mode)
    photo = read_photo(save(image, tmp_path / "x.tif"), LIMIT)
    assert photo.shape == (4, 6, 3)
    assert photo.dtype == np.uint8


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    assert read_photo(save(Image.new("RGB", (6, 4)), tmp_path / "x.jpg", exif=exif), LIMIT).shape == (6, 4, 3)


def test_transparent_pixels_are_white(tmp_path):
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    picture.putpixel((1, 1), (9, 9, 9, 255))
    photo = read_photo(save(picture, tmp_path / "x.png"), LIMIT)
    assert photo[..., 0].tolist() == [[255, 255], [255, 9]]


def test_sixteen_bit_is_scaled(tmp_path):
    deep = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert (read_photo(save(deep, tmp_path / "x.png"), LIMIT) == 128).all()


def test_bad_photos_have_a_kind_and_a_line(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    whole = save(Image.effect_noise((64, 64), 50), tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    cases = {"text.jpg": NotAnImage, "half.jpg": TruncatedImage, "nowhere.jpg": MissingFile}
    for name, kind in cases.items():
        with pytest.raises(kind) as raised:
            read_photo(str(tmp_path / name), LIMIT)
        assert isinstance(raised.value, ItemError)
        assert "\n" not in str(raised.value)
    with pytest.raises(ImageTooLarge, match="max_pixels"):
        read_photo(whole, FaceSettings(max_pixels=1000))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_odd_tags_cost_nothing(tmp_path, orientation, suffix):
    picture = Image.effect_noise((6, 4), 90).convert("RGB")
    exif = Image.Exif()
    exif[274] = orientation
    plain = read_photo(save(picture, tmp_path / f"plain.{suffix}", exif=exif), LIMIT)
    broken = (
        b"MM\0*\0\0\0\x08\0\x03"
        + b"".join(
            [
                b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0]),  # the orientation,
                b"\x01\x1a\0\x05\0\0\0\x01\0\0\0\x32",  # a resolution of 1/0,
                b"\x01\x28\0\x01\0\0\0\x01\x02\0\0\0",  # and its unit as a byte
            ]
        )
        + b"\0\0\0\0"
        + b"\0\0\0\x01\0\0\0\0"
    )
    odd = read_photo(save(picture, tmp_path / f"odd.{suffix}", exif=b"Exif\0\0" + broken), LIMIT)
    assert (odd == plain).all()
    assert plain.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 4095]], np.uint16), [0, 255]),
        (np.array([[0, 4095, 65535]], np.uint16), [0, 16, 255]),
        (np.array([[0, 200]], np.int32), [0, 200]),
        (np.array([[0, 2**31 - 1]], np.int32), [0, 128]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 255.0]], np.float32), [0, 255]),
        (np.array([[0, 65535.0]], np.float32), [0, 255]),
        (np.array([[0, 4095.0]], np.float32), [0, 255]),
        (np.array([[0, 0.7, 1.4]], np.float32), [0, 127, 255]),
        (np.zeros((1, 2), np.float32), [0, 0]),
    ],
)
def test_deep_numbers_are_scaled_by_what_they_hold(values, expected):
    assert as_bytes(values)[0].tolist() == expected


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 0], [-1, 1], [0, 1e9], [0, 20]])
def test_numbers_that_are_no_brightness_are_refused(tmp_path, values):
    path = save(Image.fromarray(np.array([values], np.float32)), tmp_path / "x.tif")
    with pytest.raises(UnknownRange, match="save the photo as 8 or 16 bit"):
        read_photo(path, LIMIT)


def test_the_users_limit_holds_beyond_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # twice that is an error of Pillow's
    assert read_photo(save(Image.new("RGB", (60, 40)), tmp_path / "x.png"), LIMIT).shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_photos_that_threads_decode_at_once_keep_what_was_lifted_for_them(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
    one, other = decoding("one"), decoding("other")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)  # as threads do: who came first need not be last out
    assert (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK) == (None, MOST_TEXT)
    other.__exit__(None, None, None)
    assert (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)) == before
