"""Picture files decoded: is it one, which kind, how large, and its pixels made normal. Sync; call from a thread.

All is decided from the bytes, never from a name or a header. This is the only place where a decoder runs: here its room is
bounded, and here whatever it raises becomes a `PictureError`.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import containers
from flux2_mcp.images.containers import BrokenError, Header, Kind
from flux2_mcp.images.pixel_limit import PixelLimit

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

KINDS: dict[Kind, tuple[str, str]] = {
    "PNG": ("image/png", ".png"),
    "JPEG": ("image/jpeg", ".jpg"),
    "WEBP": ("image/webp", ".webp"),
}
MAX_PIXELS = 64_000_000
"""Sixteen times what the service makes at 2k; more is a bomb or a mistake."""
COPIES: dict[Kind, int] = {"PNG": 1, "JPEG": 1, "WEBP": 4}
"""How often a decoder has each pixel in memory. WebP's has three canvases of its own."""
MORE_COPIES: dict[Kind, int] = {"PNG": 0, "JPEG": 1, "WEBP": 2}
"""How often more an encoder has each pixel, beside the picture: JPEG's on white, WebP's in two canvases of its own."""
ROOM = PixelLimit(MAX_PIXELS)
"""The process's: for the largest picture alone, or for sixteen of 2k. Pillow takes 4 bytes a pixel."""
M_MMAP_THRESHOLD = -3
"""As glibc's malloc.h names it: what is larger has a mapping of its own, which ends with it."""
OWN_MAPPING_BYTES = 8 * 2**20
"""More than a picture of 1k takes, for which fresh pages cost a sixth of the decoding; Pillow has large ones in blocks of 16 MiB."""
GREY16_DIVISOR = 257
"""16 bits a channel hold so many times the numbers of 8."""

_NO_PICTURE = ("What came is no PNG, JPEG or WebP image.", "is no PNG, JPEG or WebP image; convert it first.")
_BROKEN = (
    "The image is broken: it can't be decoded to its end.",
    "is a broken image: it can't be decoded to its end.",
)
_NO_MEMORY = ("There is not enough memory to decode the image.", "needs more memory than there is.")
# What each mode becomes with 8 bits a channel and no palette: without transparency, and with.
_PLAIN = {"1": ("L", "LA"), "L": ("L", "LA"), "P": ("RGB", "RGBA"), "RGB": ("RGB", "RGBA")}


class PictureError(DeliveryError):
    """Bytes that are no picture to work with.

    Args:
        message: What is wrong with a result, a sentence.
        source: The same of a source image: the end of a sentence.
    """

    def __init__(self, message: str, source: str) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """What the bytes are: MIME type, the suffix that fits it, width and height in pixels, upright."""

    mime_type: str
    suffix: str
    width: int
    height: int


def check(path: Path) -> CheckedImage:
    """Decode the whole file.

    Raises:
        PictureError: It is no PNG, JPEG or WebP, its picture is broken, or it is too large to be meant.
        OSError: It can't be read.
    """
    with path.open("rb") as file, _header(file) as header, _translated():
        return _checked(header, _loaded(file, header)[1])


@contextmanager
def normal(
    source: Path | bytes, *, longest: int | None = None, target: Kind | None = None
) -> Iterator[tuple[CheckedImage, Image]]:
    """A picture as a person sees it, for as long as it is in hand: upright, RGB or RGBA, 8 bits a channel, in sRGB.

    Nothing else is left of the file. What EXIF data or a profile say that can't be read, or does not fit, is not done.

    Args:
        source: The file, or its bytes.
        longest: Pixels of the longer side; larger pictures are scaled down. None: as it is.
        target: What it is going to be encoded as while it is in hand: an encoder needs room, too.

    Raises:
        PictureError: As `check`.
        OSError: The file can't be read.
    """
    opened: AbstractContextManager[BinaryIO] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with opened as file, _header(file, target) as header:
        with _translated():
            found = _made_normal(file, header, longest)
        yield found


