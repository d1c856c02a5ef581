"""Compares a delivered image with its request: its size, its shape, its transparency. Pure."""

from __future__ import annotations

import re
from math import inf

from flux2_mcp.domain.catalog import AUTO, DEFAULT_ASPECT_RATIO, resolution
from flux2_mcp.domain.models import MAKING, Action, ImageRequest
from flux2_mcp.images.pixel_limit import MAX_LARGE_PIXELS

RATIO_TOLERANCE = 0.03
"""Sides are multiples of 16 or 32 pixels, so 16:9 at 1k may be 1360x768. The two nearest ratios, 4:3 and 3:2, are 12 %
apart."""
MEGAPIXELS = {"1k": (0.5, 2.0), "2k": (2.0, 8.0)}
"""The sizes accepted for each resolution, in millions of pixels. RunAPI publishes no sizes: 1k is about 1 megapixel.
2k is about 4, or 2.4 if it means the longer side of a wide picture."""
_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})", re.ASCII)
OPAQUE = "It has no transparent ground."
EMPTY = "Nothing is left of the picture: all of it is transparent."
SQUARE = "It is square: no aspect_ratio was given, and without one this model does not keep its source's shape."


def too_large(width: int, height: int) -> str | None:
    """Why an image of this size, in pixels, should not be asked for; None: it can be checked when it is delivered."""
    if width * height <= MAX_LARGE_PIXELS:
        return None
    return f"would make {width}x{height}; at most {MAX_LARGE_PIXELS // 1_000_000} megapixels can be checked and kept."


def mismatch(request: ImageRequest, width: int, height: int, transparent_share: float | None = None) -> str | None:
    """A sentence about how an image differs from its request; None if it fits.

    Args:
        request: What was asked for.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        transparent_share: See `StoredImage`.

    A ratio of `auto` means that of the first source, if this process has measured it. A request that is not known fits
    any size, and so does a ratio or a resolution that only a newer version knows.
    """
    if request.model == "unknown":
        return None
    if request.action not in MAKING:
        return _unfinished(request, width, height, transparent_share)
    wrong = []
    ratio = _ratio(request)
    if ratio is not None and abs(width / height / ratio[1] - 1) > RATIO_TOLERANCE:
        wrong.append(f"the ratio {ratio[0]}")
    low, high = MEGAPIXELS.get(resolution(request), (0, inf))
    if not low <= width * height / 1_000_000 <= high:
        wrong.append(f"the resolution {resolution(request)}")
    return f"{width}x{height} came, which is not {' nor '.join(wrong)} that was asked for." if wrong else None


def _unfinished(request: ImageRequest, width: int, height: int, transparent_share: float | None) -> str | None:
    """A sentence about a picture that was not cut out or enlarged as it should be; None if it was."""
    source = request.sources[0] if request.sources else None
    must = request.action is Action.REMOVE_BACKGROUND or (source is not None and source.transparent)
    if must and not transparent_share:
        return OPAQUE
    if must and transparent_share == 1:
        return EMPTY
    if source is None or source.width is None or source.height is None:
        return None
    was = f"{source.width}x{source.height}"
    if request.action is Action.REMOVE_BACKGROUND:
        same = abs(width / height / (source.width / source.height) - 1) <= RATIO_TOLERANCE
        return None if same else f"{width}x{height} came, which has not the shape of its source ({was})."
    factor = request.upscale_factor
    if factor is None:
        larger = width > source.width and height > source.height
        return None if larger else f"{width}x{height} came, which is not larger than its source ({was})."
    # A service may round to whole blocks of pixels: by less than one pixel of the source.
    near = abs(width - factor * source.width) <= factor and abs(height - factor * source.height) <= factor
    return None if near else f"{width}x{height} came, which is not {factor} times its source ({was})."


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
