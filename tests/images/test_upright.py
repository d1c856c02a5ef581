"""What leaves this machine of a photo: its pixels, upright, and nothing else."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.images.upright import upright
from tests.support.rows import rows

GPS = 0x8825


def corner(kind: str = "JPEG", mode: str = "RGB", **more: Any) -> bytes:  # noqa: ANN401  # Pillow's own options
    """Wide and blue, with red in its upper left corner."""
    picture = Image.new("RGB", (80, 40), "blue")
    picture.paste("red", (0, 0, 40, 20))
    out = io.BytesIO()
    picture.convert(mode).save(out, kind, **more)
    return out.getvalue()


def photo(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "CANARY camera"
    exif.get_ifd(GPS)[1] = "N"
    return corner(quality=95, exif=exif)


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


@rows(
    ("orientation", "size", "red"),
    [
        (1, (80, 40), "upper left"),
        (2, (80, 40), "upper right"),
        (3, (80, 40), "lower right"),
        (4, (80, 40), "lower left"),
        (5, (40, 80), "upper left"),
        (6, (40, 80), "upper right"),
        (7, (40, 80), "lower right"),
        (8, (40, 80), "lower left"),
        (9, (80, 40), "upper left"),
    ],
)
def test_a_photo_is_set_upright_as_its_camera_was_held(orientation: int, size: tuple[int, int], red: str) -> None:
    ready = upright(photo(orientation))
    picture = opened(ready.data).convert("RGB")
    assert (ready.width, ready.height) == picture.size == size
    x = 5 if "left" in red else size[0] - 5
    y = 5 if "upper" in red else size[1] - 5
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200
    assert pixel[2] < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_word_about_camera_place_or_author_is_left(kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "CANARY camera"
    exif.get_ifd(GPS)[1] = "N"
    more: dict[str, Any] = {"exif": exif}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "CANARY author")
        more["pnginfo"] = text
    else:
        more["xmp"] = b"<x>CANARY xmp</x>"
    if kind == "JPEG":
        more["comment"] = b"CANARY comment"
    data = corner(kind, **more)
    assert b"CANARY" in data
    ready = upright(data)
    assert b"CANARY" not in ready.data
    assert not opened(ready.data).getexif()
    assert set(opened(ready.data).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@rows(
    ("data", "mime_type", "suffix"),
    [
        (corner("JPEG"), "image/jpeg", ".jpg"),
        (corner("PNG"), "image/png", ".png"),
        (corner("WEBP"), "image/jpeg", ".jpg"),
        (corner("PNG", "RGBA"), "image/png", ".png"),
        (corner("WEBP", "RGBA"), "image/jpeg", ".jpg"),
        (corner("PNG", "P"), "image/png", ".png"),
        (corner("PNG", "L"), "image/png", ".png"),
        (corner("JPEG", "CMYK"), "image/jpeg", ".jpg"),
        (corner("PNG", "1"), "image/png", ".png"),
    ],
)
def test_any_kind_of_pixels_is_sent_as_what_every_reader_takes(data: bytes, mime_type: str, suffix: str) -> None:
    ready = upright(data)
    assert (ready.mime_type, ready.suffix, ready.width, ready.height) == (mime_type, suffix, 80, 40)
    assert opened(ready.data).mode in {"RGB", "RGBA"}


def test_transparency_survives() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(out, "WEBP", lossless=True)
    ready = upright(out.getvalue())
    assert ready.mime_type == "image/png"
    assert opened(ready.data).getchannel("A").getextrema() == (0, 0)


def test_sixteen_bits_a_channel_keep_their_brightness() -> None:
    out = io.BytesIO()
    Image.new("I;16", (8, 8), 32_896).save(out, "PNG")
    assert opened(upright(out.getvalue()).data).getpixel((4, 4)) == (128, 128, 128)


def test_the_colours_of_another_profile_become_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    for profile in (b"broken", lab.tobytes()):
        ready = upright(corner("PNG", icc_profile=profile))
        assert "icc_profile" not in opened(ready.data).info
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ready = upright(corner("PNG", icc_profile=own))
    assert "icc_profile" not in opened(ready.data).info
    assert opened(ready.data).getpixel((5, 5)) == (255, 0, 0)


@rows(
    ("data", "words"),
    [
        (b"", "is no PNG, JPEG or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG, JPEG or WebP image"),
        (corner("GIF"), "is no PNG, JPEG or WebP image"),
        (corner("TIFF"), "is no PNG, JPEG or WebP image"),
        (corner("JPEG")[:300], "is a broken image"),
        (corner("PNG")[:60], "is a broken image"),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        upright(data)
    assert caught.value.message.startswith(words)


def test_a_picture_that_claims_to_be_giant_is_refused_before_it_is_decoded() -> None:
    assert upright(corner(), max_pixels=80 * 40).width == 80
    with pytest.raises(UnreadableError, match="megapixels"):
        upright(corner(), max_pixels=80 * 40 - 1)


@given(st.integers(0, 700), st.binary(max_size=40))
def test_no_broken_photo_makes_it_raise_anything_but_its_own_error(at: int, junk: bytes) -> None:
    data = photo(6)
    try:
        upright(data[:at] + junk + data[at + len(junk) :])
    except UnreadableError:
        return
