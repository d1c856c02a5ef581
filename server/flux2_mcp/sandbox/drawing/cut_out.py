"""Cuts the subject out of a picture: what a flood from the borders does not reach stays, with soft edges.

The flood runs over a small copy, where the picture is like its left and its right border in the same row, or like what lies
between these two colours: so it follows a sky or a floor whose colour changes slowly. At full size, only the narrow band
between the two parts is looked at: each of its pixels is taken for a mixture of the nearest ground and the nearest subject,
and its alpha is the subject's share of it.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageMath, ImageOps, PngImagePlugin

from flux2_mcp.sandbox.drawing.collage import open_source

SMALL_PX: Final = 256
"""The longer side of the copy that is flooded."""
LIKE: Final = (10, 44)
"""How much a channel, 0 to 255, may differ from the ground: on an even ground, and on the liveliest."""
BORDER_SHARE: Final = 0.04
"""The part of the picture's width that its border is taken from."""
LEAST_PART: Final = 0.25
"""A part of the subject smaller than this share of the largest is dropped: letters, stars, a bird."""
LEAST_JOINED: Final = 0.06
"""The same before the gaps between the parts are closed."""
MAIN_PART: Final = 0.5
"""The least share of the largest part in a subject that is believed."""
LIVELY, CLOSED = 20, 25
"""From which difference on a ground is a lively one, and how wide the gaps are, in pixels of the copy, that are closed then."""
FEWEST, MOST = 0.03, 0.9
"""The shares of the picture between which a subject is believed."""
NEAR: Final = 5
"""How far from the edge, in pixels of the copy, the colours of ground and subject are looked for."""
LEAST_CONTRAST: Final = 400.0
"""The square of the distance of two colours that can be told apart."""
BAND_PIXELS: Final = 500_000
"""Pixels that are worked on at once."""
BLACK_POINT, WHITE_POINT = 0.12, 0.88
"""The shares of the subject that count as none of it and as all of it: grain is no transparency."""
SURE: Final = 250
LIFTED: Final = [round(255 * (level / 255) ** 0.6) for level in range(256)]
"""Differences between dark colours are seen as well as those between light ones: the flood goes over colours made lighter."""

Pixel = tuple[int, int, int]
Numbers = dict[str, Any]
_BILINEAR = Image.Resampling.BILINEAR


def cut_out(picture: bytes) -> bytes:
    """Return the picture as a PNG with a transparent ground; something stays in its middle, and something goes.

    Raises SourceImageError for bytes which are no picture that can be read, and for one of over 64 megapixels.
    """
    image = open_source(picture)
    colours = image.convert("RGB")
    ground = _ground(colours)
    result = None if ground is None else _matted(colours, ground)
    if result is None or _middle(result.getchannel("A")).getextrema()[1] != 255:  # noqa: PLR2004
        result = _in_frame(colours)
    if image.mode == "RGBA":
        result.putalpha(ImageChops.darker(result.getchannel("A"), image.getchannel("A")))
    information = PngImagePlugin.PngInfo()
    information.add_text("Software", "flux2-mcp sandbox")
    information.add_text("Comment", "SANDBOX: cut out by a few rules; no model was run")
    out = io.BytesIO()
    result.save(out, "PNG", compress_level=1, pnginfo=information)
    return out.getvalue()


def _ground(image: Image.Image) -> Image.Image | None:
    """Return the stencil of the ground, on a small copy of the picture; None if no subject can be told from it."""
    scale = min(1.0, SMALL_PX / max(image.size))
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    small = image.resize(size, Image.Resampling.BOX).point(LIFTED * 3)
    unlike, limit = _unlike_borders(small)
    # Thin lines and letters go, and what is left gets its size back.
    clean = unlike.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.MaxFilter(3))
    if limit > LIVELY:  # parts of the subject have the ground's colours: the gaps between the others are closed
        wide = ImageOps.expand(_only_large(clean), CLOSED)
        clean = wide.filter(ImageFilter.MaxFilter(CLOSED)).filter(ImageFilter.MinFilter(CLOSED))
        clean = ImageOps.crop(clean, CLOSED).filter(ImageFilter.MedianFilter(5))
    kept, largest = _parts(_flooded(clean), LEAST_PART)
    share = kept.histogram()[0] / (size[0] * size[1])
    told = (
        FEWEST <= share <= MOST
        and largest >= MAIN_PART * share * size[0] * size[1]
        and _middle(kept).getextrema()[0] == 0
    )
    return kept if told else None


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 4, height // 4, -(-width * 3 // 4), -(-height * 3 // 4)))


