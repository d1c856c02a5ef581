"""PNG, JPEG and WebP as containers: separates the picture in a file from its metadata. Pure.

Decoders read metadata, too, and fail on it: a long text, a wrong checksum, an invalid index of further pictures. So
they get a file that holds its picture and nothing else. Of the metadata, only EXIF data, a colour profile and a
transparent colour change what a person sees. They are returned beside the picture; one that can't be read counts as
absent.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

Kind: TypeAlias = Literal["PNG", "JPEG", "WEBP"]
"""A kind of picture, by Pillow's name."""
Transparency: TypeAlias = bytes | int | tuple[int, ...]
"""Transparency as in Pillow's `info`: an alpha for each entry of a palette, or the one transparent grey or colour."""

MAX_PROFILE_BYTES = 16 * 1024 * 1024
"""Bytes of a colour profile after decompression. Printers' profiles have about 2 MB."""
MAX_JUNK_BYTES = 64 * 1024
"""Bytes that may stand between a JPEG's segments. Some programs leave junk there, and decoders skip it."""

PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, 4: 2, 6: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _COLOUR: (8, 16), _PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The bits that a channel may have, by the kind of colours."""
_IN_ONE = ((0, 0, 1, 1),)
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced picture: first column, first row, step to the next column, step to the next row."""
_PIECE = 1024 * 1024
"""Bytes of pixels that are decompressed at once, to count them."""

_START_OF_SCAN, _END, _COMMENT, _APP0, _APP1, _APP2, _APP14, _APP15 = 0xDA, 0xD9, 0xFE, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
"""Frames of pixels that are stored in one go, if they are in one scan."""
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
"""Markers without a segment."""
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_COLOUR_SPACE = ((_APP0, b"JFIF\0", 14), (_APP14, b"Adobe", 12))
"""Segments that name the colour space of the pixels: marker, beginning, and the least length in bytes."""

_WEBP_PICTURE = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L"}
_WEBP_METADATA = 0x20 | 0x08 | 0x04
"""VP8X's flags of a profile, of EXIF data and of XMP."""

_ORIENTATION, _SHORT = 0x0112, 3


class BrokenError(Exception):
    """The file's structure is invalid, or its picture is not whole. It never leaves this room: see `decode`."""


class Header(Struct, frozen=True):
    """What a file claims to be: its kind, and its stored width and height in pixels."""

    kind: Kind
    width: int
    height: int


