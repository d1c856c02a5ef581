"""Metadata is never a reason to lose a picture; a picture that is not whole is refused all the same."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.domain.models import Save
from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.decode import check
from flux2_mcp.images.preview import scaled
from flux2_mcp.images.upright import upright
from flux2_mcp.images.workspace import place
from flux2_mcp.sandbox.drawing.draw import SourceImageError, read_sources
from tests.support.picture_files import (
    BLUE,
    END,
    GREEN,
    RED,
    chunk,
    corner,
    described,
    exif,
    jpeg,
    mpo,
    near,
    opened,
    png,
    red_is_green,
    saved,
    segment,
    webp,
)

MB = 1_000_000
MPF = b"MPF\0"


@cache  # each process of the suite reads this table
def packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


HARMLESS = {
    "a large packed text": png(first=chunk(b"zTXt", b"workflow\0\0" + packed(2 * MB))),
    "a large packed text of the world": png(last=chunk(b"iTXt", b"workflow\0\1\0\0\0" + packed(2 * MB))),
    "many texts": png(first=b"".join(chunk(b"zTXt", b"%d\0\0" % number + packed(MB)) for number in range(70))),
    "a large profile": png(first=chunk(b"iCCP", b"name\0\0" + packed(2 * MB))),
    "a profile that is a bomb": png(first=chunk(b"iCCP", b"name\0\0" + packed(40 * MB))),
    "a profile without an end to its name": png(first=chunk(b"iCCP", b"name")),
    "a profile packed in an unknown way": png(first=chunk(b"iCCP", b"name\0\7" + packed(9))),
    "a text packed in an unknown way": png(first=chunk(b"zTXt", b"name\0\7" + packed(9))),
    "a wrong checksum of a text": png(first=chunk(b"tEXt", b"Comment\0cat", sound=False)),
    "a wrong checksum of a text behind the pixels": png(last=chunk(b"tEXt", b"Comment\0cat", sound=False)),
    "a wrong checksum of a profile": png(first=chunk(b"iCCP", b"name\0\0" + packed(9), sound=False)),
    "a wrong checksum of exif data": png(first=chunk(b"eXIf", exif(6).tobytes()[6:], sound=False)),
    "a wrong checksum of a transparent colour": png(first=chunk(b"tRNS", bytes(6), sound=False)),
    "a transparent colour that is too short": png(first=chunk(b"tRNS", bytes(3))),
    "a gamma that is too short": png(first=chunk(b"gAMA", bytes(3))),
    "no end": png()[: -len(END) - 4],
    "half an end": png()[:-1],
    "a wrong checksum of the end": png()[:-1] + b"?",
    "an end that claims too many bytes": png()[: -len(END) - 4] + b"\xff" * 4 + END,
    "a text behind the pixels that claims too many bytes": png(last=b"\0\0\xff\xfftEXtComment\0cat"),
    "a text behind the pixels that was cut": png(last=chunk(b"tEXt", b"Comment\0cat"))[: -len(END) - 9],
    "junk behind the pixels": png()[: -len(END) - 4] + b"JUNK" * 9,
    "a chunk that nobody knows behind the pixels": png(last=chunk(b"JUNK", b"cat", sound=False)),
    "a wrong checksum of a palette that is not needed": png(first=chunk(b"PLTE", bytes(6), sound=False)),
    "a palette that is not needed and makes no sense": png(first=chunk(b"PLTE", bytes(5))),
    "an animation out of order": png(first=chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(26))),
    "an index of pictures that is junk": jpeg(segment(0xE2, MPF + b"\xff" * 40)),
    "an index of pictures that names none": jpeg(segment(0xE2, MPF + b"II*\0\x08\0\0\0\0\0\0\0\0\0")),
    "a piece of a profile without its number": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "a part of a photo editor's notes": jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4")),
    "a head that is too short": jpeg(segment(0xE0, b"JFIF\0")),
    "a colour space that is too short": jpeg(segment(0xEE, b"Adobe")),
    "exif data that points nowhere": jpeg(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "a last chunk of odd length without its padding": webp((b"XMP ", b"<x/> "), padded=False),
    "a text of a webp that was cut": webp((b"XMP ", b"<x/> " * 9))[:-20],
    "a webp that claims too many bytes": webp()[:4] + b"\xff\xff\xff\0" + webp()[8:],
}  # fmt: skip


def test_whatever_stands_beside_a_picture_it_is_checked_shown_copied_and_sent(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for name, data in HARMLESS.items():
        path.write_bytes(data)
        stored = described(path)
        assert (stored.width, stored.height) == (80, 40), name
        wanted = "copy.png" if stored.mime_type == "image/webp" else "copy.webp"
        copy = place(tmp_path, Save(wanted, overwrite=True), stored, 0)
        assert copy.saved is not None, (name, copy.note)
        for form in (Path(copy.saved).read_bytes(), scaled(path), upright(data).data):
            assert near(opened(form), (5, 5), RED), name
            assert all(near(opened(form), at, BLUE) for at in ((5, 30), (60, 5), (60, 30))), name


def test_a_large_profile_is_applied_all_the_same(tmp_path: Path) -> None:
    large = red_is_green() + bytes(2 * MB)
    path = tmp_path / "kept"
    for data in (
        png(first=chunk(b"iCCP", b"name\0\0" + zlib.compress(large))),
        saved(corner(), "JPEG", quality=95, icc_profile=large),
        saved(corner(), "WEBP", icc_profile=large),
    ):
        path.write_bytes(data)
        for form in (scaled(path), upright(data).data):
            assert near(opened(form), (5, 5), GREEN)


def test_exif_data_counts_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for data in (
        png(last=chunk(b"eXIf", exif(6).tobytes()[6:])),
        jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), segment(0xE1, exif(6).tobytes())),
        webp((b"EXIF", exif(6).tobytes()[6:])),
    ):
        path.write_bytes(data)
        found = check(path)
        assert (found.width, found.height) == (40, 80)
        assert opened(scaled(path)).size == (40, 80)


def cut_pixels() -> bytes:
    """A PNG whose checksums are right, and whose last rows are not there."""
    data = png()
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    rows = zlib.decompress(data[at + 4 : at + 4 + length])
    return data[: at - 4] + chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + data[at + length + 8 :]


def turned_over(data: bytes, name: bytes) -> bytes:
    """The same with one bit of a chunk's fourth byte turned over."""
    at = data.index(name) + 7
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TEXT = chunk(b"tEXt", b"Comment\0cat", sound=False)
BROKEN = {
    "no pixels": png(first=TEXT)[: png(first=TEXT).index(b"IDAT") - 4],
    "the pixels' checksum cut": png()[: -len(END) - 5],
    "pixels behind a text that claims too many bytes": png(first=b"\0\0\xff\xfftEXtComment\0cat"),
    "a head that was changed": turned_over(png(first=TEXT), b"IHDR"),
    "a palette that was changed": turned_over(png("P", first=TEXT), b"PLTE"),
    "pixels that were changed": turned_over(png(first=TEXT), b"IDAT"),
    "rows that are not there": cut_pixels(),
    "a jpeg that ends too soon": jpeg(segment(0xE2, MPF + b"\xff" * 40))[:-100],
    "a camera's jpeg that ends too soon": mpo()[: len(jpeg()) // 2],
    "a jpeg of segments alone": b"\xff\xd8" + segment(0xE1, exif(6).tobytes()),
    "a webp that ends too soon": webp((b"XMP ", b"<x/>"))[:-40],
}


def test_a_picture_that_is_not_whole_is_refused_whatever_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for name, data in BROKEN.items():
        path.write_bytes(data)
        with pytest.raises(DeliveryError, match="can't be decoded to its end"):
            pytest.fail(f"{name}: {check(path)}")
        with pytest.raises(UnreadableError, match="can't be decoded to its end"):
            pytest.fail(f"{name}: {upright(data)}")
        with pytest.raises(DeliveryError, match="gone or can't be read any more"):
            pytest.fail(f"{name}: {len(scaled(path))}")


@given(
    st.sampled_from([*HARMLESS.values(), mpo(), saved(corner("CMYK"), "JPEG"), saved(corner("P"))]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    st.integers(0, 1 << 16),
)
def test_no_bytes_make_a_decoder_s_own_error_escape(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    broken = bytearray(data[:5000])
    for place_, value in changes:
        broken[place_ % len(broken)] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(broken[: end % (2 * len(broken))])
    for look in (
        check,
        scaled,
        lambda path: upright(path.read_bytes()),
        lambda path: read_sources([path.read_bytes()]),
    ):
        with suppress(DeliveryError, UnreadableError, SourceImageError):
            look(path)
