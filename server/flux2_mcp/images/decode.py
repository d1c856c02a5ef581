"""Decodes picture files: checks them, finds their kind and size, and normalizes their pixels. Sync; call from a thread.

The bytes decide, never a file name or an HTTP header. Decoders run in this module, and in `large` and `pixels` for it: it
bounds their memory, and turns every error of theirs into a `PictureError`.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import containers, large, pixels
from flux2_mcp.images.containers import BrokenError, Header, Kind
from flux2_mcp.images.pixel_limit import MAX_LARGE_PIXELS, PixelLimit
from flux2_mcp.system import files

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

Encoded: TypeAlias = Kind | Literal["AVIF"]
"""What can be written."""
KINDS: dict[Kind, tuple[str, str]] = {
    "PNG": ("image/png", ".png"),
    "JPEG": ("image/jpeg", ".jpg"),
    "WEBP": ("image/webp", ".webp"),
}
MAX_PIXELS = 64_000_000
"""The largest picture that is decoded whole: sixteen times what FLUX.2 makes at 2k."""
MAX_LARGE_SIDE_PX = 100_000
"""The longest side of such a picture: at least one row is in memory whole. JPEG has at most 65,535."""
LARGE_COST = 16_000_000
"""The room of a picture that is checked piece by piece, in pixels. Measured: 60 MB of memory at most."""
COPIES: dict[Kind, int] = {"PNG": 1, "JPEG": 1, "WEBP": 4}
"""The number of copies of each pixel that a decoder has in memory. WebP's has three canvases of its own."""
MORE_COPIES: dict[Kind, int] = {"PNG": 0, "JPEG": 1, "WEBP": 2}
"""The number of copies of each pixel that an encoder adds: JPEG's puts it on white, WebP's has two canvases."""
ROOM = PixelLimit(MAX_PIXELS)
"""The limit of this process: the largest picture alone, or sixteen of 2k. Pillow takes 4 bytes a pixel."""
SMALL_PIXELS = 2048 * 2048
"""A picture that needs no more is a small one, as all that FLUX.2 makes."""
BESIDE = PixelLimit(4 * SMALL_PIXELS)
"""Room for small pictures beside large ones: decoding one of those takes seconds, and whoever has one need not hold up all."""
M_MMAP_THRESHOLD = -3
"""From glibc's malloc.h: a block above this threshold has a mapping of its own, which ends when the block is freed."""
OWN_MAPPING_BYTES = 8 * 2**20
"""Above the size of a 1k picture, for which new pages would take a sixth of the decoding's time. Pillow keeps large
pictures in blocks of 16 MiB."""

_NO_PICTURE = ("What came is no PNG, JPEG or WebP image.", "is no PNG, JPEG or WebP image; convert it first.")
_BROKEN = (
    "The image is broken: it can't be decoded to its end.",
    "is a broken image: it can't be decoded to its end.",
)
_NOT_SCALED = ("The image is too large to be decoded here.", "is too large to be decoded here.")
_NO_MEMORY = ("There is not enough memory to decode the image.", "needs more memory than there is.")


class PictureError(DeliveryError):
    """The bytes are no usable picture.

    Args:
        message: What is wrong with a result: a sentence.
        source: The same for a source image: the end of a sentence.
    """

    def __init__(self, message: str, source: str) -> None:
        super().__init__(message)
        self.source = source


class TooLargeError(PictureError):
    """The picture is too large to be decoded whole, and of a kind that can't be scaled down piece by piece."""


class CheckedImage(Struct, frozen=True):
    """What the bytes are: MIME type, the suffix that fits it, and the upright picture's width and height in pixels.

    For `transparent_share`, see `StoredImage`; it is None, too, where a caller has not asked for it. `whole` is False if only
    the file's structure was checked: the picture is too large to be decoded.
    """

    mime_type: str
    suffix: str
    width: int
    height: int
    transparent_share: float | None = None
    whole: bool = True