class PngHead(Struct, frozen=True):
    """A PNG's IHDR chunk: size in pixels, bits a channel, kind of colours, whether it is interlaced."""

    width: int
    height: int
    bits: int
    colours: int
    interlaced: bool

    @property
    def channels(self) -> int:
        """The number of values of a pixel; 0 for a kind of colours that is not known."""
        return _CHANNELS.get(self.colours, 0)

    @property
    def has_palette(self) -> bool:
        """Whether the pixels are numbers of a palette's colours."""
        return self.colours == _PALETTE

    @property
    def passes(self) -> list[tuple[int, int]]:
        """The parts that the pixels are stored in, one after the other, by their width and height: one, or up to 7."""
        found = []
        for column, row, across, down in _INTERLACED if self.interlaced else _IN_ONE:
            columns, rows = -((column - self.width) // across), -((row - self.height) // down)
            if columns > 0 and rows > 0:
                found.append((columns, rows))
        return found

    def row_bytes(self, columns: int) -> int:
        """The bytes of so many pixels of a row, without the byte before them that names the row's filter."""
        return (columns * self.bits * self.channels + 7) // 8


class PictureParts(Struct, frozen=True):
    """A file that holds only its picture, and the metadata that was beside it; empty or None if there was none."""

    data: bytes
    exif: bytes = b""
    profile: bytes = b""
    transparency: Transparency | None = None


def header(file: BinaryIO) -> Header | None:
    """What a file claims to be, read from its beginning; None if it is no PNG, JPEG or WebP.

    Raises:
        BrokenError: It begins as one of them, but its size can't be read.
    """
    head = file.read(30)
    if head.startswith(PNG):
        if head[12:16] != b"IHDR" or len(head) < len(PNG) + 16:
            raise BrokenError
        return Header("PNG", *struct.unpack(">II", head[16:24]))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Header("WEBP", *_webp_size(head))
    if not head.startswith(_JPEG + b"\xff"):
        return None
    file.seek(len(_JPEG))
    for marker, payload in _segments(file):
        if marker in _FRAMES and len(payload) >= 6:  # noqa: PLR2004  # bits, height, width, count of channels
            height, width = struct.unpack(">HH", payload[1:5])
            return Header("JPEG", width, height)
    raise BrokenError


def bare(file: BinaryIO, kind: Kind) -> PictureParts:
    """Separate a file's picture from its metadata.

    Raises:
        BrokenError: The picture is not whole.
    """
    file.seek(0)
    try:
        return {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind](file)
    except (struct.error, zlib.error) as exc:
        raise BrokenError from exc


def orientation(exif: bytes) -> int:
    """The orientation from EXIF data, 1 to 8; 1, upright, if the data has none."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is not None:
        with suppress(struct.error):  # the data ends too soon, or an offset points beyond its end
            (at,) = struct.unpack_from(f"{order}I", tiff, 4)
            (count,) = struct.unpack_from(f"{order}H", tiff, at)
            for entry in range(count):
                tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * entry)
                if (tag, kind) == (_ORIENTATION, _SHORT):
                    return int(value)
    return 1


def png_head(file: BinaryIO) -> PngHead:
    """A PNG's head, after a check of its checksum and of its kind of pixels.

    Raises:
        BrokenError: It is not sound, or its pixels are of a kind that is not known.
    """
    file.seek(0)
    data = file.read(33)
    if len(data) < 33 or zlib.crc32(data[12:29]).to_bytes(4) != data[29:]:  # noqa: PLR2004
        raise BrokenError
    head = _png_head(data[16:29])
    if head.bits not in _DEPTHS.get(head.colours, ()) or data[26:28] != b"\0\0":
        raise BrokenError
    return head


def _png_head(body: bytes) -> PngHead:
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    return PngHead(width, height, bits, colours, bool(interlaced))


def _png(file: BinaryIO) -> PictureParts:
    data = file.read()
    bits, colours = data[24], data[25]
    picture = {b"IHDR", b"IDAT"} | ({b"PLTE"} if colours == _PALETTE else set())  # in other modes it is only a hint
    kept: list[bytes | memoryview] = [PNG]
    exif, profile, transparency = b"", b"", None
    for name, payload, whole, sound in _chunks(data):
        if name in picture:
            if not sound:
                raise BrokenError
            kept.append(whole)
        elif not sound:
            continue
        if name == b"eXIf":
            exif = bytes(payload)
        elif name == b"iCCP":
            profile = unpacked_profile(bytes(payload))
        elif name == b"tRNS":
            transparency = transparency_of(bits, colours, bytes(payload))
    return PictureParts(b"".join([*kept, _PNG_END]), exif, profile, transparency)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, bool]]:
    """A PNG's chunks up to IEND, or up to the first that the file does not hold whole.

    Yields name, payload, the whole chunk, and whether its checksum is right.
    """
    view, at = memoryview(data), len(PNG)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IEND" or end > len(data):
            return
        sound = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end])
        yield name, view[at + 8 : end - 4], view[at:end], sound
        at = end


def has_all_rows(data: bytes) -> bool:
    """Whether a PNG's stream of pixels has those of all rows. Takes as long as half a decoding."""
    head = _png_head(data[16:29])
    wanted = sum(rows * (1 + head.row_bytes(columns)) for columns, rows in head.passes)
    unpacking = zlib.decompressobj()
    for name, payload, _, _ in _chunks(data):
        left: bytes | memoryview = payload if name == b"IDAT" else b""
        while left and wanted > 0:
            wanted -= len(unpacking.decompress(left, _PIECE))
            left = unpacking.unconsumed_tail
    return wanted <= 0


def is_interlaced(data: bytes) -> bool:
    """Whether a PNG's rows are stored in several passes, from coarse to fine."""
    return _png_head(data[16:29]).interlaced


def unpacked_profile(chunk: bytes) -> bytes:
    """The colour profile in an iCCP chunk; empty if it can't be unpacked."""
    packed = chunk.partition(b"\0")[2][1:]  # after the name: a byte for the compression
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacking.eof else b""


def transparency_of(bits: int, colours: int, body: bytes) -> Transparency | None:
    """A tRNS chunk's values for pixels as Pillow stores them: 8 bits a channel, except 16 for grey of 16 bits."""
    if colours == _PALETTE:
        return body[:256] or None
    count = {_GREY: 1, _COLOUR: 3}.get(colours, 0)
    if not count or len(body) < 2 * count:
        return None
    most = 2**bits - 1
    values: list[int] = [value & most for value in struct.unpack_from(f">{count}H", body)]
    if colours == _GREY:
        return values[0] if bits == 16 else values[0] * 255 // most  # noqa: PLR2004
    return tuple(value >> (bits - 8) for value in values)


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """A JPEG's segments up to its first scan, as marker and payload. After the last, the file is at the first pixel."""
    junk = 0
    while True:
        byte = file.read(1)
        while byte not in {b"\xff", b""}:
            byte, junk = file.read(1), junk + 1
            if junk > MAX_JUNK_BYTES:
                raise BrokenError
        while byte == b"\xff":
            byte, junk = file.read(1), junk + 1
        if byte == b"" or byte[0] == _END or junk > MAX_JUNK_BYTES:
            raise BrokenError
        if byte[0] in _ALONE:
            continue
        length = int.from_bytes(file.read(2)) - 2
        payload = file.read(max(0, length))
        if len(payload) != length:
            raise BrokenError
        yield byte[0], payload
        if byte[0] == _START_OF_SCAN:
            return


def _jpeg(file: BinaryIO) -> PictureParts:
    head = jpeg_head(file)
    return replace(head, data=head.data + file.read())


def jpeg_head(file: BinaryIO) -> PictureParts:
    """A JPEG's beginning, up to its first pixel, without metadata. The file then is at that pixel.

    Raises:
        BrokenError: It has no pixels.
    """
    file.seek(len(_JPEG))
    kept, exif, profile = [_JPEG], b"", dict[int, bytes]()
    pieces = 0
    for marker, payload in _segments(file):
        if marker == _APP1 and payload.startswith(_EXIF):
            exif = exif or payload
        elif marker == _APP2 and payload.startswith(_ICC) and len(payload) >= len(_ICC) + 2:
            number, pieces = payload[len(_ICC)], payload[len(_ICC) + 1]
            profile[number] = payload[len(_ICC) + 2 :]
        if marker == _COMMENT or _APP0 <= marker <= _APP15:
            spaces = [(space, least) for where, space, least in _COLOUR_SPACE if where == marker]
            if not any(payload.startswith(space) and len(payload) >= least for space, least in spaces):
                continue
        kept.append(bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2) + payload)
    whole = sorted(profile) == [*range(1, pieces + 1)]
    return PictureParts(b"".join(kept), exif, b"".join(profile[n] for n in sorted(profile)) if whole else b"")


