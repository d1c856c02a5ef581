"""Enlarging: exactly so many times as large, the same picture, its transparency, its kind; no seam between the pieces."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ExifTags, Image, ImageChops

from flux2_mcp.sandbox.drawing import enlarge as module
from flux2_mcp.sandbox.drawing.draw import SourceImageError
from flux2_mcp.sandbox.drawing.enlarge import enlarge
from tests.support.deep import thin
from tests.support.picture_files import saved
from tests.support.rows import each_row, rows

MOST_MIB = 150
"""Of a process that enlarges 1360 x 768 pixels 8 times: its result has 67 megapixels, which take 255 MiB in memory."""


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


def lively(mode: str = "RGB", size: tuple[int, int] = (70, 50)) -> Image.Image:
    """A picture with soft and hard edges in each channel."""
    channels = [Image.radial_gradient("L").resize(size), Image.linear_gradient("L").resize(size)]
    channels += [
        channels[1].transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        channels[0].point(lambda value: 255 * (value < 150)),
    ]
    return Image.merge("RGBA", channels).convert(mode)


def furthest(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, on black and on white."""
    assert (one.mode, one.size) == (other.mode, other.size)
    most = 0
    for colour in ("black", "white"):
        grounds = [Image.new("RGBA", one.size, colour) for _ in range(2)]
        for ground, picture in zip(grounds, (one, other), strict=True):
            ground.alpha_composite(picture.convert("RGBA"))
        most = max(most, *(int(band.getextrema()[1]) for band in ImageChops.difference(*grounds).split()))  # type: ignore[arg-type]
    return most


def test_a_png_is_the_same_in_whatever_pieces_it_is_made() -> None:
    with each_row() as row:
        for mode, factors in (("RGB", (1, 8)), ("RGBA", (1, 2, 3)), ("L", (3,)), ("LA", (2,))):
            for factor in factors:
                with row(f"{mode} {factor}"):
                    picture, made = lively(mode), list[Image.Image]()
                    for pixels in (1, 1700, 5000, 10**6):
                        found = b"".join(module.pieces(saved(picture), factor, strip_pixels=pixels))
                        made.append(opened(found))
                    assert {found.format for found in made} == {"PNG"}
                    whole = picture.resize((70 * factor, 50 * factor), Image.Resampling.LANCZOS)
                    # Pillow does a wide piece in another order, and cuts off what is too light between the two steps.
                    assert max(furthest(found, whole) for found in made) <= 32
                    assert max(furthest(found, made[0]) for found in made[:-1]) <= 1


@rows("factor", [1, 2, 8])
@rows("pixels", [1, 30_000, 10**6])
def test_a_jpeg_has_no_seams_between_its_pieces(pixels: int, factor: int) -> None:
    picture = lively()
    found = opened(b"".join(module.pieces(saved(picture, "JPEG", quality=95), factor, strip_pixels=pixels)))
    whole = opened(saved(picture, "JPEG", quality=95)).resize((70 * factor, 50 * factor), Image.Resampling.LANCZOS)
    once = opened(saved(whole, "JPEG", quality=module.QUALITY, subsampling="4:2:0"))
    assert found.format == "JPEG"
    # Colours are half as dense, so that they reach over a seam when it is decoded whole.
    assert furthest(found.convert("L"), once.convert("L")) <= 12
    assert furthest(found, once) <= 40


def test_a_webp_stays_one_with_its_transparency_until_it_is_too_large() -> None:
    data = saved(lively("RGBA"), "WEBP", lossless=True)
    found = opened(enlarge(data, 2))
    assert (found.format, found.mode, found.size) == ("WEBP", "RGBA", (140, 100))
    assert opened(b"".join(module.pieces(data, 2, max_webp_pixels=140 * 100 - 1))).format == "PNG"


def test_other_pictures_become_png_of_their_own_colours() -> None:
    with each_row() as row:
        for name, data, mode in (
            ("palette", saved(lively().quantize(32)), "RGB"),
            ("palette with alpha", saved(lively().quantize(8), transparency=bytes([0, 255])), "RGBA"),
            ("16 bits", saved(lively("L").convert("I;16")), "L"),
            ("gif", saved(lively().quantize(32), "GIF"), "RGB"),
        ):
            with row(name):
                found = opened(enlarge(data, 2))
                assert (found.format, found.mode, found.size) == ("PNG", mode, (140, 100))
                assert found.info["Comment"] == "SANDBOX: enlarged by arithmetic; no model was run"


def test_a_photograph_is_set_upright() -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    assert opened(enlarge(saved(lively(), "JPEG", exif=turned), 2)).size == (100, 140)


PROGRAM = """
import io, sys
from PIL import Image
from flux2_mcp.sandbox.drawing.enlarge import enlarge
out = io.BytesIO()
Image.radial_gradient("L").resize((1360, 768)).convert(sys.argv[2]).save(out, sys.argv[1])
print(len(enlarge(out.getvalue(), 8)))
print(next(int(line.split()[1]) // 2**10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own peak")
@pytest.mark.parametrize(("kind", "mode"), thin([("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB")], kept=[("PNG", "L")]))
def test_an_enlarged_picture_is_never_in_memory_whole(kind: str, mode: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, mode],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path.cwd(),
    )
    assert told.returncode == 0, told.stderr
    size, most = map(int, told.stdout.split())
    assert size > 100_000
    assert most < MOST_MIB


@pytest.mark.parametrize("data", [b"", b"<svg/>", saved(Image.new("RGB", (90, 90)))[:60]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(SourceImageError, match="is not an image that can be read"):
        enlarge(data, 2)
