"""The words on a sandbox picture: the prompt at the foot, what was asked for in small type, the SANDBOX badge."""

from __future__ import annotations

import unicodedata
from typing import cast

from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont

from flux2_mcp.sandbox.drawing.basics import BLACK, WHITE, Colour, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask
from flux2_mcp.sandbox.drawing.shapes import ellipse

_TITLE_SIZES = (60, 50, 44, 38, 33, 29, 26)
_LEADING = 1.24
_TALL = 1.25
_ELLIPSIS = "…"
_SUBSTITUTES = str.maketrans(
    {
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MINUS SIGN}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{DOUBLE LOW-9 QUOTATION MARK}": '"',
        "\N{BULLET}": "\N{MIDDLE DOT}",
    }
)
_NO_CHARACTER = "\uffff"
_UNSETTABLE = "A prompt in a script which this sandbox cannot set"


class Caption(Struct, frozen=True):
    """What is written on a picture besides the prompt."""

    variant: str
    model: str
    request: str
    accent: Colour


def printable(text: str) -> str:
    """Return the text on one line, in characters which Pillow's bundled font has; others are left out.

    A letter which the font has only without its accent loses the accent. The result may be empty.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", text).translate(_SUBSTITUTES))
    font = font_of(24)
    box = bytes(font.getmask(_NO_CHARACTER))  # What the font draws for a character it has not.
    known = {c for c in set(plain) if c.isprintable() and bytes(font.getmask(c)) != box}
    gaps = {c for c in set(plain) - known if unicodedata.category(c)[0] in "ZC"}
    return " ".join("".join(c if c in known else " " if c in gaps else "" for c in plain).split())


def font_of(size: float) -> ImageFont.FreeTypeFont:
    """Return Pillow's bundled font at a size in pixels; raises ImportError for a Pillow without FreeType."""
    # Asked for a size, Pillow gives no other kind of font.
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size=max(size, 1.0)))


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break the text into lines of at most `width` pixels; a word too long for a line is broken anywhere."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def set_title(text: str, width: float, height: float, unit: float) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """Return the text in even lines and the largest font it fits a box in, in pixels; cut where it fits in none."""
    *larger, smallest = (font_of(size * unit) for size in _TITLE_SIZES)
    for font in (*larger, smallest):
        lines = _lines(text, font, width, height)
        if len(lines) <= _room(font, height):
            narrow = width
            while narrow > width * 0.5 and len(wrap(text, font, narrow * 0.97)) == len(lines):
                narrow *= 0.97
            return wrap(text, font, narrow), font
    lines = _lines(text, smallest, width, height)[: _room(smallest, height)]
    last = lines.pop()
    while last and smallest.getlength(last + _ELLIPSIS) > width:
        last = last[:-1]
    return [*lines, last.rstrip(" ,.;:-") + _ELLIPSIS], smallest


def _room(font: ImageFont.FreeTypeFont, height: float) -> int:
    return max(int(height / (font.size * _LEADING)), 1)


def _lines(text: str, font: ImageFont.FreeTypeFont, width: float, height: float) -> list[str]:
    # A line holds fewer letters than four times its width in ems: there is no need to measure more text than that.
    return wrap(text[: int(_room(font, height) * width / font.size * 4) + 1], font, width)


class Layout(Struct, frozen=True):
    """Where the words go on one picture, in pixels: the prompt's lines from `top` down to the rule above the foot."""

    lines: list[str]
    font: ImageFont.FreeTypeFont
    margin: int
    top: float
    rule: float
    aside: bool


def lay_out(prompt: str, canvas: Canvas, *, aside: bool) -> Layout:
    """Set the prompt at the foot; `aside` leaves the right half of a wide picture to its subject."""
    unit = canvas.unit
    margin = round(56 * unit)
    column = min(canvas.width - 2 * margin, 1060 * unit)
    if aside:
        column = canvas.stage.x - 1.2 * canvas.stage.scale - margin
    depth = (200 if aside or canvas.height > canvas.width * _TALL else 150) * unit
    lines, font = set_title(printable(prompt) or _UNSETTABLE, max(column, 8.0), depth, unit)
    rule = canvas.height - margin - 34 * unit
    return Layout(lines, font, margin, rule - 26 * unit - font.size * _LEADING * len(lines), rule, aside)


def letter(canvas: Canvas, layout: Layout, caption: Caption) -> None:
    """Write everything that is written on a picture."""
    unit, margin, rule = canvas.unit, layout.margin, layout.rule
    _scrims(canvas, layout.top - 30 * unit, aside=layout.aside)
    draw = ImageDraw.Draw(canvas.image, "RGBA")
    for i, line in enumerate(layout.lines):
        y = layout.top + layout.font.size * _LEADING * i
        draw.text((margin, y), line, font=layout.font, fill=(*WHITE, 246))
    foot = canvas.height - margin
    draw.rectangle((margin, rule, canvas.width - margin, rule + max(unit, 1)), fill=(*WHITE, 70))
    draw.rectangle((margin, rule - unit, margin + 72 * unit, rule + 2 * unit), fill=(*caption.accent, 255))
    small = font_of(16.5 * unit)
    draw.text((margin, foot), caption.model, font=small, fill=(*WHITE, 190), anchor="ls")
    draw.text((canvas.width - margin, foot), caption.request, font=small, fill=(*WHITE, 190), anchor="rs")
    _badge(canvas, draw, margin, caption)


