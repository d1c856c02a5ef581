"""Makes a small preview of an image for the model. A result never holds the original. Sync; call from a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import decode, pixels

Picture = Literal["JPEG", "WEBP"]

MIME_TYPES: dict[Picture, str] = {"JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_SIDE_PX = 512
"""The longer side, in pixels. Images of over 2,000 pixels have made sessions of some hosts unusable."""
MAX_PREVIEW_BYTES = 60_000
QUALITIES = (82, 70, 55, 40, 25)


def scaled(
    path: Path,
    longest: int = MAX_SIDE_PX,
    most_bytes: int | None = MAX_PREVIEW_BYTES,
    kind: Picture | Literal["PNG"] = "JPEG",
) -> bytes:
    """The image, upright, on a checkerboard where it is transparent, with its longer side at most `longest` pixels.

    Args:
        path: A checked image.
        longest: Pixels. Smaller images keep their size.
        most_bytes: The quality, then the size, is lowered until the file fits; None: the best quality is used.
        kind: JPEG, which every client takes; WebP; or PNG, for terminals, which has no quality to lower.

    Raises:
        DeliveryError: The file is gone, or is no sound image any more, or can't be scaled down (`large`).
    """
    from PIL.Image import Resampling

    try:
        with decode.normal(path, longest=longest) as (_, found):
            picture = pixels.on_checks(found)
    except decode.TooLargeError:
        raise
    except (OSError, decode.PictureError) as exc:
        raise DeliveryError("The image's file is gone or can't be read any more.") from exc
    while True:
        for quality in QUALITIES:
            data = decode.encoded(picture, kind, quality=quality, optimize=True, progressive=True)
            if most_bytes is None or len(data) <= most_bytes:
                return data
        picture.thumbnail((picture.width * 3 // 4, picture.height * 3 // 4), Resampling.LANCZOS)
