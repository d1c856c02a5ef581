"""Checks pictures that are too large to be in memory whole, and makes small copies of them.

JPEG: the decoder reads every block of the picture and makes an eighth of its size. It goes row by row, unless the file is
progressive: then it would keep all blocks (up to 6 bytes a pixel), and only the file's structure is checked.

PNG: some rows at a time. A row is packed as its difference to the row above it. So a strip of rows is decoded behind a copy
of the last row before it, and only the strips are ever in memory. The filters treat each byte of a pixel by itself. So
pixels of 16 bits are decoded from their high bytes alone, and pixels of less than 8 bits as the bytes that they are packed
in. An interlaced one is checked whole, but has no small copy.

WebP: the decoder takes at least 16 bytes a pixel, so only the file's structure is checked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from msgspec import Struct

from flux2_mcp.images import containers, pixels
from flux2_mcp.images.containers import BrokenError, Header, PngHead

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

STRIP_BYTES: Final = 4 * 2**20
"""A strip has one row at least."""
PIECE_BYTES: Final = 64 * 1024
"""Bytes of the file that are read at once."""
MAX_METADATA_BYTES: Final = 2 * containers.MAX_PROFILE_BYTES
"""A larger chunk beside the picture counts as absent."""
_MODES: Final = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""By the number of bytes of a pixel, the mode in which the filters are undone."""


class Survey(Struct):
    """What was found in a picture.

    `transparent` is the number of transparent pixels, None if it has no transparency. `small` is the plain picture scaled
    down; None if it was not asked for, or can't be made. `whole` is False if only the file's structure was checked.
    """

    transparent: int | None = None
    exif: bytes = b""
    profile: bytes = b""
    small: Image | None = None
    whole: bool = True


class _Beside(Struct):
    """What is read of a file beside its pixels."""

    palette: bytes = b""
    transparency: bytes = b""
    exif: bytes = b""
    profile: bytes = b""


def survey(file: BinaryIO, header: Header, longest: int | None, *, strip_bytes: int = STRIP_BYTES) -> Survey:
    """Check the whole picture as far as its kind allows, and keep nothing of it but a small copy.

    Args:
        file: The file.
        header: What it claims to be.
        longest: Pixels of the longer side of the small copy; None: no copy is wanted.
        strip_bytes: Decompressed bytes of a PNG that are in memory at once.

    Raises:
        BrokenError: The picture is not whole. Decoders raise errors of other types for the same reason.
    """
    match header.kind:
        case "PNG":
            return _png(file, longest, strip_bytes)
        case "JPEG":
            return _jpeg(file, header, longest)
        case _:
            if not containers.webp_is_whole(file, header):
                raise BrokenError
            return Survey(whole=False)


