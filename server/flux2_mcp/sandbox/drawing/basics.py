"""What every picture starts from: repeatable chance, and colour."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, TypeVar

Colour = tuple[int, int, int]

WHITE: Final[Colour] = (255, 255, 255)
BLACK: Final[Colour] = (0, 0, 0)
_LINEAR_PART = 0.0031308

_T = TypeVar("_T")


class Dice:
    """Chance which is the same on every machine and Python version: a SHAKE-256 stream of the seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode("utf-8", "surrogatepass")
        self._block = b""
        self._blocks = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return the next number in [low, high)."""
        if not self._block:
            self._block = hashlib.shake_256(self._seed + self._blocks.to_bytes(4, "big")).digest(4096)
            self._blocks += 1
        word, self._block = self._block[:4], self._block[4:]
        return low + (high - low) * int.from_bytes(word, "big") / 2**32

    def whole(self, low: int, high: int) -> int:
        """Return the next integer, both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def pick(self, options: Sequence[_T]) -> _T:
        """Return one of the options."""
        return options[int(self.uniform() * len(options))]


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Return the sRGB colour of a point in OKLCH (lightness 0 to 1, hue in degrees), clipped to the gamut.

    The matrices are those of OKLab's definition (B. Ottosson, "A perceptual color space for image processing").
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _encode(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _encode(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _encode(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _encode(linear: float) -> int:
    clipped = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * clipped if clipped <= _LINEAR_PART else 1.055 * clipped ** (1 / 2.4) - 0.055))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` (0 to 1) of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ramp(stops: Sequence[Colour]) -> list[int]:
    """Return the table (3 x 256) which maps a grey RGB image onto two or more evenly spaced colours, dark to light."""
    legs = len(stops) - 1
    table: list[int] = []
    for channel in range(3):
        levels = [stop[channel] for stop in stops]
        for i in range(256):
            leg = min(i * legs // 255, legs - 1)
            table.append(round(levels[leg] + (levels[leg + 1] - levels[leg]) * (i * legs / 255 - leg)))
    return table


def scaled(strength: float) -> list[int]:
    """Return the table (256) which takes a grey image to a fraction of its strength."""
    return [round(i * strength) for i in range(256)]