def check(path: Path, *, max_pixels: int = MAX_LARGE_PIXELS) -> CheckedImage:
    """Decode the whole file; of more than `MAX_PIXELS`, piece by piece, as far as its kind allows (`large`).

    Args:
        path: The file.
        max_pixels: What claims more is refused before it is decoded.

    Raises:
        PictureError: It is no PNG, JPEG or WebP, its picture is broken, or it has more than `max_pixels`.
        OSError: It can't be read.
    """
    with path.open("rb") as file, _header(file, max_pixels) as header, _translated():
        if _is_large(header):
            return _surveyed(file, header)[0]
        image, exif, _ = _loaded(file, header)
        return _checked(header, exif, pixels.transparent_pixels(image))


def check_and_scale(path: Path, longest: int) -> tuple[CheckedImage, Image | None]:
    """As `check`, and the picture as `normal` has it, scaled down: its pixels are in hand.

    It is None for all kinds of pixels but plain RGB, whose scaled form takes a second copy of all of them, unless the picture
    is decoded piece by piece.

    Args:
        path: The file.
        longest: Pixels of the longer side.

    Raises:
        PictureError: As `check`.
        OSError: It can't be read.
    """
    with path.open("rb") as file, _header(file, MAX_LARGE_PIXELS) as header:
        with _translated():
            if _is_large(header):
                return _surveyed(file, header, longest)
            image, exif, profile = _loaded(file, header)
            found = _checked(header, exif, pixels.transparent_pixels(image))
        small = None
        if image.mode == "RGB" and found.transparent_share is None:
            with suppress(Exception):  # the image counts, not its copy
                small = pixels.upright(pixels.reduced(image, longest), exif, profile)
        return found, small


@contextmanager
def normal(
    source: Path | bytes,
    *,
    longest: int | None = None,
    target: Kind | None = None,
    max_pixels: int | None = None,
    copies: int = 1,
) -> Iterator[tuple[CheckedImage, Image]]:
    """A picture as a person sees it, upright, RGB or RGBA, 8 bits a channel, in sRGB. `ROOM` counts it until the exit.

    Nothing else of the file is left. EXIF data or a profile that can't be read, or does not fit, is ignored.

    Args:
        source: The file, or its bytes.
        longest: Pixels of the longer side; larger pictures are scaled down. None: as it is.
        target: What it is going to be encoded as while it is in hand: an encoder needs room, too.
        max_pixels: What claims more is refused before it is decoded. None: `MAX_PIXELS`; if it is scaled down,
            `MAX_LARGE_PIXELS`.
        copies: How many copies of each pixel are in memory while it is in hand, whatever the target.

    Raises:
        TooLargeError: It can't be scaled down piece by piece.
        PictureError: As `check`.
        OSError: The file can't be read.
    """
    opened: AbstractContextManager[BinaryIO] = (
        io.BytesIO(source) if isinstance(source, bytes) else files.open_plain(source)
    )
    if max_pixels is None:
        max_pixels = MAX_PIXELS if longest is None else MAX_LARGE_PIXELS
    with opened as file, _header(file, max_pixels, target, copies) as header:
        with _translated():
            found, picture = (_surveyed if _is_large(header) else _made_normal)(file, header, longest)
        if picture is None:
            raise TooLargeError(*_NOT_SCALED)
        yield found, picture


def encoded(picture: Image, kind: Encoded, **options: object) -> bytes:
    """The bytes of a file with a normal picture. JPEG has no transparency: there, the picture is put on white.

    Raises:
        PictureError: This kind can't hold a picture of this size.
    """
    out = io.BytesIO()
    try:
        (pixels.on_white(picture) if kind == "JPEG" else picture).save(out, kind, **options)
    except Exception as exc:  # Pillow's writers raise errors of any type
        size = f"{picture.width}x{picture.height} pixels"
        raise PictureError(f"A picture of {size} can't be written as {kind}.", f"has {size}, too many.") from exc
    return out.getvalue()