def label(canvas: Canvas, prompt: str, caption: Caption) -> None:
    """Write, small and dark, what is written on a picture with an even, light ground."""
    unit, margin = canvas.unit, round(40 * canvas.unit)
    draw, small, ink = ImageDraw.Draw(canvas.image, "RGBA"), font_of(16.5 * canvas.unit), (12, 14, 24)
    foot = canvas.height - margin
    right = f"{caption.model}  \u00b7  {caption.request}"
    room = max(canvas.width - 2 * margin - small.getlength(right) - 24 * unit, 8.0)
    line, *more = wrap(printable(prompt)[:200] or _UNSETTABLE, small, room)
    draw.text((margin, foot), line + _ELLIPSIS * bool(more), font=small, fill=(*ink, 150), anchor="ls")
    draw.text((canvas.width - margin, foot), right, font=small, fill=(*ink, 120), anchor="rs")
    _tracked(draw, margin, margin + 16 * unit, "SANDBOX", font_of(21 * unit), (*ink, 200), 4 * unit, 0.55 * unit)
    reach = small.getlength("no model was run")
    draw.text(
        (canvas.width - margin - reach, margin + 16 * unit),
        "no model was run",
        font=small,
        fill=(*ink, 150),
        anchor="ls",
    )


def _scrims(canvas: Canvas, top: float, *, aside: bool) -> None:
    """Darken the foot (its left, for a title set aside) and, a little, the head: white type is readable anywhere."""
    dark = mix(_average(canvas, top), (6, 6, 14), 0.86)
    bright = canvas.image.copy()
    canvas.fog(top - 110 * canvas.unit, top + 40 * canvas.unit, dark, 0.62)
    canvas.fog(top, canvas.height - 90 * canvas.unit, dark, 0.8)
    if aside:
        spare = (
            Image.linear_gradient("L").rotate(90).point([max(min(round((i - 104) * 3.4), 236), 0) for i in range(256)])
        )
        canvas.image.paste(bright, (0, 0), spare.resize(canvas.image.size))
        canvas.fog(canvas.height - 160 * canvas.unit, canvas.height, dark, 0.8)
    height = max(round(150 * canvas.unit), 1)
    fade = (
        Image.linear_gradient("L")
        .rotate(180)
        .point([round(i * 0.5) for i in range(256)])
        .resize((canvas.width, height))
    )
    canvas.image.paste(dark, (0, 0, canvas.width, height), fade)


def _average(canvas: Canvas, top: float) -> Colour:
    box = (0, min(max(round(top), 0), canvas.height - 1), canvas.width, canvas.height)
    pixel = canvas.image.resize((1, 1), Image.Resampling.BOX, box).getpixel((0, 0))
    return (int(pixel[0]), int(pixel[1]), int(pixel[2])) if isinstance(pixel, tuple) else WHITE


def _tracked(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, font: ImageFont.FreeTypeFont, fill: tuple[int, ...],
             tracking: float, weight: float) -> float:  # fmt: skip
    """Set letter-spaced text on the baseline y; return where it ends."""
    for character in text:
        draw.text((x, y), character, font=font, fill=fill, anchor="ls", stroke_width=weight)
        x += font.getlength(character) + tracking
    return x - tracking


def _badge(canvas: Canvas, draw: ImageDraw.ImageDraw, margin: float, caption: Caption) -> None:
    unit = canvas.unit
    font = font_of(21 * unit)
    pad, height = 17 * unit, 40 * unit
    width = sum(font.getlength(c) + 4 * unit for c in "SANDBOX") - 4 * unit + 2 * pad
    pill = ellipse(margin + height / 2, margin + height / 2, height / 2)
    far = [(x + width - height, y) for x, y in pill]
    body = [(margin + height / 2, margin), (margin + width - height / 2, margin),
            (margin + width - height / 2, margin + height), (margin + height / 2, margin + height)]  # fmt: skip
    mask = canvas.mask(pill, far, body)
    canvas.shadow(mask, BLACK, 9 * unit, 0.35, (0, 4 * unit))
    canvas.fill(mask, mix(caption.accent, WHITE, 0.22), caption.accent)
    base = margin + height / 2 + 7.4 * unit
    _tracked(draw, margin + pad, base, "SANDBOX", font, (12, 14, 24, 255), 4 * unit, 0.55 * unit)
    note = font_of(16.5 * unit)
    draw.text(
        (margin + width + 16 * unit, base - 1.6 * unit), "no model was run", font=note, fill=(*WHITE, 215), anchor="ls"
    )
    right = canvas.width - margin
    label = caption.variant.upper()
    reach = sum(font.getlength(c) + 4 * unit for c in label) - 4 * unit
    _tracked(draw, right - reach, base, label, font, (*caption.accent, 255), 4 * unit, 0.55 * unit)
    draw.text((right - reach - 14 * unit, base), "FLUX.2", font=font, fill=(*WHITE, 235), anchor="rs")


def watermark(canvas: Canvas, strength: float) -> None:
    """Repeat SANDBOX over the picture, faintly, on a slant."""
    unit = canvas.unit
    tile = Image.new("L", (max(round(230 * unit), 1), max(round(44 * unit), 1)))
    _tracked(ImageDraw.Draw(tile), 5 * unit, 34 * unit, "SANDBOX", font_of(30 * unit), (255,), 9 * unit, 0)
    tile = tile.rotate(28, Image.Resampling.BICUBIC, expand=True)
    sheet = Image.new("L", canvas.image.size)
    for row in range(-1, 7 * canvas.height // canvas.width + 8):
        for column in range(-1, 9):
            x, y = (column + 0.5 * (row % 2)) * 250 * unit, row * 128 * unit - column * 30 * unit
            sheet.paste(255, (round(x), round(y), round(x) + tile.width, round(y) + tile.height), tile)
    canvas.fill(Mask(sheet, 0, 0).faded(strength), WHITE)
