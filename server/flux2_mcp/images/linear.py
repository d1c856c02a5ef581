"""Scales pictures down by the light that their pixels stand for. Sync.

The numbers of a pixel are no amounts of light: a pixel of 128 is a fifth as bright as white. Their mean is too dark, so that
fine bright lines fade. Here each number becomes light, is weighed with its opacity, so that what is transparent gives no
colour to an edge, and is scaled with the bicubic filter. That is sharp, but overshoots: beside a bright line on a dark ground
it leaves a black ring. So no new pixel is darker or brighter than the plain means of the old pixels around it. Lanczos' filter
overshoots twice; its second ring was seen as a row of grey dots along slanted lines on dark icons.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image, Resampling

MOST_LIGHT: Final = 65_535
"""White. Pillow has tables from 8 bits to light, and from 16 bits back."""
MOST_PIXELS: Final = 2**23
"""The largest new picture that is scaled by its light: one of 3840x2160 is."""
COPIES: Final = 11
"""How much memory scaling takes at most, in pictures of 4 bytes a pixel."""
STRIP_PIXELS: Final = 1_000_000
"""How many pixels are light at once: 4 bytes for each."""
CLEAR: Final = 1 / 512
"""A smaller share of opacity becomes 0 of 255: such a pixel has no colour."""


def scaled(picture: Image, width: int, height: int) -> Image:
    """A normal picture at another size, in pixels; none of the sides may be larger than it is.

    Takes up to `COPIES` times the memory of the picture. If the new one has more than `MOST_PIXELS`, it is scaled by its
    numbers, in less memory: such a size is near to the picture's own, and the difference is small.
    """
    from PIL import Image
    from PIL.Image import Resampling

    if picture.size == (width, height):
        return picture
    if width * height > MOST_PIXELS:
        return picture.resize((width, height), Resampling.LANCZOS)
    light = [_shrunk(picture, band, width, height) for band in picture.getbands()]
    if picture.mode == "RGB":
        return Image.merge("RGB", _coded(light))
    alpha = light.pop()
    colours = _coded([_computed(_unweighed, each, alpha) for each in light])
    return Image.merge("RGBA", [*colours, _computed(_eight_bits, alpha).convert("L")])


def _shrunk(picture: Image, band: str, width: int, height: int) -> Image:
    """The light of one band, times its opacity if it has one; of the band A, the opacity, 0 to 1."""
    from PIL.Image import Resampling

    fine, plain = _narrowed(picture, band, width, (Resampling.BICUBIC, Resampling.BOX))
    fine = fine.resize((width, height), Resampling.BICUBIC)
    plain = plain.resize((width, height), Resampling.BOX)
    return _computed(_between, fine, _around(plain, _least), _around(plain, _most))


def _around(light: Image, formula: Any) -> Image:  # noqa: ANN401  # a formula of ImageMath
    """Of each pixel and the eight around it, the least or the most: Pillow's own filter takes ten times as long."""
    for across, down in ((1, 0), (0, 1)):
        before, after = light.copy(), light.copy()  # at the border, a pixel is its own neighbour
        before.paste(light, (across, down))
        after.paste(light, (-across, -down))
        light = _computed(formula, light, before, after)
    return light


def _narrowed(picture: Image, band: str, width: int, filters: tuple[Resampling, ...]) -> list[Image]:
    """The light of one band at the new width and the old height, by each filter: made some rows at a time."""
    from PIL import Image

    found = [Image.new("F", (width, picture.height)) for _ in filters]
    rows = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        foot = min(top + rows, picture.height)
        light = _light(picture.crop((0, top, picture.width, foot)), band)
        for whole, by in zip(found, filters, strict=True):
            whole.paste(light.resize((width, foot - top), by), (0, top))
    return found


def _light(strip: Image, band: str) -> Image:
    if band == "A":
        return strip.getchannel("A").point(_to_share(), "F")
    light = strip.getchannel(band).point(_to_light(), "F")
    return light if strip.mode == "RGB" else _computed(_weighed, light, _light(strip, "A"))


def _coded(bands: Sequence[Image]) -> list[Image]:
    """Light as 8 bits in sRGB. All bands lie in one picture: Pillow goes through the whole table at each call."""
    from PIL import Image

    width, height = bands[0].size
    pile = Image.new("I", (width, height * len(bands)))
    tops = range(0, pile.height, height)
    for top, band in zip(tops, bands, strict=True):
        pile.paste(band.convert("I"), (0, top))
    coded = pile.point(_from_light(), "L")
    return [coded.crop((0, top, width, top + height)) for top in tops]


def _computed(formula: Any, *images: Image) -> Image:  # noqa: ANN401  # ImageMath's own operands
    from PIL import ImageMath

    names = "abc"[: len(images)]
    found: Image = ImageMath.lambda_eval(formula, **dict(zip(names, images, strict=True)))
    return found


def _between(n: Any) -> Any:  # noqa: ANN401  # ImageMath's own operands, as below
    return n["max"](n["min"](n["a"], n["c"]), n["b"])


def _least(n: Any) -> Any:  # noqa: ANN401
    return n["min"](n["min"](n["a"], n["b"]), n["c"])


def _most(n: Any) -> Any:  # noqa: ANN401
    return n["max"](n["max"](n["a"], n["b"]), n["c"])


def _weighed(n: Any) -> Any:  # noqa: ANN401
    return n["a"] * n["b"]


def _unweighed(n: Any) -> Any:  # noqa: ANN401
    return n["min"](n["a"] / n["max"](n["b"], CLEAR), float(MOST_LIGHT))


def _eight_bits(n: Any) -> Any:  # noqa: ANN401
    return n["a"] * 255.0 + 0.5


@cache
def _to_share() -> list[float]:
    return [value / 255 for value in range(256)]


@cache
def _to_light() -> list[float]:
    """The curve of sRGB, as IEC 61966-2-1 has it."""
    shares = [value / 255 for value in range(256)]
    return [MOST_LIGHT * (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4) for x in shares]  # noqa: PLR2004


@cache
def _from_light() -> list[int]:
    """The curve's inverse, for each value of 16 bits."""
    shares = [value / MOST_LIGHT for value in range(MOST_LIGHT + 1)]
    return [round(255 * (x * 12.92 if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055)) for x in shares]  # noqa: PLR2004
