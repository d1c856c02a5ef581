"""What a remix shows: its source images, each of them, as cards in even rows."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from PIL import ExifTags, Image, ImageDraw, ImageOps

from flux2_mcp.sandbox.drawing.basics import BLACK, WHITE, Colour
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask
from flux2_mcp.sandbox.drawing.shapes import ellipse
from flux2_mcp.sandbox.drawing.text import font_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000
MAX_COMPARED_PIXELS = 20_000_000
"""Of a picture that is known again by its pixels."""
_KEPT = (2048, 2048)
_PAPER: Colour = (244, 244, 246)
_NARROWEST, _WIDEST = 0.6, 2.2
# EXIF's orientations 2 to 8, and what undoes each.
_TURNS: Final[dict[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[i] for i in (5, 6, 7, 8))


class SourceImageError(ValueError):
    """A source image which is no picture that can be read; `index` counts from 0."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"source image {index + 1} {reason}")
        self.index = index


class SourcePicture(Struct, frozen=True):
    """A decoded source image: RGB, scaled down to what a picture can show, and its own size in pixels."""

    image: Image.Image
    size: tuple[int, int]


def read_sources(sources: Sequence[bytes]) -> list[SourcePicture]:
    """Decode the first frame of each source, upright, transparency on paper white.

    Raises SourceImageError for bytes which are no PNG, JPEG, WebP or GIF image, and for one of over 64 megapixels.
    """
    return [_read(index, data) for index, data in enumerate(sources)]


def open_source(data: bytes) -> Image.Image:
    """Decode the first frame of a picture, upright, of its own size, as L, LA, RGB or RGBA.

    Raises SourceImageError as `read_sources`.
    """
    with _opened(0, data) as opened:
        turn = _turn(opened)
        if opened.mode.startswith("I"):
            image = _flat(opened).convert("L")
        else:
            clear = opened.has_transparency_data
            modes = ("LA", "RGBA") if clear else ("L", "RGB")
            image = opened.convert(modes[0] if opened.mode in {"1", "L", "LA"} else modes[1])
    return image if turn is None else image.transpose(turn)


def measure(data: bytes) -> tuple[int, int]:
    """Return the width and height of the upright picture, from its head.

    Raises SourceImageError as `read_sources`, but for pixels, which are not read.
    """
    with _opened(0, data) as opened:
        width, height = opened.size
        return (height, width) if _turn(opened) in _SIDEWAYS else (width, height)


def digest(data: bytes) -> str | None:
    """Return what pictures of the same pixels have in common, whatever their files; None for one that is too large or broken."""
    try:
        if math.prod(measure(data)) > MAX_COMPARED_PIXELS:
            return None
        pixels = open_source(data).convert("RGBA")
    except SourceImageError:
        return None
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()


def kind_of(data: bytes) -> str | None:
    """Return the kind of a picture that was read, by Pillow's name."""
    with _opened(0, data) as opened:
        return opened.format


