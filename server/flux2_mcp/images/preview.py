"""A small picture of an image, for a model's eyes. Sync; call from a thread. Originals never travel inside a result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import decode

Picture = Literal["JPEG", "WEBP"]

MIME_TYPES: dict[Picture, str] = {"JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_SIDE_PX = 512
"""The longer side, in pixels. Images of over 2,000 have bricked sessions of some hosts."""
MAX_PREVIEW_BYTES = 60_000
QUALITIES = (82, 70, 55, 40, 25)


def scaled(
    path: Path,
    longest: int = MAX_SIDE_PX,
    most_bytes: int | None = MAX_PREVIEW_BYTES,
    kind: Picture | Literal["PNG"] = "JPEG",
) -> bytes:
    """The image with its longer side at most `longest` pixels, upright, on white where it is transparent.

    Args:
        path: A checked image.
        longest: Pixels. Smaller images keep their size.
        most_bytes: The quality falls until it fits; None: the first quality serves.
        kind: JPEG, which every client takes, WebP, or PNG, for terminals, which has no quality to fall.

    Raises:
        DeliveryError: The file is gone, or is not the image any more that it was.
    """
    from PIL.Image import Resampling

    try:
        with decode.normal(path, longest=longest) as (_, found):
            picture = decode.on_white(found)
    except (OSError, decode.PictureError) as exc:
        raise DeliveryError("The image's file is gone or can't be read any more.") from exc
    while True:
        for quality in QUALITIES:
            data = decode.encoded(picture, kind, quality=quality, optimize=True, progressive=True)
            if most_bytes is None or len(data) <= most_bytes:
                return data
        picture.thumbnail((picture.width * 3 // 4, picture.height * 3 // 4), Resampling.LANCZOS)