class _Spliced:
    """A file of which another beginning is read."""

    def __init__(self, head: bytes, file: BinaryIO, start: int) -> None:
        """Begin with `head`; behind it stands what `file` has from `start` on."""
        self._head, self._file, self._behind, self._at = head, file, start - len(head), 0

    def read(self, size: int = -1) -> bytes:
        own = self._head[self._at :] if size < 0 else self._head[self._at : self._at + size]
        self._at += len(own)
        if self._at < len(self._head) or len(own) == size:
            return own
        self._file.seek(self._behind + self._at)
        more = self._file.read(size - len(own) if size >= 0 else -1)
        self._at += len(more)
        return own + more

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = at + (self._at if whence == 1 else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def _jpeg(file: BinaryIO, header: Header, longest: int | None) -> Survey:
    from PIL import JpegImagePlugin

    head = containers.jpeg_head(file)
    found = Survey(None, head.exif, head.profile)
    if not containers.in_one_scan(head.data):
        found.whole = False
        if not containers.has_end(file):
            raise BrokenError
        return found
    # Not by `Image.open`: its own limit is that of whole pictures.
    image = JpegImagePlugin.JpegImageFile(cast("IO[bytes]", _Spliced(head.data, file, file.tell())))
    if image.size != (header.width, header.height):
        raise BrokenError
    image.draft(None, (header.width // 8, header.height // 8))
    image.load()
    found.small = None if longest is None else pixels.scaled(pixels.plain(image), longest)
    return found


def _png(file: BinaryIO, longest: int | None, strip_bytes: int) -> Survey:
    beside, head = _Beside(), containers.png_head(file)
    packed = _Inflated(_packed(file, beside))
    found, copy = Survey(), _Copy(longest or 0)
    for number, (width, height) in enumerate(head.passes):
        unit = copy.factor(width, height) if longest and len(head.passes) == 1 else 0
        top = 0
        for strip in _strips(packed, head, (width, height), strip_bytes, max(unit, 1)):
            image = _dressed(strip, head, beside)
            clear = pixels.transparent_pixels(image)
            if number == top == 0:
                found.transparent = clear
            elif found.transparent is not None and clear is not None:
                found.transparent += clear
            if unit:
                copy.add(pixels.plain(image), top)
            top += strip.height
    packed.drain()
    found.exif, found.profile, found.small = beside.exif, beside.profile, copy.image
    return found


class _Copy(Struct):
    """A smaller copy, made of strips: each is averaged by a whole factor, and all are at last scaled together."""

    longest: int
    by: int = 1
    size: tuple[int, int] = (0, 0)
    made: Image | None = None

    def factor(self, width: int, height: int) -> int:
        """The factor: what is left is twice as large as what is wanted, so that the last scaling is a fine one."""
        self.by = max(1, max(width, height) // (2 * self.longest))
        self.size = -(-width // self.by), -(-height // self.by)
        return self.by

    def add(self, strip: Image, top: int) -> None:
        from PIL import Image

        if self.made is None:
            self.made = Image.new(strip.mode, self.size)
        self.made.paste(strip.reduce(self.by) if self.by > 1 else strip, (0, top // self.by))

    @property
    def image(self) -> Image | None:
        return None if self.made is None else pixels.scaled(self.made, self.longest)


class _Inflated:
    """The decompressed bytes of a stream, as many at a time as are wanted."""

    def __init__(self, packed: Iterator[bytes]) -> None:
        self._packed = packed
        self._unpacking = zlib.decompressobj()
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts = list[bytes]()
        while size:
            part = self._unpacking.decompress(self._rest, size)
            self._rest = self._unpacking.unconsumed_tail
            if not part and not self._rest:
                if self._unpacking.eof or not (piece := next(self._packed, b"")):
                    raise BrokenError
                self._rest = piece
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Read the file to its end: checksums and metadata may stand behind the last pixel."""
        for _ in self._packed:
            pass


def _packed(file: BinaryIO, beside: _Beside) -> Iterator[bytes]:
    """The compressed pixels, piece by piece. What stands beside them is put into `beside` on the way."""
    file.seek(len(containers.PNG))
    while len(head := file.read(8)) == 8:  # noqa: PLR2004  # length and name
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":
            return
        if name == b"IDAT":
            yield from _checked(file, length)
        elif name in {b"PLTE", b"tRNS", b"eXIf", b"iCCP"} and length <= MAX_METADATA_BYTES:
            _note(beside, name, file.read(length), file.read(4))
        else:
            file.seek(length + 4, 1)


def _checked(file: BinaryIO, length: int) -> Iterator[bytes]:
    checksum = zlib.crc32(b"IDAT")
    while length:
        piece = file.read(min(length, PIECE_BYTES))
        if not piece:
            raise BrokenError
        checksum = zlib.crc32(piece, checksum)
        length -= len(piece)
        yield piece
    if file.read(4) != checksum.to_bytes(4):
        raise BrokenError


def _note(beside: _Beside, name: bytes, payload: bytes, checksum: bytes) -> None:
    if zlib.crc32(name + payload).to_bytes(4) != checksum:
        if name == b"PLTE":
            raise BrokenError
    elif name == b"PLTE":
        beside.palette = payload
    elif name == b"tRNS":
        beside.transparency = payload
    elif name == b"eXIf":
        beside.exif = payload
    else:
        beside.profile = containers.unpacked_profile(payload)


def _strips(packed: _Inflated, head: PngHead, size: tuple[int, int], strip_bytes: int, unit: int) -> Iterator[Image]:
    """The rows of a picture, or of a pass of an interlaced one; of each strip but the last, a multiple of `unit`."""
    from PIL import Image

    width, height = size
    stored = 1 + head.row_bytes(width)
    most = max(1, strip_bytes // stored // unit) * unit
    lanes = head.channels if head.bits >= 8 else 1  # noqa: PLR2004
    across = width if head.bits >= 8 else stored - 1  # noqa: PLR2004
    mode, above = _MODES[lanes], bytes(across * lanes)
    for top in range(0, height, most):
        count = min(most, height - top)
        rows = packed.read(count * stored)
        if head.bits == 16:  # noqa: PLR2004
            each = (rows[start : start + stored] for start in range(0, len(rows), stored))
            rows = b"".join(row[:1] + row[1::2] for row in each)
        whole = Image.frombytes(mode, (across, count + 1), zlib.compress(b"\0" + above + rows, 0), "zip", mode)
        above = whole.crop((0, count, across, count + 1)).tobytes()
        yield _unpacked(whole.crop((0, 1, across, count + 1)), head, width)


def _unpacked(strip: Image, head: PngHead, width: int) -> Image:
    from PIL import Image

    if head.bits >= 8 and not head.has_palette:  # noqa: PLR2004
        return strip
    bits = "" if head.bits == 8 else f";{head.bits}"  # noqa: PLR2004
    mode = "P" if head.has_palette else "1" if head.bits == 1 else "L"
    return Image.frombytes(mode, (width, strip.height), strip.tobytes(), "raw", f"{mode}{bits}" if mode != "1" else "1")


def _dressed(strip: Image, head: PngHead, beside: _Beside) -> Image:
    """The strip with the palette and the transparency of its picture."""
    if head.has_palette:
        strip.putpalette(beside.palette)
    if beside.transparency:
        key = containers.transparency_of(head.bits, head.colours, beside.transparency)
        if key is not None:
            strip.info["transparency"] = key >> 8 if isinstance(key, int) and head.bits == 16 else key  # noqa: PLR2004
    return strip