def _only_large(unlike: Image.Image) -> Image.Image:
    """Return the stencil without its small parts, so that nothing is joined to a star or a letter."""
    return ImageChops.invert(_parts(ImageChops.invert(unlike), LEAST_JOINED)[0])


def _unlike_borders(small: Image.Image) -> tuple[Image.Image, float]:
    """Return a stencil of what is unlike the picture's borders in the same row, and the difference that it was told by."""
    width, height = small.size
    reach = max(1, round(width * BORDER_SHARE))
    left, right = (
        small.crop((x, 0, x + reach, height)).resize((1, height), Image.Resampling.BOX) for x in (0, width - reach)
    )
    both = Image.new("RGB", (2, height))
    both.paste(left, (0, 0))
    both.paste(right, (1, 0))
    models = [both.resize(small.size, _BILINEAR, (x0, 0, x1, height)) for x0, x1 in ((0.5, 1.5), (0, 0.5), (1.5, 2))]
    nearest = reduce(ImageChops.darker, (_strongest(ImageChops.difference(small, model)) for model in models))
    lively = _strongest(ImageChops.difference(left, right)).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    limit = min(LIKE[0] + float(lively if isinstance(lively, int | float) else 0) + _unrest(small, reach), LIKE[1])
    return nearest.point([255 * (level > limit) for level in range(256)]), limit


def _unrest(small: Image.Image, reach: int) -> float:
    """Return how much the colours of both borders differ from their neighbourhood, on the average."""
    soft = small.filter(ImageFilter.GaussianBlur(4))
    apart = _strongest(ImageChops.difference(small, soft))
    sides = (apart.crop((x, 0, x + reach, apart.height)) for x in (0, apart.width - reach))
    means = [sum(level * n for level, n in enumerate(side.histogram())) / (reach * apart.height) for side in sides]
    return 3 * max(means)


