"""Keeps a small copy of each image, so that a gallery of many opens at once. Sync; call from a thread.

It is made when the image is delivered, from the pixels that are decoded anyway, or when it is first looked at. Its name is a
hash of the image's path and one of its size and time: a file that was changed gets another copy, and the copies of a file
that is gone are found. Files of other names in the folder are not ours. A lost copy costs one decode, so no failure to keep
one is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
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
MAX_BYTES: Final = 2 * 1024 * 1024
"""A larger file is no small copy."""
_NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\.jpg")
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
        with files.open_plain(_place(image, folder)) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES and data.startswith(_BEGIN) and data.endswith(_END):
            return data
    data = preview.scaled(image, SIDE_PX, None)
    keep(image, folder, data)
    return data


def encoded(picture: Image) -> bytes:
    """Return the JPEG of a picture that is scaled already."""
    # Not progressive: that would save a twentieth of the bytes, and take as long as all the rest.
    return decode.encoded(picture, "JPEG", quality=preview.QUALITIES[0])


def keep(image: Path, folder: Path, data: bytes, *, most: int = MAX_FILES) -> None:
    """Keep the small copy of an image, and at most `most` of them."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = _kept(folder)
        if len(kept) >= most:
            kept.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in kept[: len(kept) - most * 9 // 10]:
                path.unlink(missing_ok=True)
        files.write_atomically(_place(image, folder), data, durable=False)


def copies(images: Iterable[Path], folder: Path) -> list[Path]:
    """Find the small copies of images, whether or not these still exist and as they are."""
    stems = set(map(_stem, images))
    with suppress(OSError):
        return [path for path in _kept(folder) if path.name.partition("-")[0] in stems]
    return []


def _kept(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]


def _place(image: Path, folder: Path) -> Path:
    found = image.stat()
    return folder / f"{_stem(image)}-{_hash(f'{found.st_size}.{found.st_mtime_ns}')[:16]}.jpg"


def _stem(image: Path) -> str:
    return _hash(str(image))[:32]


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