@contextmanager
def _header(file: BinaryIO, max_pixels: int, target: Kind | None = None, copies: int = 1) -> Iterator[Header]:
    """What a file claims to be, and room for as much. Nothing but its beginning was read before there is room."""
    with _translated():
        header = containers.header(file)
    if header is None:
        raise PictureError(*_NO_PICTURE)
    count = header.width * header.height
    if (text := _too_large(header, max_pixels)) is not None:
        raise PictureError(text, f"has more than {max_pixels // 1_000_000} megapixels.")
    written = 0 if target is None else 1 + MORE_COPIES[target]
    needed = LARGE_COST if _is_large(header) else count * max(COPIES[header.kind], written, copies)
    beside = needed <= SMALL_PIXELS and BESIDE.free >= needed
    with (BESIDE if beside else ROOM).hold(needed):
        yield header


def _too_large(header: Header, max_pixels: int) -> str | None:
    count, size = header.width * header.height, f"{header.width}x{header.height} pixels"
    if count > MAX_LARGE_PIXELS or (_is_large(header) and max(header.width, header.height) > MAX_LARGE_SIDE_PX):
        return f"The image claims {size}, which is too large to be meant."
    return f"The image has {size}, too many to be decoded whole here." if count > max_pixels else None


def _is_large(header: Header) -> bool:
    return header.width * header.height > MAX_PIXELS


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # Pillow's readers raise errors of any type
        # Our own error lives as long as the task's trouble; the frames of its cause would keep the pixels in memory.
        traceback.clear_frames(exc.__traceback__)
        raise PictureError(*(_NO_MEMORY if isinstance(exc, MemoryError) else _BROKEN)) from exc


def _loaded(file: BinaryIO, header: Header, longest: int | None = None) -> tuple[Image, bytes, bytes]:
    """The pixels as stored, the EXIF data and the profile."""
    from PIL import Image

    _give_memory_back()
    bare = containers.bare(file, header.kind)
    image = Image.open(io.BytesIO(bare.data), formats=(header.kind,))
    if image.size != (header.width, header.height):
        raise BrokenError
    if bare.transparency is not None:
        image.info["transparency"] = bare.transparency
    if longest is not None:
        image.draft(None, (longest, longest))  # a JPEG is decoded at a fraction of its size
    image.load()
    if header.kind == "PNG" and _may_end_early(image, bare.data) and not containers.has_all_rows(bare.data):
        raise BrokenError
    return image, bare.exif, bare.profile


def _may_end_early(image: Image, data: bytes) -> bool:
    """Whether a PNG's last rows may be missing: Pillow accepts a stream that ends early, and leaves the rest at zero."""
    return containers.is_interlaced(data) or not any(pixels.last_row(image))


@cache
def _give_memory_back() -> None:
    """Make glibc return a picture's memory to the system as soon as it is freed.

    By default, glibc keeps such blocks in an arena for each thread after the first was freed: a gigabyte after four of
    the largest pictures. macOS, Windows and musl do not keep them, and have no `mallopt`.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)


def _surveyed(file: BinaryIO, header: Header, longest: int | None = None) -> tuple[CheckedImage, Image | None]:
    _give_memory_back()
    found = large.survey(file, header, longest)
    checked = replace(_checked(header, found.exif, found.transparent), whole=found.whole)
    return checked, None if found.small is None else pixels.upright(found.small, found.exif, found.profile)


def _checked(header: Header, exif: bytes, clear: int | None = None) -> CheckedImage:
    width, height = header.width, header.height
    if containers.orientation(exif) in {5, 6, 7, 8}:
        width, height = height, width
    share = None if clear is None else round(clear / (width * height), 4)
    return CheckedImage(*KINDS[header.kind], width, height, share)


def _made_normal(file: BinaryIO, header: Header, longest: int | None) -> tuple[CheckedImage, Image | None]:
    image, exif, profile = _loaded(file, header, longest)
    # The name is used again, so that each step's picture is freed when the next exists.
    image = pixels.plain(image)
    if longest is not None:
        image = pixels.scaled(image, longest)
    return _checked(header, exif), pixels.upright(image, exif, profile)
