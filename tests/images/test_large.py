"""A picture that is too large to be in memory whole is checked piece by piece, and a bomb is still refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from flux2_mcp.domain.models import Save
from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import containers, large, pixels, workspace
from flux2_mcp.images.containers import BrokenError
from flux2_mcp.images.decode import CheckedImage, check, check_and_scale, normal
from flux2_mcp.images.preview import scaled
from flux2_mcp.images.upright import upright
from tests.support.picture_files import (
    bare_png,
    chunk,
    corner,
    described,
    exif,
    jpeg,
    opened,
    png,
    red_is_green,
    saved,
    webp,
)
from tests.support.rows import each_row

SIDE = 8100
"""Of a square that is a little too large to be decoded whole: 65.6 megapixels."""
MOST_MIB = 130
"""Of a process that checks one: Python and Pillow take 40 MiB, the pieces the rest. Whole, it would take 250 MiB more."""


def noise(mode: str, size: tuple[int, int] = (97, 61)) -> Image.Image:
    """A picture in which every filter of PNG is worth using somewhere, half of it transparent where it can be."""
    channels = [Image.effect_noise(size, 60 + 20 * number) for number in range(4)]
    channels[0].paste(Image.linear_gradient("L").resize(size), mask=channels[1].point(lambda value: 255 * (value > 90)))
    channels[3] = channels[3].point(lambda value: 255 * (value > 128))
    return Image.merge("RGBA", channels).convert(mode)


def rgb16(*, alpha: bool) -> bytes:
    """A PNG of 16 bits a channel, each row with another filter; Pillow writes none."""
    width, height, channels = 31, 23, 4 if alpha else 3
    rows = []
    for y in range(height):
        values = [(x * 2000 + y * 700 * c + (x * y * 31) % 500) % 65_536 for x in range(width) for c in range(channels)]
        rows.append(struct.pack(f">{len(values)}H", *values))
    packed, unit = bytearray(), 2 * channels
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else bytes(len(row))
        kind = y % 3  # none, the difference to the left, the difference to the row above
        left = bytes(unit) + row[:-unit]
        packed += bytes(
            [kind, *((a - b) % 256 for a, b in zip(row, (bytes(len(row)), left, above)[kind], strict=True))]
        )
    head = struct.pack(">IIBBBBB", width, height, 16, 6 if alpha else 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(packed))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def few_colours(bits: int) -> bytes:
    return saved(noise("RGB").quantize(2**bits), bits=bits, transparency=bytes([255, 0, 9]))


def keyed(mode: str, *key: int) -> bytes:
    data = saved(noise(mode))
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) + data[at:]


def interlaced(data: bytes) -> bytes:
    """The same picture, its pixels stored in seven passes; Pillow writes none such."""
    picture = opened(data)
    head, unit = containers.png_head(io.BytesIO(data)), len(picture.getbands())
    rows = bytearray()
    for column, row, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):  # fmt: skip
        raw, stride = picture.tobytes(), picture.width * unit
        for y in range(row, picture.height, down):
            rows += b"\0" + b"".join(
                raw[y * stride + x * unit : y * stride + x * unit + unit] for x in range(column, picture.width, across)
            )
    told = struct.pack(">IIBBBBB", *picture.size, 8, head.colours, 0, 0, 1)
    parts = [chunk(b"IHDR", told), chunk(b"IDAT", zlib.compress(bytes(rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SOUND: dict[str, bytes] = {
    "rgb": saved(noise("RGB")),
    "rgba": saved(noise("RGBA")),
    "grey": saved(noise("L")),
    "grey with alpha": saved(noise("LA")),
    "two tones": saved(noise("1")),
    "256 colours": saved(noise("P")),
    "16 colours": few_colours(4),
    "4 colours": few_colours(2),
    "2 colours": few_colours(1),
    "16 bits of grey": saved(noise("L").convert("I;16")),
    "16 bits": rgb16(alpha=False),
    "16 bits with alpha": rgb16(alpha=True),
    "a transparent grey": keyed("L", 128),
    "a transparent colour": png(first=chunk(b"tRNS", struct.pack(">3H", 255, 0, 0))),
    "on its side": png(last=chunk(b"eXIf", exif(6).tobytes()[6:])),
    "a profile": saved(corner(), icc_profile=red_is_green()),
    "odd metadata": png(first=chunk(b"tEXt", b"a\0b", sound=False), last=chunk(b"iCCP", b"a\0\0nothing")),
    "one pixel": saved(Image.new("RGBA", (1, 1), (9, 9, 9, 0))),
}


def surveyed(data: bytes, longest: int | None = None, strip_bytes: int = 900) -> large.Survey:
    """By default strips have a few rows of these pictures, or one."""
    file = io.BytesIO(data)
    header = containers.header(file)
    assert header is not None
    return large.survey(file, header, longest, strip_bytes=strip_bytes)


def test_a_png_in_pieces_is_the_same_picture_as_the_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with each_row() as row:
        for name, data in SOUND.items():
            for strip_bytes in (1, 900, 10**6):
                with row(f"{name}, {strip_bytes}"):
                    path.write_bytes(data)
                    found, whole = surveyed(data, 10_000, strip_bytes), check(path)
                    clear = (
                        None
                        if found.transparent is None
                        else round(found.transparent / (whole.width * whole.height), 4)
                    )
                    assert clear == whole.transparent_share
                    assert found.small is not None
                    with normal(data) as (_, picture):
                        made = pixels.upright(found.small, found.exif, found.profile)
                        assert (made.mode, made.size) == (picture.mode, picture.size)
                        differences = ImageChops.difference(made, picture).getextrema()
                        most = (
                            1 if "16 bits" in name else 0
                        )  # of grey with 16 bits, the whole picture's values are rounded
                        assert max(high for _, high in differences) <= most  # type: ignore[misc]  # bands


@pytest.mark.parametrize("mode", [pytest.param("RGB", marks=pytest.mark.deep), "RGBA"])
def test_a_small_copy_of_pieces_looks_like_that_of_the_whole_picture(mode: str) -> None:
    data = saved(noise(mode, (400, 250)).resize((800, 500), Image.Resampling.BICUBIC))
    small = surveyed(data, 100, 30_000).small
    with normal(data, longest=100) as (_, whole):
        assert small is not None
        assert (small.mode, small.size) == (whole.mode, whole.size)
        assert max(sum(c.histogram()[24:]) for c in ImageChops.difference(small, whole).split()[:3]) < 150


def test_an_interlaced_png_is_checked_pass_by_pass_and_has_no_small_copy() -> None:
    for mode in ("RGBA", "L"):
        data = saved(noise(mode))
        found, plain = surveyed(interlaced(data), 50), surveyed(data)
        assert opened(interlaced(data)).tobytes() == opened(data).tobytes()
        assert (found.transparent, found.small, found.whole) == (plain.transparent, None, True)


def cut(data: bytes, size: int = 1) -> bytes:
    """Without the last bytes of its rows, though every checksum is right."""
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    packed, here = b"", at
    while here < end:
        length = int.from_bytes(data[here : here + 4])
        packed += data[here + 8 : here + 8 + length]
        here += 12 + length
    return data[:at] + chunk(b"IDAT", zlib.compress(zlib.decompress(packed)[:-size])) + data[end:]


def test_a_png_whose_last_row_is_missing_is_refused_whatever_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for name, data in (
        SOUND | {"in passes": interlaced(SOUND["rgb"]), "in passes, grey": interlaced(SOUND["grey"])}
    ).items():
        path.write_bytes(data)
        assert check_and_scale(path, 50)[0] == check(path)
        head = containers.png_head(io.BytesIO(data))
        for size in (1, 1 + head.row_bytes(head.passes[-1][0])):
            path.write_bytes(cut(data, size))
            with pytest.raises(DeliveryError, match="can't be decoded to its end"):
                pytest.fail(f"{name}, {size} bytes: {check(path)}")


def with_filter(kind: int) -> bytes:
    return bare_png(8, 8, zlib.compress(bytes(25 * 7) + bytes([kind]) + bytes(24)))


BROKEN = {
    "a row too few": cut(SOUND["rgba"]),
    "an unknown filter": with_filter(5),
    "an unknown kind of colours": SOUND["rgb"][:25] + b"\x05" + SOUND["rgb"][26:],
    "a head that was changed": SOUND["rgb"][:19] + b"\x62" + SOUND["rgb"][20:],
    "a checksum that was changed": SOUND["rgb"][:-13] + b"\0" + SOUND["rgb"][-12:],
    "no pixels": SOUND["rgb"][:33] + chunk(b"IEND", b""),
    "an end in the middle": SOUND["rgb"][:-900],
    "a palette that was changed": SOUND["256 colours"].replace(b"PLTE", b"PLTF", 1).replace(b"PLTF", b"PLTE\xfe", 1),
    "a jpeg that ends too soon": jpeg()[:-100],
    "a progressive jpeg without an end": jpeg(progressive=True)[:-2],
    "a webp that ends too soon": webp()[:-40],
}


def test_what_is_not_whole_is_refused_in_pieces_too() -> None:
    assert surveyed(with_filter(2)).whole
    for name, data in BROKEN.items():
        for strip_bytes in (1, 900, 10**6):
            with pytest.raises((BrokenError, OSError, ValueError, zlib.error, struct.error)):
                pytest.fail(f"{name}: {surveyed(data, None, strip_bytes)}")


def test_a_jpeg_is_read_to_its_end_and_one_in_many_scans_and_a_webp_by_their_structure() -> None:
    picture = noise("RGB", (640, 480)).resize((1600, 1200))
    plain = surveyed(saved(picture, "JPEG", quality=90, exif=exif(6)), 150)
    assert (plain.whole, plain.transparent, containers.orientation(plain.exif)) == (True, None, 6)
    assert plain.small is not None
    assert plain.small.size == (150, 113)
    assert surveyed(saved(picture, "JPEG", progressive=True), 150) == large.Survey(whole=False)
    assert surveyed(webp()) == surveyed(saved(noise("RGBA"), "WEBP")) == large.Survey(whole=False)
    with pytest.raises(BrokenError):
        surveyed(saved(noise("RGB"), "WEBP", save_all=True, append_images=[noise("RGB")]))


# --- of its real size ---


def square(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)  # type: ignore[arg-type]  # Pillow's own kinds of a colour


def webp_that_claims(side: int) -> bytes:
    """A lossless WebP that says it is a square of this size."""
    data = bytearray(saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    data[21:25] = (int.from_bytes(data[21:25], "little") & ~0xFFFFFFF | (side - 1) << 14 | side - 1).to_bytes(
        4, "little"
    )
    return bytes(data)


LARGE: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(square("L", 90), compress_level=1),
    "jpeg": lambda: saved(square("RGB", (90, 9, 9)), "JPEG"),
    "webp": lambda: webp_that_claims(SIDE),
}
PROGRAM = """
import sys
from pathlib import Path
from flux2_mcp.images import decode, preview, workspace
from tests.support.picture_files import described
path = Path(sys.argv[1])
if "whole" in sys.argv:
    print(len(preview.scaled(path)))
