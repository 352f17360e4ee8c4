from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data.make import noise, picture, png_header
from vila_core.images import BadImage, check, decode, extension


def reason(data: bytes, **limits: int) -> str:
    with pytest.raises(BadImage) as caught:
        check(data, **limits)
    return caught.value.reason


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
    ],
)
def test_accepted_formats(form: str, expected: str) -> None:
    data = picture(form=form)
    assert check(data) == expected == extension(data)
    assert decode(data).mode == "RGB"


def test_a_jpeg_with_a_second_picture_is_a_jpeg() -> None:
    file = io.BytesIO()
    red, blue = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    red.save(file, "MPO", save_all=True, append_images=[blue])
    assert check(file.getvalue()) == extension(file.getvalue()) == "jpg"
    assert decode(file.getvalue()).getpixel((8, 8))[0] > 200  # type: ignore[index]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_truncated(form: str, share: float) -> None:
    data = noise(form=form)
    assert reason(data[: int(len(data) * share)]) == "truncated"


def test_flipped_bytes_in_a_png_are_not_a_picture() -> None:
    data = bytearray(noise(form="PNG"))
    data[200:240] = bytes(40)
    assert reason(bytes(data)) == "truncated"


@pytest.mark.parametrize("data", [b"", b"<html>404 not found</html>", b"\x89PNG\r\n", bytes(5000)])
def test_not_an_image(data: bytes) -> None:
    assert reason(data) == "not an image"


def test_formats_that_start_programs_are_not_opened() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "EPS")
    assert reason(file.getvalue()) == "not an image"


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(side: int) -> None:
    # 60,000 x 60,000 would be 10 GB; 12,000 x 12,000 is where Pillow only warns.
    assert reason(png_header(side, side)) == "too large"
    with pytest.raises(BadImage, match="too large"):
        decode(png_header(side, side))


def test_ribbons_are_refused_before_they_become_squares() -> None:
    assert check(picture(size=(16_384, 8))) == "png"
    for size in ((16_385, 8), (8, 6_000_000)):
        assert reason(png_header(*size)) == "too large"


def test_limits_can_be_set() -> None:
    data = picture(size=(40, 20))
    assert reason(data, max_pixels=799) == "too large"
    assert check(data, max_pixels=800) == "png"
    assert reason(data, min_side=21) == "too small"
    assert reason(picture(size=(1, 1))) == "too small"


def test_transparency_is_laid_over_white() -> None:
    assert decode(picture((255, 0, 0, 0), mode="RGBA")).getpixel((0, 0)) == (255, 255, 255)
    assert decode(picture((0, 128), mode="LA")).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=bytes([255, 0]))
    assert decode(file.getvalue()).getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16)).save(file, "PNG")
    assert decode(file.getvalue()).getpixel((0, 0)) == (128, 128, 128)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert decode(file.getvalue()).size == (16, 32)


def test_the_error_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(BadImage("truncated", "row 3")))
    assert (error.reason, error.detail, str(error)) == ("truncated", "row 3", "truncated: row 3")


@pytest.mark.parametrize(
    ("size", "at_least", "wanted"),
    [
        ((640, 480), 0, (640, 480)),
        ((640, 480), 241, (640, 480)),
        ((640, 480), 240, (320, 240)),
        ((640, 480), 100, (160, 120)),
        ((480, 640), 20, (60, 80)),
        ((96, 801), 48, (48, 401)),
        ((32, 32), 32, (32, 32)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_large_enough(
    size: tuple[int, int], at_least: int, wanted: tuple[int, int]
) -> None:
    data = picture((90, 160, 200), size, "JPEG", quality=95)
    image = decode(data, at_least=at_least)
    assert image.size == wanted
    assert np.abs(np.asarray(image).astype(int) - [90, 160, 200]).max() <= 3


def test_scaled_decoding_keeps_the_rest_of_the_contract() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = picture(size=(128, 64), form="JPEG", exif=exif)
    assert decode(turned, at_least=16).size == (16, 32)
    for mode in ("L", "CMYK"):
        grey = decode(picture(99, (64, 64), "JPEG", mode), at_least=16)
        assert (grey.mode, grey.size) == ("RGB", (16, 16))
    assert decode(picture(size=(64, 64)), at_least=16).size == (64, 64)  # PNG has no scales
    assert decode(noise(size=32), at_least=32).tobytes() == decode(noise(size=32)).tobytes()
    with pytest.raises(BadImage, match="truncated"):
        decode(noise(size=128)[:-600], at_least=16)