def _strongest(difference: Image.Image) -> Image.Image:
    red, green, blue = difference.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _in_frame(image: Image.Image) -> Image.Image:
    """Return the picture in an oval with soft edges: of one without a subject, its middle stays."""
    width, height = image.size
    margin = min(width, height) * 0.08
    stencil = Image.new("L", image.size, 0 if width * height > 1 else 255)
    if margin * 2 < min(width, height) - 1:
        ImageDraw.Draw(stencil).ellipse((margin, margin, width - 1 - margin, height - 1 - margin), fill=255)
        stencil = stencil.filter(ImageFilter.GaussianBlur(min(2.0, margin / 4)))
    stencil.putpixel((width // 2, height // 2), 255)
    result = image.copy()
    result.putalpha(stencil)
    return result


def _flooded(unlike: Image.Image) -> Image.Image:
    """Return the stencil of what a flood reaches that comes from above and from both sides, and stops where `unlike` is set."""
    width, height = unlike.size
    closed = bytearray(unlike.tobytes())
    reached = bytearray(width * height)
    line = deque([*range(width), *range(0, width * height, width), *range(width - 1, width * height, width)])
    while line:
        at = line.popleft()
        if closed[at]:
            continue
        closed[at] = reached[at] = 255
        line.extend(_beside(at, width, width * height))
    return Image.frombytes("L", unlike.size, bytes(reached))


def _beside(at: int, width: int, count: int) -> list[int]:
    x = at % width
    found = [at - width] if at >= width else []
    if at + width < count:
        found.append(at + width)
    if x > 0:
        found.append(at - 1)
    if x < width - 1:
        found.append(at + 1)
    return found


def _parts(ground: Image.Image, least: float) -> tuple[Image.Image, int]:
    """Return the ground with all parts of the subject added to it that are too small to be meant, and the size of the largest."""
    width, height = ground.size
    left = bytearray(ground.tobytes())
    parts: list[list[int]] = []
    for start, value in enumerate(left):
        if value:
            continue
        part, at = [start], 0
        left[start] = 1
        while at < len(part):
            for other in _beside(part[at], width, width * height):
                if not left[other]:
                    left[other] = 1
                    part.append(other)
            at += 1
        parts.append(part)
    largest = max(map(len, parts), default=0)
    kept = bytearray(b"\xff" * (width * height))
    for part in parts:
        if len(part) >= largest * least:
            for at in part:
                kept[at] = 0
    return Image.frombytes("L", ground.size, bytes(kept)), largest


def _matted(image: Image.Image, ground: Image.Image) -> Image.Image:
    """Return the picture with its alpha, worked out some rows at a time."""
    small = image.resize(ground.size, Image.Resampling.BOX)
    subject = ImageChops.invert(ground)
    edges = (ground.filter(ImageFilter.MinFilter(3)), subject.filter(ImageFilter.MinFilter(3)))
    # Pixels of the copy that are mixtures themselves tell no colour.
    behind, before = (_spread(small, part.filter(ImageFilter.MinFilter(5))) for part in (ground, subject))
    result = Image.new("RGBA", image.size)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        foot = min(top + rows, image.height)
        scale = ground.height / image.height
        part = (0.0, top * scale, float(ground.width), foot * scale)
        size = (image.width, foot - top)
        layers = [layer.resize(size, _BILINEAR, part) for layer in (behind, before, *edges, subject)]
        band = image.crop((0, top, image.width, foot))
        result.paste(_mixed(band, layers), (0, top))
    return result


def _spread(small: Image.Image, stencil: Image.Image) -> Image.Image:
    """Return the colours of what a stencil shows, spread beyond it: the nearest count most."""
    clear = small.copy()
    clear.putalpha(stencil)
    spread = clear.convert("RGBa").filter(ImageFilter.GaussianBlur(NEAR / 2)).convert("RGBA")
    wide = clear.convert("RGBa").filter(ImageFilter.GaussianBlur(NEAR * 4)).convert("RGBA")
    average = Image.new("RGB", small.size, _average(small, stencil))
    for layer in (wide, spread):
        found = layer.getchannel("A").point(lambda value: 255 * (value > 2))  # noqa: PLR2004
        average.paste(layer.convert("RGB"), mask=found)
    average.paste(small, mask=stencil.point(lambda value: 255 * (value > 127)))  # noqa: PLR2004
    return average


def _average(small: Image.Image, stencil: Image.Image) -> Pixel:
    counts = [small.getchannel(channel).histogram(stencil) for channel in range(3)]
    total = sum(counts[0]) or 1
    red, green, blue = (round(sum(level * n for level, n in enumerate(each)) / total) for each in counts)
    return red, green, blue


def _mixed(band: Image.Image, layers: Sequence[Image.Image]) -> Image.Image:
    """Return the band with each pixel's share of the subject as its alpha, and the ground taken out of its colour."""
    behind, before, sure_ground, sure_subject, subject = layers
    share = _computed(_share, i=band, b=behind, f=before)
    far = _computed(_distance, b=behind, f=before).point(lambda value: value).convert("L")
    alpha = Image.composite(share, subject, far.point(lambda value: 255 * (value > 0)))
    alpha.paste(0, mask=sure_ground.point(lambda value: 255 * (value >= SURE)))
    alpha.paste(255, mask=sure_subject.point(lambda value: 255 * (value >= SURE)))
    pure = Image.merge(
        "RGB",
        [
            ImageMath.lambda_eval(_unmixed, i=one, b=two, a=alpha).convert("L")
            for one, two in zip(band.split(), behind.split(), strict=True)
        ],
    )
    pure.paste((0, 0, 0), mask=alpha.point(lambda value: 255 * (value == 0)))
    pure.putalpha(alpha)
    return pure


def _computed(formula: Callable[[Numbers], Any], **images: Image.Image) -> Image.Image:
    bands = {f"{name}{number}": one for name, image in images.items() for number, one in enumerate(image.split())}
    found: Image.Image = ImageMath.lambda_eval(formula, **bands)
    return found.convert("L")


def _share(n: Numbers) -> Any:  # noqa: ANN401  # ImageMath's own operand
    """How far a pixel is on the way from the ground's colour to the subject's, 0 to 255."""
    way = length = 0.0
    for k in "012":
        step = n["float"](n[f"f{k}"]) - n[f"b{k}"]
        way = way + (n["float"](n[f"i{k}"]) - n[f"b{k}"]) * step
        length = length + step * step
    share = (way / n["max"](length, 1.0) - BLACK_POINT) * (255 / (WHITE_POINT - BLACK_POINT))
    return n["min"](n["max"](share, 0.0), 255.0)


def _distance(n: Numbers) -> Any:  # noqa: ANN401  # ImageMath's own operand
    """255 where the two colours can be told apart, else 0."""
    length = 0.0
    for k in "012":
        step = n["float"](n[f"f{k}"]) - n[f"b{k}"]
        length = length + step * step
    return n["min"](n["max"]((length - LEAST_CONTRAST) * 255, 0.0), 255.0)


def _unmixed(n: Numbers) -> Any:  # noqa: ANN401  # ImageMath's own operand
    share = n["max"](n["float"](n["a"]) / 255, 0.1)
    found = (n["float"](n["i"]) - n["float"](n["b"]) * (1 - share)) / share
    return n["min"](n["max"](found, 0.0), 255.0)