def encoded(picture: Image, kind: Kind, **options: object) -> bytes:
    """The file of a normal picture. JPEG knows no transparency: there, what is behind the picture is white.

    Raises:
        PictureError: This kind can't hold it.
    """
    out = io.BytesIO()
    try:
        (on_white(picture) if kind == "JPEG" else picture).save(out, kind, **options)
    except Exception as exc:  # Pillow's writers raise whatever they stumble over
        size = f"{picture.width}x{picture.height} pixels"
        raise PictureError(f"A picture of {size} can't be written as {kind}.", f"has {size}, too many.") from exc
    return out.getvalue()


def on_white(picture: Image) -> Image:
    """A normal picture without its transparency."""
    if picture.mode == "RGB":
        return picture
    from PIL import Image

    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    return white


@contextmanager
def _header(file: BinaryIO, target: Kind | None = None) -> Iterator[Header]:
    """What a file claims to be, and room for as much. Nothing but its beginning was read before there is room."""
    with _translated():
        header = containers.header(file)
    if header is None:
        raise PictureError(*_NO_PICTURE)
    pixels = header.width * header.height
    if pixels > MAX_PIXELS:
        text = f"The image claims {header.width}x{header.height} pixels, which is too large to be meant."
        raise PictureError(text, f"has more than {MAX_PIXELS // 1_000_000} megapixels.")
    written = 0 if target is None else 1 + MORE_COPIES[target]
    with ROOM.hold(pixels * max(COPIES[header.kind], written)):
        yield header


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # Pillow's readers raise whatever they stumble over
        # Our own error is kept while the task is in trouble, and would keep pixels by the frames that it passed.
        traceback.clear_frames(exc.__traceback__)
        raise PictureError(*(_NO_MEMORY if isinstance(exc, MemoryError) else _BROKEN)) from exc


def _loaded(file: BinaryIO, header: Header, longest: int | None = None) -> tuple[Image, bytes, bytes]:
    """The pixels as they are stored, EXIF data and profile."""
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
    return image, bare.exif, bare.profile


@cache
def _give_memory_back() -> None:
    """Have glibc, where it is there, return to the system what a picture took, as soon as its memory is free.

    Left to itself, it keeps such blocks in an arena for each thread once the first was freed, a gigabyte after four of the
    largest pictures. macOS, Windows and musl do not keep them, and have no `mallopt`.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)


def _checked(header: Header, exif: bytes) -> CheckedImage:
    width, height = header.width, header.height
    if containers.orientation(exif) in {5, 6, 7, 8}:
        width, height = height, width
    return CheckedImage(*KINDS[header.kind], width, height)


def _made_normal(file: BinaryIO, header: Header, longest: int | None) -> tuple[CheckedImage, Image]:
    from PIL.Image import Resampling, Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image, exif, profile = _loaded(file, header, longest)
    # One name for all: each step's picture goes when the next is there.
    image = _plain(image)
    if longest is not None:
        image.thumbnail((longest, longest), Resampling.LANCZOS)
    image = _in_srgb(image, profile)
    turn = turns.get(containers.orientation(exif))
    image = image if turn is None else image.transpose(turn)
    image.info.clear()
    return _checked(header, exif), image


def _plain(image: Image) -> Image:
    """8 bits a channel and no palette; with an alpha channel where there is transparency."""
    if image.mode.startswith("I"):  # grey of 16 bits
        grey = image.point(lambda value: value * (1 / GREY16_DIVISOR) + 0.5).convert("L")
        key = image.info.get("transparency")
        if key is not None:
            grey.putalpha(image.convert("I").point([255 * (value != key) for value in range(65_536)], "L"))
        return grey
    opaque, clear = _PLAIN.get(image.mode, (image.mode, image.mode))
    mode = clear if image.has_transparency_data else opaque
    return image if mode == image.mode else image.convert(mode)


def _in_srgb(image: Image, profile: bytes) -> Image:
    """RGB or RGBA, in sRGB. A profile of other channels than the pixels' can't be applied; viewers then ignore it, too."""
    if image.mode == "LA":
        grey, alpha = image.split()
        coloured = _in_srgb(grey, profile)
        coloured.putalpha(alpha)
        return coloured
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile:
        from PIL import ImageCms

        with suppress(Exception):  # whatever is wrong with a profile, the picture is what counts
            srgb, same = ImageCms.createProfile("sRGB"), image.mode == mode
            applied = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode=mode, inPlace=same)
            return image if applied is None else applied
    return image if image.mode == mode else image.convert(mode)
