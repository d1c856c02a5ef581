"""What is done with pixels that are decoded: made normal, scaled, put on a ground, looked through for transparency.

Pillow raises errors of any type here, too. The callers, in `decode`, translate them.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flux2_mcp.images import containers

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

GREY16_DIVISOR = 257
"""65535 / 255: a value of 16 bits divided by this is the value of 8 bits."""
OPAQUE_FROM: Final = 128
"""The alpha from which a pixel counts as opaque: half of the way."""
BAND_PIXELS: Final = 1_000_000
"""How many pixels are looked through at once: a copy of these is made, never one of all."""
CHECKS: Final = 40
"""The number of squares along the longer side of what stands for a transparent ground."""
MIN_CHECK_PX: Final = 4
CHECK_GREYS: Final = (255, 218)
"""The two greys of the squares. The gallery's page has them too (`--checks`)."""

# For each mode, the mode with 8 bits a channel and no palette: without transparency, and with it.
_PLAIN = {"1": ("L", "LA"), "L": ("L", "LA"), "P": ("RGB", "RGBA"), "RGB": ("RGB", "RGBA")}


def plain(image: Image) -> Image:
    """The picture with 8 bits a channel and no palette, and with an alpha channel if it has transparency."""
    if image.mode.startswith("I"):  # grey of 16 bits
        grey = image.point(lambda value: value * (1 / GREY16_DIVISOR) + 0.5).convert("L")
        key = image.info.get("transparency")
        if key is not None:
            grey.putalpha(image.convert("I").point([255 * (value != key) for value in range(65_536)], "L"))
        return grey
    opaque, clear = _PLAIN.get(image.mode, (image.mode, image.mode))
    mode = clear if image.has_transparency_data else opaque
    return image if mode == image.mode else image.convert(mode)


def transparent_pixels(image: Image) -> int | None:
    """How many pixels are transparent; None if the picture has no transparency: neither a channel nor a colour for it.

    Args:
        image: As decoded, of any mode.
    """
    if not image.has_transparency_data:
        return None
    rows = max(1, BAND_PIXELS // image.width)
    tops = range(0, image.height, rows)
    bands = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in tops)
    return sum(sum(plain(band).getchannel("A").histogram()[:OPAQUE_FROM]) for band in bands)


def scaled(image: Image, longest: int) -> Image:
    """The picture itself, scaled down until its longer side has at most so many pixels."""
    from PIL.Image import Resampling

    image.thumbnail((longest, longest), Resampling.LANCZOS)
    return image


def reduced(image: Image, longest: int) -> Image:
    """The picture at a half, a third or less of its size, until its longer side has at most so many pixels.

    Takes a twentieth of the time of `scaled`: each new pixel is the mean of whole old ones.
    """
    factor = -(-max(image.size) // longest)
    return image if factor <= 1 else image.reduce(factor)


def last_row(image: Image) -> bytes:
    """The bytes of the picture's last row, as Pillow stores them."""
    return image.crop((0, image.height - 1, *image.size)).tobytes()


def upright(image: Image, exif: bytes, profile: bytes) -> Image:
    """A plain picture in sRGB, RGB or RGBA, turned as its EXIF data says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image = _in_srgb(image, profile)
    turn = turns.get(containers.orientation(exif))
    image = image if turn is None else image.transpose(turn)
    image.info.clear()
    return image


def _in_srgb(image: Image, profile: bytes) -> Image:
    """The picture as RGB or RGBA in sRGB. A profile for other channels can't be applied; viewers ignore it, too."""
    if image.mode == "LA":
        grey, alpha = image.split()
        coloured = _in_srgb(grey, profile)
        coloured.putalpha(alpha)
        return coloured
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile:
        from PIL import ImageCms

        with suppress(Exception):  # a broken profile is ignored: the picture counts
            srgb, same = ImageCms.createProfile("sRGB"), image.mode == mode
            applied = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode=mode, inPlace=same)
            return image if applied is None else applied
    return image if image.mode == mode else image.convert(mode)


def on_checks(picture: Image) -> Image:
    """A normal picture, scaled down, on light squares of two greys, which stand for nothing behind it."""
    if picture.mode == "RGB":
        return picture
    from PIL import Image

    width, height = picture.size
    side = max(MIN_CHECK_PX, max(picture.size) // CHECKS)
    columns, rows = -(-width // side), -(-height // side)
    greys = bytes(CHECK_GREYS[(x + y) % 2] for y in range(rows) for x in range(columns))
    squares = Image.frombytes("L", (columns, rows), greys)
    ground = (
        squares.resize((columns * side, rows * side), Image.Resampling.NEAREST)
        .convert("RGB")
        .crop((0, 0, *picture.size))
    )
    ground.paste(picture, mask=picture)
    return ground


def on_white(picture: Image) -> Image:
    """A normal picture on a white ground, without transparency."""
    if picture.mode == "RGB":
        return picture
    from PIL import Image

    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    return white
