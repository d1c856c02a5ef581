"""What is transparent in a delivered picture is counted while it is decoded for its check, and written down."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.images import pixels
from flux2_mcp.images.decode import check, check_and_scale
from flux2_mcp.journal.records import dump_images
from tests.support.picture_files import chunk, corner, png, saved
from tests.support.rows import each_row

COLOUR_KEY = chunk(b"tRNS", struct.pack(">3H", 255, 0, 0))


def half(mode: str = "RGBA", alpha: int = 0) -> Image.Image:
    """40 by 20 pixels; of the left half, this alpha is the one."""
    picture = Image.new("RGBA", (40, 20), (200, 60, 20, 255))
    picture.paste((200, 60, 20, alpha), (0, 0, 20, 20))
    return picture.convert(mode)


def grey16(key: int) -> bytes:
    """A grey PNG of 16 bits: a fifth of its pixels have a value that is meant to be transparent."""
    picture = Image.new("I;16", (10, 10), 40_000)
    for x in range(20):
        picture.putpixel((x % 10, x // 10), key)
    data = saved(picture)
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(b"tRNS", struct.pack(">H", key)) + data[at:]


def palette() -> bytes:
    picture = Image.new("P", (10, 10), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.paste(2, (0, 0, 10, 3))
    return saved(picture, transparency=bytes([255, 255, 40]))


SHARES = {
    "half of it": (saved(half()), 0.5),
    "half of it, as WebP": (saved(half(), "WEBP", lossless=True), 0.5),
    "half of it, as a lossy WebP": (saved(half(), "WEBP", quality=90), 0.5),
    "grey with alpha": (saved(half("LA")), 0.5),
    "less than half opaque": (saved(half(alpha=127)), 0.5),
    "more than half opaque": (saved(half(alpha=128)), 0.0),
    "alpha that is opaque everywhere": (saved(corner("RGBA")), 0.0),
    "nothing but alpha": (saved(Image.new("RGBA", (9, 9))), 1.0),
    "a palette with alpha": (palette(), 0.3),
    "a colour that is transparent": (png(first=COLOUR_KEY), 0.25),
    "a grey that is transparent": (grey16(300), 0.2),
    "rgb": (saved(corner()), None),
    "grey": (saved(corner("L")), None),
    "a palette": (saved(corner("P")), None),
    "a jpeg": (saved(corner(), "JPEG"), None),
    "a cmyk jpeg": (saved(corner("CMYK"), "JPEG"), None),
    "a webp": (saved(corner(), "WEBP"), None),
}


def test_the_share_of_transparent_pixels_is_told_for_every_kind_of_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with each_row() as row:
        for name, (data, share) in SHARES.items():
            with row(name):
                path.write_bytes(data)
                found = [check(path).transparent_share, check_and_scale(path, 16)[0].transparent_share]
                assert (found, [type(each) for each in found]) == ([share] * 2, [type(share)] * 2)


def test_a_share_is_rounded_to_four_places(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (100, 30), "red")
    picture.putpixel((50, 29), (0, 0, 0, 0))
    (path := tmp_path / "a.png").write_bytes(saved(picture))
    assert check(path).transparent_share == 0.0003


def test_a_picture_of_many_bands_is_counted_whole_and_never_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.4 bands: what is transparent lies in the second alone, in its last row."""
    copied = list[int]()
    crop: Callable[..., Image.Image] = Image.Image.crop

    def counted(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
        copied.append((box[2] - box[0]) * (box[3] - box[1]))
        return crop(image, box)

    picture = Image.new("RGBA", (1400, 1000), "red")
    picture.paste((0, 0, 0, 0), (0, 999, 1400, 1000))
    (path := tmp_path / "a.png").write_bytes(saved(picture, compress_level=1))
    monkeypatch.setattr(Image.Image, "crop", counted)
    assert check(path).transparent_share == 0.001
    bands = [size for size in copied if size > 1400]  # beside them, one row, to see whether the picture ends early
    assert max(bands) <= pixels.BAND_PIXELS < sum(bands) == 1400 * 1000


def test_an_image_is_written_down_with_its_share_only_if_it_has_one() -> None:
    image = StoredImage(path="/a.png", mime_type="image/png", width=2, height=2, size_bytes=9, sha256="0")
    clear = StoredImage(
        path="/a.png", mime_type="image/png", width=2, height=2, size_bytes=9, sha256="0", transparent_share=0.0
    )
    first, second = json.loads(dump_images([image, clear]))
    assert "transparent_share" not in first
    assert second == first | {"transparent_share": 0.0}
