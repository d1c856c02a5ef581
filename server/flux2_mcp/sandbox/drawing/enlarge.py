"""Enlarges a picture without having the large one in memory: some rows at a time, straight into its file.

PNG: each row is packed as its difference to the row above it. JPEG: the pieces are encoded one by one with the same tables,
and joined with restart marks, at which a decoder begins anew. WebP has no such seams: a result that is too large to be held
whole becomes a PNG.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from PIL import Image, ImageChops

from flux2_mcp.sandbox.drawing import png
from flux2_mcp.sandbox.drawing.collage import MAX_PIXELS, kind_of, open_source

STRIP_PIXELS: Final = 1_000_000
"""Pixels of the result that are worked on at once, or one row of blocks."""
MAX_SOURCE_PIXELS: Final = MAX_PIXELS
MAX_WEBP_PIXELS: Final = 16_000_000
"""Pixels of the largest WebP that is made: its encoder holds all of them, three times."""
MAX_WEBP_SIDE, MAX_JPEG_SIDE = 16_383, 65_535
QUALITY: Final = 92
BLOCK: Final = 16
"""The side of JPEG's blocks, with colours at half the size."""
_KINDS: Final = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}
"""PNG's numbers of the kinds of colours."""
_TEXT: Final = b"Comment\0SANDBOX: enlarged by arithmetic; no model was run"


def enlarge(picture: bytes, factor: int) -> bytes:
    """Return the picture with each side `factor` times as long, of the same kind, with its transparency.

    It becomes a PNG where it is none of PNG, JPEG and WebP, or too large for its own kind.
    Raises SourceImageError for bytes which are no picture that can be read, and for one of over 64 megapixels.
    """
    return b"".join(pieces(picture, factor))


def pieces(
    picture: bytes, factor: int, *, strip_pixels: int = STRIP_PIXELS, max_webp_pixels: int = MAX_WEBP_PIXELS
) -> Iterator[bytes]:
    """Return the bytes of `enlarge`'s file one after the other: of a large one, only some are ever in memory."""
    image, kind = open_source(picture), kind_of(picture)
    size = (image.width * factor, image.height * factor)
    if kind == "JPEG" and max(size) <= MAX_JPEG_SIDE:
        return _jpeg(image.convert("RGB"), factor, strip_pixels)
    if kind == "WEBP" and size[0] * size[1] <= max_webp_pixels and max(size) <= MAX_WEBP_SIDE:
        return _webp(image, size)
    return _png(image, factor, strip_pixels)


def _strips(image: Image.Image, factor: int, rows: int) -> Iterator[Image.Image]:
    """The result's rows, so many at a time."""
    width, height = image.width * factor, image.height * factor
    for top in range(0, height, rows):
        foot = min(top + rows, height)
        # The filter looks beyond this part of the picture, so that no seam shows.
        part = (0.0, top / factor, float(image.width), foot / factor)
        yield image.resize((width, foot - top), Image.Resampling.LANCZOS, part)


def _webp(image: Image.Image, size: tuple[int, int]) -> Iterator[bytes]:
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "WEBP", quality=QUALITY, method=2)
    yield out.getvalue()


def _png(image: Image.Image, factor: int, strip_pixels: int) -> Iterator[bytes]:
    width, height = image.width * factor, image.height * factor
    yield png.head(width, height, _KINDS[image.mode])
    yield png.chunk(b"tEXt", _TEXT)
    packing = zlib.compressobj(1)
    above = Image.new(image.mode, (width, 1))
    if above.mode in {"LA", "RGBA"}:
        above.putalpha(0)
    for strip in _strips(image, factor, max(1, strip_pixels // width)):
        shifted = Image.new(strip.mode, strip.size)
        shifted.paste(above, (0, 0))
        shifted.paste(strip.crop((0, 0, width, strip.height - 1)), (0, 1))
        above = strip.crop((0, strip.height - 1, width, strip.height))
        raw, stride = _difference(strip, shifted), width * len(strip.getbands())
        rows = b"".join(png.UP + raw[start : start + stride] for start in range(0, len(raw), stride))
        yield from _chunks(packing.compress(rows))
    yield from _chunks(packing.flush())
    yield png.chunk(b"IEND", b"")


def _difference(strip: Image.Image, shifted: Image.Image) -> bytes:
    bands = zip(strip.split(), shifted.split(), strict=True)
    found = [ImageChops.subtract_modulo(one, other) for one, other in bands]
    return (found[0] if len(found) == 1 else Image.merge(strip.mode, found)).tobytes()


def _chunks(packed: bytes) -> Iterator[bytes]:
    if packed:
        yield png.chunk(b"IDAT", packed)


def _jpeg(image: Image.Image, factor: int, strip_pixels: int) -> Iterator[bytes]:
    width, height = image.width * factor, image.height * factor
    across = -(-width // BLOCK)
    down = max(1, min(strip_pixels // (width * BLOCK), 0xFFFF // across))
    for number, strip in enumerate(_strips(image, factor, down * BLOCK)):
        out = io.BytesIO()
        strip.save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
        head, pixels = _split(out.getvalue())
        if number == 0:
            yield (
                head[:2] + _segment(0xFE, _TEXT.partition(b"\0")[2]) + _segment(0xDD, struct.pack(">H", across * down))
            )
            yield _of_height(head[2:], height)
        else:
            yield bytes([0xFF, 0xD0 + (number - 1) % 8])
        yield pixels
    yield b"\xff\xd9"


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def _split(jpeg: bytes) -> tuple[bytes, bytes]:
    """The beginning of a JPEG up to its first pixel, and its pixels without the mark of its end."""
    at = 2
    while jpeg[at + 1] != 0xDA:  # noqa: PLR2004  # the start of the scan
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return jpeg[:at], jpeg[at:-2]


def _of_height(segments: bytes, height: int) -> bytes:
    """The segments of a JPEG's beginning, with another height in its frame."""
    at = 0
    while segments[at + 1] != 0xC0:  # noqa: PLR2004  # the frame
        at += 2 + int.from_bytes(segments[at + 2 : at + 4])
    return segments[: at + 5] + struct.pack(">H", height) + segments[at + 7 :]