def in_one_scan(head: bytes) -> bool:
    """Whether a JPEG with this beginning has its pixels row by row, so that a decoder need not keep them all.

    A progressive one has them in many scans, from coarse to fine.
    """
    frame, channels = 0, 0
    for marker, payload in _segments(_after(head)):
        if marker in _FRAMES and len(payload) >= 6:  # noqa: PLR2004
            frame, channels = marker, payload[5]
    return frame in _SEQUENTIAL and channels == payload[0]


def has_end(file: BinaryIO) -> bool:
    """Whether a JPEG's mark of its end stands near the file's end."""
    size = file.seek(0, 2)
    file.seek(max(0, size - MAX_JUNK_BYTES))
    return bytes([0xFF, _END]) in file.read()


def _after(head: bytes) -> BinaryIO:
    file = io.BytesIO(head)
    file.seek(len(_JPEG))
    return file


def webp_is_whole(file: BinaryIO, header: Header) -> bool:
    """Whether the chunks of a WebP are all in the file, and among them one picture of the size that the file claims.

    The bytes of the picture are not read. An animation is none.
    """
    size = file.seek(0, 2)
    file.seek(0)
    end, at, found = 8 + int.from_bytes(file.read(8)[4:], "little"), 12, list[tuple[int, int]]()
    while at + 8 <= min(end, size):
        file.seek(at)
        chunk = file.read(18)
        name, length = struct.unpack_from("<4sI", chunk)
        if name in _WEBP_PIXELS:
            found.append(_webp_size(bytes(12) + chunk))
        at += 8 + length + (length & 1)
    return found == [(header.width, header.height)] and at <= size + 1


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height, from a file's first 30 bytes."""
    if len(head) < 30:  # noqa: PLR2004
        raise BrokenError
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise BrokenError


def _webp(file: BinaryIO) -> PictureParts:
    data = file.read()
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at, kept, beside = 12, list[bytes](), dict[bytes, bytes]()
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        chunk = data[at : min(at + 8 + length, end)]
        if name not in _WEBP_PICTURE:
            beside.setdefault(name, chunk[8:])
        elif len(chunk) < 8 + length:
            raise BrokenError
        else:
            if name == b"VP8X" and length:
                chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA]) + chunk[9:]
            kept.append(chunk + bytes(length & 1))
        at += 8 + length + (length & 1)
    body = b"WEBP" + b"".join(kept)
    return PictureParts(
        b"RIFF" + len(body).to_bytes(4, "little") + body, beside.get(b"EXIF", b""), beside.get(b"ICCP", b"")
    )
