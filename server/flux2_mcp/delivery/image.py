"""Is it an image, which kind, how large? Decided from the bytes, never from a name or a header. Sync; call from a thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flux2_mcp.errors import DeliveryError

KINDS = {"PNG": ("image/png", ".png"), "JPEG": ("image/jpeg", ".jpg"), "WEBP": ("image/webp", ".webp")}
PNG_END = b"IEND\xaeB`\x82"
MOST_PIXELS = 64_000_000
"""Sixteen times what the service makes at 2k; more is a bomb or a mistake."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the bytes are: MIME type, the suffix that fits it, width and height in pixels."""

    mime_type: str
    suffix: str
    width: int
    height: int


def check(path: Path) -> Checked:
    """Decode the whole file.

    Raises:
        DeliveryError: It is no PNG, JPEG or WebP, it is broken, or it is too large to be meant.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        kind, width, height = _decoded(path)
    except DeliveryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise DeliveryError("The image claims a size that is too large to be meant.") from exc
    except UnidentifiedImageError as exc:
        raise DeliveryError("What came is no PNG, JPEG or WebP image.") from exc
    except Exception as exc:  # Pillow's readers raise whatever they stumble over
        raise DeliveryError("The image is broken: it can't be decoded to its end.") from exc
    mime_type, suffix = KINDS[kind]
    return Checked(mime_type, suffix, width, height)


def _decoded(path: Path) -> tuple[str, int, int]:
    from PIL import Image

    with Image.open(path, formats=tuple(KINDS)) as image:
        image.verify()  # a PNG's checksums, which decoding does not look at
    with Image.open(path, formats=tuple(KINDS)) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise DeliveryError(f"The image claims {width}x{height} pixels, which is too large to be meant.")
        image.load()
        kind = image.format or ""
    if kind == "PNG" and PNG_END not in path.read_bytes():
        raise DeliveryError("The image is broken: it ends too soon.")
    return kind, width, height