def _read(index: int, data: bytes) -> SourcePicture:
    with _opened(index, data) as opened:
        width, height = opened.size
        turn = _turn(opened)
        opened.draft("RGB", _KEPT)  # A large JPEG is decoded at a fraction of its size.
        image = _flat(opened)
        image.thumbnail(_KEPT, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if turn is None:
        return SourcePicture(image, (width, height))
    return SourcePicture(image.transpose(turn), (height, width) if turn in _SIDEWAYS else (width, height))


@contextmanager
def _opened(index: int, data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _refuse_huge(index, *opened.size)
            yield opened
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceImageError(index, f"has more than {MAX_PIXELS:,} pixels") from error
    except SourceImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise SourceImageError(index, f"is not an image that can be read ({', '.join(FORMATS)})") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what sets a photograph upright, from its EXIF data; damaged EXIF data is as good as none.

    Pillow's exif_transpose also writes the data anew, and fails on such data.
    """
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  # whatever it is, the picture is what counts
        return None


def _refuse_huge(index: int, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise SourceImageError(index, f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _flat(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: RGB has 8.
        return image.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        paper = Image.new("RGB", clear.size, _PAPER)
        paper.paste(clear, mask=clear.getchannel("A"))
        return paper
    return image.convert("RGB")


def lay_cards(canvas: Canvas, sources: Sequence[SourcePicture], top: float, bottom: float, margin: float) -> None:
    """Show the sources as cards in the band of the picture from `top` to `bottom`, `margin` pixels from its sides."""
    unit = canvas.unit
    gap = 22 * unit
    box = (max(canvas.width - 2 * margin, 8.0), max(bottom - top, 8.0))
    ratios = [min(max(source.size[0] / source.size[1], _NARROWEST), _WIDEST) for source in sources]
    rows = _rows(ratios, box, gap)
    heights = [_row_height([ratios[i] for i in row], box[0], gap) for row in rows]
    scale = min(1.0, (box[1] - gap * (len(rows) - 1)) / sum(heights))
    cards: list[Mask] = []
    y = top + (box[1] - sum(heights) * scale - gap * (len(rows) - 1)) / 2
    for row, full in zip(rows, heights, strict=True):
        height = full * scale
        x = (canvas.width - sum(ratios[i] * height for i in row) - gap * (len(row) - 1)) / 2
        for i in row:
            cards.append(_stencil(x, y, ratios[i] * height, height, 20 * unit))
            x += ratios[i] * height + gap
        y += height + gap
    shown = [ImageOps.fit(source.image, card.image.size) for source, card in zip(sources, cards, strict=True)]
    # All that shines or throws a shadow comes first, lest it fall on another card.
    for image, card in zip(shown, cards, strict=True):
        _surround(canvas, image, card)
    for number, (image, card) in enumerate(zip(shown, cards, strict=True), 1):
        canvas.image.paste(image, card.box[:2], card.image)
        _edge(canvas, card, 20 * unit)
        if len(cards) > 1:
            _number(canvas, card, number)


def _row_height(ratios: Sequence[float], width: float, gap: float) -> float:
    return max(width - gap * (len(ratios) - 1), 1.0) / sum(ratios)


def _rows(ratios: Sequence[float], box: tuple[float, float], gap: float) -> list[list[int]]:
    """Split the cards, in order, into the rows that show them largest in the box."""

    def split(count: int) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(count)]
        total, before = sum(ratios), 0.0
        for i, ratio in enumerate(ratios):
            rows[min(int((before + ratio / 2) / total * count), count - 1)].append(i)
            before += ratio
        return [row for row in rows if row]

    def area(rows: list[list[int]]) -> float:
        heights = [_row_height([ratios[i] for i in row], box[0], gap) for row in rows]
        scale = min(1.0, max(box[1] - gap * (len(rows) - 1), 1.0) / sum(heights))
        return (
            sum(height**2 * sum(ratios[i] for i in row) for row, height in zip(rows, heights, strict=True)) * scale**2
        )

    return max((split(count) for count in range(1, len(ratios) + 1)), key=area)


def _stencil(x: float, y: float, width: float, height: float, radius: float) -> Mask:
    size = (max(round(width), 2) * 2, max(round(height), 2) * 2)
    large = Image.new("L", size)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), min(radius * 2, *size), fill=255)
    return Mask(large.reduce(2), round(x), round(y))


def _surround(canvas: Canvas, image: Image.Image, card: Mask) -> None:
    """Let a card glow in its own colours, as a screen does in a dark room, and throw a shadow."""
    unit = canvas.unit
    halo = card.blurred(46 * unit).faded(0.55)
    glow = image.resize((6, 6), Image.Resampling.BOX).resize(halo.image.size, Image.Resampling.BICUBIC)
    canvas.image.paste(glow, halo.box[:2], halo.image)
    canvas.shadow(card, BLACK, 16 * unit, 0.5, (0, 12 * unit))


def _edge(canvas: Canvas, card: Mask, radius: float) -> None:
    size, width = (card.image.width * 2, card.image.height * 2), max(round(3 * canvas.unit), 1)
    large = Image.new("L", size)
    outline = ImageDraw.Draw(large)
    outline.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), min(radius * 2, *size), outline=110, width=width)
    canvas.fill(Mask(large.reduce(2), card.x, card.y), WHITE)


def _number(canvas: Canvas, card: Mask, number: int) -> None:
    x, y = card.x + 30 * canvas.unit, card.y + 30 * canvas.unit
    canvas.fill(canvas.mask(ellipse(x, y, 15 * canvas.unit)).faded(0.72), (10, 10, 18))
    font = font_of(17 * canvas.unit)
    ImageDraw.Draw(canvas.image).text((x, y), str(number), font=font, fill=WHITE, anchor="mm")
