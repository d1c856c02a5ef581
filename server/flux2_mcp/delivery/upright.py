"""A source image as it leaves this machine: upright, in sRGB, without a word about camera, place or time. Sync; in a thread."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux2_mcp.delivery.image import KINDS, MOST_PIXELS
from flux2_mcp.sources import UnreadableError

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

QUALITY = 95
"""Of JPEG: what is encoded once more should not show it."""
ORIENTATION = 0x0112
"""EXIF's tag that says how the camera was held, 1 to 8."""
DEEP = 257
"""16 bits a channel hold so many times the numbers of 8."""


@dataclass(frozen=True, slots=True)
class Upright:
    """What is sent: the bytes, the suffix and MIME type that fit them, width and height in pixels."""

    data: bytes
    suffix: str
    mime_type: str
    width: int
    height: int


def upright(data: bytes) -> Upright:
    """Decode the whole image, turn it as its EXIF data says, and encode nothing but its pixels.

    JPEG stays JPEG; what has transparency, or lost nothing so far, becomes PNG.

    Raises:
        UnreadableError: It is no PNG, JPEG or WebP, is broken, or claims more than `MOST_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=tuple(KINDS)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise Image.DecompressionBombError  # noqa: TRY301  # Pillow's own bound lies higher
            kind = opened.format
            opened.load()
            picture = _plain(_turned(opened))
    except UnidentifiedImageError as exc:
        raise UnreadableError("is no PNG, JPEG or WebP image; convert it first.") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise UnreadableError(f"has more than {MOST_PIXELS // 1_000_000} megapixels.") from exc
    except Exception as exc:  # Pillow's readers raise whatever they stumble over
        raise UnreadableError("is a broken image: it can't be decoded to its end.") from exc
    target = "PNG" if picture.mode == "RGBA" or kind == "PNG" else "JPEG"
    out = io.BytesIO()
    picture.info.clear()
    picture.save(out, target, quality=QUALITY, subsampling=0)
    mime_type, suffix = KINDS[target]
    return Upright(out.getvalue(), suffix, mime_type, picture.width, picture.height)


def _turned(image: Image) -> Image:
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
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # broken EXIF data is as good as none: the picture is what counts
        turn = None
    return image if turn is None else image.transpose(turn)


def _plain(image: Image) -> Image:
    """RGB, or RGBA where there is transparency, 8 bits a channel, in sRGB."""
    if image.mode.startswith("I"):
        return image.point(lambda value: value * (1 / DEEP)).convert("L").convert("RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "RGBA", "CMYK", "L"}:
        from PIL import ImageCms

        try:
            srgb = ImageCms.createProfile("sRGB")
            # A profile of another colour space than the pixels' can't be applied; most viewers then ignore it too.
            found = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode=mode)
        except (ImageCms.PyCMSError, OSError, ValueError):
            found = None
        if found is not None:
            return found
    return image.convert(mode)
