"""A small picture is small whatever it shows, in pixels and in bytes; what is transparent shows squares."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from flux2_mcp.images import pixels
from flux2_mcp.images.preview import MAX_PREVIEW_BYTES, Picture, scaled


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """What no encoder makes small."""
    path = tmp_path / "noise.png"
    Image.effect_noise((700, 600), 120).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("kind", ["JPEG", pytest.param("WEBP", marks=pytest.mark.deep)])
def test_the_quality_falls_until_it_fits_and_then_the_size(noise: Path, kind: Picture) -> None:
    for most, side in ((None, 512), (MAX_PREVIEW_BYTES, 512), (6_000, 511)):
        data = scaled(noise, most_bytes=most, kind=kind)
        assert (len(data) <= (most or 0)) == (most is not None)
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == kind
            assert side / 4 < max(picture.size) <= side


def greys(picture: Image.Image, side: int) -> set[int]:
    """The values at the middles of the squares that stand for nothing behind a picture, where rows and columns alternate."""
    across, down = picture.width // side, picture.height // side
    first = [
        [picture.getpixel((x * side + side // 2, y * side + side // 2)) for x in range(across)] for y in range(down)
    ]
    return {value for y, row in enumerate(first) for x, value in enumerate(row) if (x + y) % 2 == 0}  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_squares_and_what_is_not_does_not(
    tmp_path: Path, kind: Literal["JPEG", "WEBP", "PNG"], mode: str
) -> None:
    picture = Image.new("RGBA", (1600, 800))
    picture.paste((0, 0, 0, 255), (800, 0, 1600, 800))
    (picture.quantize(8) if mode == "P" else picture.convert(mode)).save(path := tmp_path / "a.png")
    with Image.open(io.BytesIO(scaled(path, 400, None, kind))) as found:
        clear, opaque = (found.convert("L").crop(box) for box in ((0, 0, 180, 200), (220, 0, 400, 200)))
    assert found.size == (400, 200)
    for grey, found_greys in zip(
        pixels.CHECK_GREYS, (greys(clear, 10), greys(clear.crop((10, 0, 180, 200)), 10)), strict=True
    ):
        assert max(abs(value - grey) for value in found_greys) < 16  # as near as JPEG has it
    assert opaque.getextrema() in {(0, high) for high in range(8)}


def test_a_picture_without_transparency_and_an_opaque_one_show_no_squares(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (300, 200), (9, 90, 40)).save(path := tmp_path / f"{mode}.png")
        with Image.open(io.BytesIO(scaled(path, kind="PNG"))) as found:
            assert found.getcolors() == [(300 * 200, (9, 90, 40))]
