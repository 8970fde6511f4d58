"""Kinds of photos that people have, good and bad: each has one right answer, and none costs its neighbours anything."""

import io
import os
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.settings import FaceSettings

BOUNDS = FaceSettings(max_pixels=10_000, max_bytes=200_000, max_seconds=5)
PICTURE = Image.effect_noise((48, 32), 60).convert("RGB")


def encoded(image=PICTURE, form="JPEG", **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width, height, depth=8, colour=2):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def deep(values, dtype, form="TIFF"):
    return encoded(Image.fromarray(np.resize(np.array(values, dtype), (32, 48))), form)


def tiff(values, **options):
    content = io.BytesIO()
    tifffile.imwrite(content, values, **options)
    return content.getvalue()


def colours_of_12_bit(form):
    """The picture in 16 bits of which 12 are filled."""
    values = (np.asarray(PICTURE, np.uint32) * 4095 // 255).astype(np.uint16)
    if form == "PPM":
        return b"P6 48 32 65535\n" + values.astype(">u2").tobytes()
    if form == "PNG":
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
        return png(header(48, 32, 16), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    options = {"in planes": {"planarconfig": "separate"}, "packed": {"compression": "deflate"}}.get(form, {})
    values = np.moveaxis(values, 2, 0) if form == "in planes" else values
    return tiff(values, photometric="rgb", byteorder=">" if form == "of a Mac" else "<", **options)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def with_orientation(value, kind=3):
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
        + struct.pack(">HI", kind, 1)
        + struct.pack(">HH", value, 0)
        + b"\0" * 4
    )
    return encoded(exif=exif)


pillow_heif.register_heif_opener()
JPEG, PNG, WEBP, TIFF, GIF, BMP = (encoded(form=form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"))
GREY = PICTURE.convert("L")

GOOD = {
    "jpeg": JPEG,
    "progressive jpeg": encoded(progressive=True),
    "grey jpeg": encoded(GREY),
    "cmyk jpeg": encoded(PICTURE.convert("CMYK")),
    "arithmetic quality 1": encoded(quality=1),
    "jpeg with garbage behind it": JPEG + b"garbage" * 100,
    "jpeg with a comment": encoded(comment=b"\xff" * 300),
    "png": PNG,
    "png of 16 bit": deep([0, 65535], np.uint16, "PNG"),
    "png of 1 bit": encoded(PICTURE.convert("1"), "PNG"),
    "png with a palette": encoded(PICTURE.convert("P"), "PNG"),
    "grey png with alpha": encoded(PICTURE.convert("LA"), "PNG"),
    "png with alpha": encoded(PICTURE.convert("RGBA"), "PNG"),
    "interlaced header": encoded(form="PNG", optimize=True),
    "palette with transparency": encoded(PICTURE.convert("P"), "PNG", transparency=0),
    "webp": WEBP,
    "lossless webp": encoded(form="WEBP", lossless=True),
    "avif": encoded(form="AVIF"),
    "heic": encoded(form="HEIF"),
    "animated webp": encoded(form="WEBP", save_all=True, append_images=[PICTURE.rotate(9)]),
    "gif": GIF,
    "animated gif": encoded(form="GIF", save_all=True, append_images=[PICTURE.rotate(9)]),
    "bmp": BMP,
    "tga": encoded(form="TGA"),
    "ppm": encoded(form="PPM"),
    "jpeg 2000": encoded(form="JPEG2000"),
    "tiff": TIFF,
    "tiff of several pages": encoded(form="TIFF", save_all=True, append_images=[PICTURE]),
    "packed tiff": encoded(form="TIFF", compression="tiff_lzw"),
    "tiff in lab colours": encoded(PICTURE.convert("LAB"), "TIFF"),
    "tiff in cmyk": encoded(PICTURE.convert("CMYK"), "TIFF"),
    "12 bits in 16": deep([0, 4095], np.uint16),
    "whole numbers of 32 bit": deep([0, 255], np.int32),
    "real numbers to 1": deep([0, 1], np.float32),
    "real numbers to 255": deep([0, 255], np.float32),
    "mpo of two": encoded(form="MPO", save_all=True, append_images=[PICTURE]),
    "orientation 0": with_orientation(0),
    "orientation 9": with_orientation(9),
    "orientation 6": with_orientation(6),
    "orientation of another type": with_orientation(6, kind=2),
    "exif that is cut off": encoded(exif=b"Exif\0\0MM\0*\0"),
    "exif of nonsense": encoded(exif=b"Exif\0\0" + bytes(range(200))),
    "a png's time that never was": png(
        header(1, 1), chunk(b"tIME", b"\xff" * 7), chunk(b"IDAT", zlib.compress(b"\0\0\0\0")), chunk(b"IEND", b"")
    ),
    "one pixel": encoded(Image.new("RGB", (1, 1))),
    "one row": encoded(Image.new("RGB", (9000, 1))),
    "one column": encoded(Image.new("RGB", (1, 9000))),
    "exactly the most pixels": encoded(Image.new("RGB", (100, 100))),
}

BAD = {
    "empty file": (b"", "NotAnImage"),
    "text": (b"no photo", "NotAnImage"),
    "a web page": (b"<html>404</html>", "NotAnImage"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "NotAnImage"),
    "zeros": (bytes(5000), "NotAnImage"),
    "pdf": (b"%PDF-1.4\n%%EOF", "NotAnImage"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "NotAnImage"),
    "zip": (b"PK\3\4" + bytes(60), "NotAnImage"),
    "heic without a picture": (b"\0\0\0\x18ftypheic" + bytes(40), "TruncatedImage|NotAnImage"),
    "jpeg's first bytes": (JPEG[:2], "NotAnImage"),
    "jpeg cut in its header": (JPEG[:150], "TruncatedImage|NotAnImage"),
    "jpeg cut in half": (JPEG[: len(JPEG) // 2], "TruncatedImage"),
    "png cut in half": (PNG[: len(PNG) // 2], "TruncatedImage"),
    "webp cut in half": (WEBP[: len(WEBP) // 2], "TruncatedImage|NotAnImage"),
    "tiff cut in half": (TIFF[: len(TIFF) // 2], "TruncatedImage|NotAnImage"),
    "gif cut": (GIF[:40], "TruncatedImage|NotAnImage"),
    "bmp cut in half": (BMP[: len(BMP) // 2], "TruncatedImage"),
    "png with a wrong checksum": (flipped(PNG, 60), "TruncatedImage"),
    "png whose data is no zlib": (
        png(header(4, 4), chunk(b"IDAT", b"nonsense"), chunk(b"IEND", b"")),
        "TruncatedImage",
    ),
    "png without data": (png(header(4, 4), chunk(b"IEND", b"")), "TruncatedImage"),
    "png of no width": (
        png(header(0, 4), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")),
        "TruncatedImage|NotAnImage",
    ),
    "png with too little data": (
        png(header(40, 40), chunk(b"IDAT", zlib.compress(b"\0" * 30)), chunk(b"IEND", b"")),
        "TruncatedImage",
    ),
    "png of a colour that is not": (png(header(4, 4, 3, 5), chunk(b"IEND", b"")), "TruncatedImage|NotAnImage"),
    "a bomb": (
        png(header(60000, 60000), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")),
        "ImageTooLarge",
    ),
    "a text chunk that unpacks to much, and no data": (
        png(header(4, 4), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9_000_000)))),
        "TruncatedImage|NotAnImage",
    ),
    "one pixel too many": (encoded(Image.new("RGB", (101, 100))), "ImageTooLarge"),
    "a large bitmap": (encoded(Image.new("RGB", (300, 200)), "BMP")[:2000], "ImageTooLarge"),
    "more bytes than allowed": (JPEG + bytes(200_000), "FileTooLarge"),
    "not a number": (deep([np.nan, 1], np.float32), "UnknownRange"),
    "infinite": (deep([np.inf, 1], np.float32), "UnknownRange"),
    "negative": (deep([-5, 5], np.int32), "UnknownRange"),
    "beyond all ranges": (deep([0, 1e30], np.float32), "UnknownRange"),
    "neither to 1 nor to 255": (deep([0, 9], np.float32), "UnknownRange"),
    "negative, of 8 bit": (tiff((np.asarray(GREY, int) - 128).astype(np.int8)), "UnknownRange"),
    "tiff of 16 bit in planes": (colours_of_12_bit("in planes"), "UnknownRange"),
    "ppm of 12 bits in 16": (colours_of_12_bit("PPM"), "UnknownRange"),
    "tiff of no strips": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "TruncatedImage|NotAnImage"),
    "gif of no frames": (b"GIF89a\x01\0\x01\0\0\0\0;", "TruncatedImage|NotAnImage"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_photo_is_read(tmp_path, name):
    (tmp_path / "photo").write_bytes(GOOD[name])
    photo = read_photo(str(tmp_path / "photo"), BOUNDS)
    assert photo.dtype == np.uint8
    assert photo.shape[2] == 3
    if photo.shape[:2] in {(32, 48), (48, 32)}:
        assert np.ptp(photo) > 100, "it is not all black"


def unseen(image):
    """A picture whose alpha is 0 all over."""
    image.putalpha(0)
    return image


def whites_zero(values):
    return deep(values, values.dtype).replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))


TEXT, DEEP = zlib.compress(b"<x>" * 700_000), np.asarray(GREY, np.uint16) * 257
SHOWN = {
    "alpha that was never filled": encoded(unseen(PICTURE.copy()), "TGA"),
    "the same of a grey png": encoded(unseen(GREY.copy()), "PNG"),
    "the same of a palette": encoded(PICTURE.quantize(256), "PNG", transparency=bytes(256)),
    "tiff whose white is 0, of 8 bit": encoded(GREY, "TIFF", tiffinfo={262: 0}),
    "tiff whose white is 0, of 16 bit": whites_zero(65535 - DEEP),
    "tiff whose white is 0, of real numbers": whites_zero(1 - np.asarray(GREY, np.float32) / 255),
    "tiff of 16 bit": deep(DEEP, np.uint16),
    "tiff in lab colours": GOOD["tiff in lab colours"],
    "tiff in ycbcr": encoded(PICTURE.convert("YCbCr"), "TIFF"),
    "cmyk jpeg": encoded(PICTURE.convert("CMYK"), quality=100, subsampling=0),
    "ppm of 10 bit": b"P6 48 32 1023\n" + (np.asarray(PICTURE, ">u2") * 4).astype(">u2").tobytes(),
    "png of 12 bits in 16": colours_of_12_bit("PNG"),
    "tiff of 12 bits in 16": colours_of_12_bit("plain"),
    "the same of a Mac": colours_of_12_bit("of a Mac"),
    "the same, packed": colours_of_12_bit("packed"),
    "tiff of 32 bit, all of them filled": tiff(np.asarray(GREY, np.uint32) * 16_843_009),
    "real numbers beyond 1": tiff(np.asarray(GREY, np.float32) / 250),
    "animated png": encoded(form="PNG", save_all=True, append_images=[PICTURE.rotate(90)]),
    "png with a long history": PNG[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT) + PNG[33:],
    "png with a huge colour profile": encoded(form="PNG", icc_profile=bytes(3_000_000)),
    "png with a colour profile that is none": PNG[:33] + chunk(b"iCCP", b"x\0\0nonsense") + PNG[33:],
    "jpeg with an animation's worth of tags": JPEG[:2] + (b"\xff\xe5\xff\xff" + bytes(65533)) * 2 + JPEG[2:],
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_photo_shows_what_it_holds(tmp_path, name):
    (tmp_path / "photo").write_bytes(SHOWN[name])
    photo = read_photo(str(tmp_path / "photo"), BOUNDS).astype(int)
    assert min(np.abs(photo - np.asarray(kind.convert("RGB"))).mean() for kind in (PICTURE, GREY)) < 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_a_photo_is_turned_as_its_orientation_says_and_once(tmp_path, form):
    exif = Image.Exif()
    exif[0x112] = 6
    more = {"save_all": True, "append_images": [PICTURE]} if form == "MPO" else {}
    (tmp_path / "photo").write_bytes(encoded(GREY.transpose(Image.Transpose.ROTATE_90), form, exif=exif, **more))
    photo = read_photo(str(tmp_path / "photo"), BOUNDS).astype(int)
    assert photo.shape == (32, 48, 3)
    assert np.abs(photo - np.asarray(GREY)[..., None]).mean() < 16


@pytest.mark.parametrize("name", BAD)
def test_a_bad_photo_has_its_kind_and_one_line(tmp_path, name):
    content, kinds = BAD[name]
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(ItemError) as raised:
        read_photo(str(tmp_path / "photo"), BOUNDS)
    assert type(raised.value).__name__ in kinds.split("|")
    assert str(raised.value).startswith(f"{tmp_path}/photo: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_nothing_but_an_error_of_the_photo_escapes(form, tmp_path):
    whole, rng = encoded(form=form), np.random.default_rng(0)
    for n in range(60):
        content = bytearray(whole)
        for at in rng.integers(len(content), size=int(rng.integers(1, 12))):
            content[at] = int(rng.integers(256))
        (tmp_path / "photo").write_bytes(content[: int(rng.integers(len(content))) if n % 3 == 0 else None])
        try:
            photo = read_photo(str(tmp_path / "photo"), BOUNDS)
        except ItemError:
            continue
        assert photo.size


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "photo").write_bytes(JPEG)
    (tmp_path / "photo").chmod(0)
    with pytest.raises(ItemError, match="cannot be read"):
        read_photo(str(tmp_path / "photo"), BOUNDS)
