"""A source image as it leaves this machine: upright, in sRGB, without a word about camera, place or time. Sync; in a thread."""

from __future__ import annotations

from dataclasses import dataclass

from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.images import decode
from flux2_mcp.images.containers import Kind

QUALITY = 95
"""Of JPEG: what is encoded once more should not show it."""


@dataclass(frozen=True, slots=True)
class UprightImage:
    """What is sent: the bytes, the suffix and MIME type that fit them, width and height in pixels."""

    data: bytes
    suffix: str
    mime_type: str
    width: int
    height: int


def upright(data: bytes) -> UprightImage:
    """Decode the whole image, make it normal, and encode nothing but its pixels.

    JPEG stays JPEG; what has transparency, or lost nothing so far, becomes PNG.

    Raises:
        UnreadableError: It is no PNG, JPEG or WebP, is broken, or claims more than `image.MOST_PIXELS`.
    """
    png = decode.KINDS["PNG"][0]
    try:
        with decode.normal(data) as (found, picture):
            target: Kind = "PNG" if picture.mode == "RGBA" or found.mime_type == png else "JPEG"
            ready = decode.encoded(picture, target, quality=QUALITY, subsampling=0)
    except decode.PictureError as exc:
        raise UnreadableError(exc.source) from exc
    mime_type, suffix = decode.KINDS[target]
    return UprightImage(ready, suffix, mime_type, found.width, found.height)
