"""Picture files for tests, made of their parts: what encoders write, and what they never would."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageCms

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.images.decode import check

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZE = (80, 40)
END = b"IEND\xaeB`\x82"


def corner(mode: str = "RGB") -> Image.Image:
    """Wide and blue, with red in its upper left corner."""
    picture = Image.new("RGB", SIZE, "blue")
    picture.paste("red", (0, 0, 40, 20))
    return picture.convert(mode)


def saved(picture: Image.Image, kind: str = "PNG", **more: Any) -> bytes:  # noqa: ANN401  # Pillow's own options
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = orientation
    return found


def red_is_green() -> bytes:
    """A colour profile by which what is stored as red is shown green, and the other way round."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


def chunk(name: bytes, data: bytes, *, sound: bool = True) -> bytes:
    """A chunk of a PNG; one that is not sound has a wrong checksum."""
    checksum = zlib.crc32(name + data) ^ (0 if sound else 1)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def bare_png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of 8 bits a channel in RGB, from its packed rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png(mode: str = "RGB", *, first: bytes = b"", last: bytes = b"") -> bytes:
    """The corner with more chunks in it: before its pixels, and behind them."""
    data = saved(corner(mode))
    pixels, end = data.index(b"IDAT") - 4, len(data) - len(END) - 4
    return data[:pixels] + first + data[pixels:end] + last + data[end:]


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg(*segments: bytes, **more: Any) -> bytes:  # noqa: ANN401  # Pillow's own options
    """The corner with more segments at its beginning."""
    data = saved(corner(), "JPEG", quality=95, **more)
    return data[:2] + b"".join(segments) + data[2:]


def mpo() -> bytes:
    """As telephones write it: a JPEG with a second one behind it, and an index of both."""
    return saved(corner(), "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (40, 20))])


def webp(*chunks: tuple[bytes, bytes], padded: bool = True) -> bytes:
    """The corner with more chunks behind its pixels; unpadded, the last has no byte that makes its length even."""
    body = saved(corner(), "WEBP", lossless=True, xmp=b"<x/>")[8:]
    for name, data in chunks:
        body += name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1 if padded else 0)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def described(path: Path) -> StoredImage:
    """An image that was kept, as it was measured."""
    found, data = check(path), path.read_bytes()
    return StoredImage(
        path=str(path),
        mime_type=found.mime_type,
        width=found.width,
        height=found.height,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def near(picture: Image.Image, at: tuple[int, int], colour: tuple[int, int, int], within: int = 40) -> bool:
    """Whether the picture has about this colour there; `at` is of a picture whose longer side has 80 pixels."""
    scale = max(picture.size) / 80
    found = picture.convert("RGB").getpixel((int(at[0] * scale), int(at[1] * scale)))
    assert isinstance(found, tuple)
    return all(abs(one - other) <= within for one, other in zip(found, colour, strict=True))
