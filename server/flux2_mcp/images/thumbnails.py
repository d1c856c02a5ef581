"""Keeps a small copy of each image, so that a gallery of many opens at once. Sync; call from a thread.

It is made when the image is delivered, from the pixels that are decoded anyway, or when it is first looked at. Its name is a
hash of the image's path, size and time, so a file that was changed gets another. A lost copy costs one decode, so no
failure to keep one is an error.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flux2_mcp.images import decode, preview
from flux2_mcp.system import files

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

FOLDER: Final = "thumbnails"
"""Beside the folder of images; only its owner can read it."""
SIDE_PX: Final = 768
"""The longer side: a tile of the gallery on a screen of two pixels a point."""
MAX_FILES: Final = 2000
"""About 150 MB. Where they are more, the oldest tenth goes."""
_BEGIN, _END = b"\xff\xd8\xff", b"\xff\xd9"


def of(image: Path, folder: Path) -> bytes:
    """Return the image as a JPEG of at most `SIDE_PX`: the copy that is kept, or one that is made and kept now.

    Args:
        image: A checked image.
        folder: The folder of the small copies; made if missing.

    Raises:
        DeliveryError: The image is gone, or is no sound image any more.
    """
    with suppress(OSError):
        data = _place(image, folder).read_bytes()
        if data.startswith(_BEGIN) and data.endswith(_END):
            return data
    data = preview.scaled(image, SIDE_PX, None)
    keep(image, folder, data)
    return data


def encoded(picture: Image) -> bytes:
    """Return the JPEG of a picture that is scaled already."""
    return decode.encoded(picture, "JPEG", quality=preview.QUALITIES[0], optimize=True, progressive=True)


def keep(image: Path, folder: Path, data: bytes, *, most: int = MAX_FILES) -> None:
    """Keep the small copy of an image, and at most `most` of them."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = list(folder.iterdir())
        if len(kept) >= most:
            kept.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in kept[: len(kept) - most * 9 // 10]:
                path.unlink(missing_ok=True)
        files.write_atomically(_place(image, folder), data, durable=False)


def remove(image: Path, folder: Path) -> None:
    """Remove the small copy of an image that still exists."""
    with suppress(OSError):
        _place(image, folder).unlink()


def _place(image: Path, folder: Path) -> Path:
    found = image.stat()
    named = f"{image}\0{found.st_size}\0{found.st_mtime_ns}"
    return folder / f"{hashlib.sha256(os.fsencode(named)).hexdigest()[:32]}.jpg"
