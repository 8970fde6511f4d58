import numpy as np
import pytest
from PIL import Image

from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import (
    ImageTooLarge,
    MissingFile,
    NotAnImage,
    TruncatedImage,
    decode_rle,
    encode_rle,
    read_mask,
    read_photo,
)  # fmt: skip

LIMIT = 10_000


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
    photo = read_photo(save(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), tmp_path / "x.png"), LIMIT)
    assert (photo == 255).all()


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
        read_photo(whole, 1000)


def test_masks_survive_the_encoding(tmp_path):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert (decode_rle(encode_rle(mask)) == mask).all()
    save(Image.fromarray(mask.astype(np.uint8) * 255), tmp_path / "m.png")
    assert (read_mask("m.png", tmp_path) == mask).all()