found, small = decode.check_and_scale(path, 768)
print(found.width, found.whole, small and small.size)
print(next(int(line.split()[1]) // 2**10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own peak")
@pytest.mark.parametrize("kind", LARGE)
def test_checking_a_large_picture_takes_the_memory_of_its_pieces(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large"
    path.write_bytes(LARGE[kind]())
    whole = kind != "webp"
    arguments = [sys.executable, "-c", PROGRAM, str(path), *(["whole"] if whole else [])]
    told = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    *_, found, most = told.stdout.splitlines()
    assert found == f"{SIDE} {whole} {(768, 768) if whole else None}"
    assert int(most) < MOST_MIB


def test_a_large_picture_is_saved_as_it_is_and_not_converted_and_is_no_source(tmp_path: Path) -> None:
    (path := tmp_path / "kept.webp").write_bytes(webp_that_claims(SIDE))
    (root := tmp_path / "site").mkdir()
    image = described(path)
    assert workspace.place(root, Save("hero.webp"), image, 0).saved == str(root / "hero.webp")
    assert workspace.place(root, Save("hero.png"), image, 0).note == (
        "Not saved to hero.png: The image has 8100x8100 pixels, too many to be decoded whole here."
        " The image itself is safe in its path."
    )
    with pytest.raises(DeliveryError, match="too large to be decoded here"):
        scaled(path)
    with pytest.raises(UnreadableError, match="has more than 64 megapixels"):
        upright(path.read_bytes())


def png_that_claims(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(64))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png_that_claims(20_000, 15_001), "claims 20000x15001 pixels, which is too large to be meant"),
        (png_that_claims(100_001, 1000), "claims 100001x1000 pixels, which is too large to be meant"),
        (png_that_claims(2**31 - 1, 2**31 - 1), "too large to be meant"),
        (png_that_claims(20_000, 15_000), "can't be decoded to its end"),
        (webp_that_claims(16_384)[:32], "can't be decoded to its end"),
    ],
)
def test_a_bomb_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (path := tmp_path / "a").write_bytes(data)
    with pytest.raises(DeliveryError, match=why):
        check(path)


def test_what_was_checked_by_its_structure_alone_says_so(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(webp_that_claims(SIDE))
    found = CheckedImage("image/webp", ".webp", SIDE, SIDE, None, whole=False)
    assert (check(path), check_and_scale(path, 9)) == (found, (found, None))
