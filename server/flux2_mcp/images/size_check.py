"""Compares the size of a delivered image with its request. Pure."""

from __future__ import annotations

import re
from math import inf

from flux2_mcp.domain.catalog import AUTO, DEFAULT_ASPECT_RATIO, resolution
from flux2_mcp.domain.models import Action, ImageRequest

RATIO_TOLERANCE = 0.03
"""Sides are multiples of 16 or 32 pixels, so 16:9 at 1k may be 1360x768. The two nearest ratios, 4:3 and 3:2, are 12 %
apart."""
MEGAPIXELS = {"1k": (0.5, 2.0), "2k": (2.0, 8.0)}
"""The sizes accepted for each resolution, in millions of pixels. RunAPI publishes no sizes: 1k is about 1 megapixel.
2k is about 4, or 2.4 if it means the longer side of a wide picture."""
_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})", re.ASCII)
SQUARE = "It is square: no aspect_ratio was given, and without one this model does not keep its source's shape."


def mismatch(request: ImageRequest, width: int, height: int) -> str | None:
    """A sentence about how an image of this size differs from its request; None if it fits.

    A ratio of `auto` means that of the first source, if this process has measured it. A request that is not known fits
    any size, and so does a ratio or a resolution that only a newer version knows.
    """
    if request.model == "unknown":
        return None
    wrong = []
    ratio = _ratio(request)
    if ratio is not None and abs(width / height / ratio[1] - 1) > RATIO_TOLERANCE:
        wrong.append(f"the ratio {ratio[0]}")
    low, high = MEGAPIXELS.get(resolution(request), (0, inf))
    if not low <= width * height / 1_000_000 <= high:
        wrong.append(f"the resolution {resolution(request)}")
    return f"{width}x{height} came, which is not {' nor '.join(wrong)} that was asked for." if wrong else None


def squared(request: ImageRequest) -> str | None:
    """A sentence that a remix is square because its request had no ratio; None if not, or if its source is square."""
    if request.action is not Action.REMIX_IMAGE or request.aspect_ratio is not None or request.model == "unknown":
        return None
    first = request.sources[0] if request.sources else None
    return None if first is not None and first.width is not None and first.width == first.height else SQUARE


def _ratio(request: ImageRequest) -> tuple[str, float] | None:
    ratio = request.aspect_ratio or DEFAULT_ASPECT_RATIO
    if ratio != AUTO:
        known = _RATIO.fullmatch(ratio)
        return None if known is None else (ratio, int(known[1]) / int(known[2]))
    first = request.sources[0] if request.sources else None
    if first is None or not first.width or not first.height:
        return None
    return f"of the first source ({first.width}x{first.height})", first.width / first.height
