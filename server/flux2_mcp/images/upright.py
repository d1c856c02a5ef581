"""Prepares a source image for upload: upright, in sRGB, without data about camera, place or time. Sync."""

from __future__ import annotations

from msgspec import Struct

from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.images import decode, pixels
from flux2_mcp.images.containers import Kind

QUALITY = 95
"""JPEG quality: high enough that the second encoding does not show."""


class UprightImage(Struct, frozen=True):
    """An image ready to send: the bytes, their suffix and MIME type, width and height in pixels; is it transparent?"""

    data: bytes
    suffix: str
    mime_type: str
    width: int
    height: int
    transparent: bool = False


def upright(data: bytes, *, max_pixels: int = decode.MAX_PIXELS) -> UprightImage:
    """Decode the whole image, make it normal, and encode nothing but its pixels.

    A PNG, which has lost nothing so far, and a picture with transparency become PNG; any other becomes JPEG.

    Args:
        data: The file.
        max_pixels: What claims more is refused before it is decoded.

    Raises:
        UnreadableError: It is no PNG, JPEG or WebP, is broken, or claims too many pixels.
    """
    png = decode.KINDS["PNG"][0]
    try:
        with decode.normal(data, max_pixels=max_pixels) as (found, picture):
            target: Kind = "PNG" if picture.mode == "RGBA" or found.mime_type == png else "JPEG"
            ready = decode.encoded(picture, target, quality=QUALITY, subsampling=0)
            transparent = bool(pixels.transparent_pixels(picture))
    except decode.PictureError as exc:
        raise UnreadableError(exc.source) from exc
    mime_type, suffix = decode.KINDS[target]
    return UprightImage(ready, suffix, mime_type, found.width, found.height, transparent)
