"""What is overhead, and what mirrors it: sky, clouds, stars, sun and moon, aurora, birds, wet ground."""

from __future__ import annotations

import math

from PIL import Image, ImageChops, ImageOps

from flux2_mcp.sandbox.drawing.basics import WHITE, Colour, Dice, mix, scaled
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask, radial
from flux2_mcp.sandbox.drawing.plan import Composition, Palette
from flux2_mcp.sandbox.drawing.shapes import Point, dot, ellipse, stroke

_MESH = 160
_AURORA: tuple[Colour, Colour] = ((80, 240, 170), (120, 220, 210))
_OCTAVES = (0.54, 0.27, 0.13, 0.06)
_LARGE_STAR = 1.5


def backdrop(size: tuple[int, int], palette: Palette, dice: Dice) -> Canvas:
    """Return a canvas of a size in pixels with the sky on it: a gradient stirred by soft spots of colour."""
    # All of it is soft: small, then enlarged, it looks the same.
    small = Canvas(Image.new("RGB", (_MESH, _MESH), palette.sky[3]))
    small.fill(small.mask([(0, 0), (_MESH, 0), (_MESH, _MESH * 0.72), (0, _MESH * 0.72)]), *palette.sky)
    for colour, strength in ((palette.sky[2], 0.55), (palette.second, 0.35), (palette.sky[1], 0.55)):
        spot = radial(lambda t: math.cos(t * math.pi / 2) ** 2).point(scaled(strength))
        spot = spot.resize((dice.whole(160, 340), dice.whole(90, 180)))
        x, y = dice.whole(0, _MESH) - spot.width // 2, dice.whole(0, _MESH * 3 // 5) - spot.height // 2
        small.fill(Mask(spot, x, y), colour)
    return Canvas(small.image.resize(size, Image.Resampling.BICUBIC))


def clouds(canvas: Canvas, dice: Dice, cells: tuple[int, int], floor: int) -> Mask:
    """Return fractal noise as a stencil of the whole canvas, `cells` across and down, nothing below level `floor`."""
    size = (max(canvas.width // 4, 1), max(canvas.height // 4, 1))
    total = Image.new("L", size)
    for octave, weight in enumerate(_OCTAVES):
        across, down = cells[0] << octave, cells[1] << octave
        patch = Image.frombytes("L", (across, down), bytes(dice.whole(0, 255) for _ in range(across * down)))
        total = ImageChops.add(total, patch.resize(size, Image.Resampling.BICUBIC).point(scaled(weight)))
    contrast = [round(min(max((i - floor) / (225 - floor), 0), 1) ** 1.3 * 255) for i in range(256)]
    return Mask(total.point(contrast).resize(canvas.image.size, Image.Resampling.BICUBIC), 0, 0)


def stars(canvas: Canvas, dice: Dice, count: int, share: float, colour: Colour) -> None:
    """Scatter stars over the top `share` of the picture, few of them large and shining."""
    dots: list[list[Point]] = []
    for _ in range(count):
        x, y = dice.uniform(0, canvas.width), dice.uniform(0, share) ** 1.15 * canvas.height
        size = 0.45 + 1.5 * dice.uniform() ** 5
        dots.append(dot(x, y, size * canvas.unit))
        if size > _LARGE_STAR:
            canvas.glow(x, y, size * 9 * canvas.unit, colour, 0.5, 3)
    canvas.fill(canvas.mask(*dots).faded(0.85), mix(colour, WHITE, 0.6))


def heaven(canvas: Canvas, plan: Composition, dice: Dice, level: float) -> float:
    """Draw what is in the sky of a landscape, the sun or moon at `level` (share of the height); return its x."""
    palette, u = plan.palette, canvas.unit
    y = level * canvas.height
    if "stars" in plan.details:
        stars(canvas, dice, 260, 0.6, palette.light)
    if "aurora" in plan.details:
        for tint in (palette.second, *_AURORA):
            _curtain(canvas, dice, tint)
    canvas.fill(clouds(canvas, dice, (2, 9), 112).faded(0.32), mix(palette.sky[3], palette.light, 0.5))
    x = canvas.stage.x if plan.subject else dice.pick((0.34, 0.5, 0.66)) * canvas.width
    canvas.glow(x, y, 480 * u, palette.second, 0.45, 2.2)
    if "moon" in plan.details:
        _moon(canvas, x, y, 52 * u, palette)
    else:
        canvas.glow(x, y, 246 * u, palette.light, 0.75, 2.4)
        pale, low = mix(palette.light, WHITE, 0.5), mix(palette.light, palette.second, 0.55)
        canvas.fill(canvas.mask(ellipse(x, y, 82 * u)), pale, palette.light, low)
    if "birds" in plan.details:
        for _ in range(9):
            at = (x + dice.uniform(-210, 210) * u, y + dice.uniform(-150, 90) * u)
            _bird(canvas, at, dice.uniform(9, 22) * u, palette.land)
    return x


def _moon(canvas: Canvas, x: float, y: float, radius: float, palette: Palette) -> None:
    canvas.glow(x, y, radius * 3, palette.light, 0.75, 2.4)
    disc = canvas.mask(ellipse(x, y, radius))
    canvas.ball(disc, (255, 255, 250), palette.light, mix(palette.light, palette.sky[2], 0.45), at=(0.4, 0.35))
    for dx, dy, size in ((-0.3, 0.1, 0.22), (0.25, -0.3, 0.16), (0.2, 0.35, 0.27), (-0.1, -0.5, 0.12)):
        sea = canvas.mask(ellipse(x + dx * radius, y + dy * radius, size * radius))
        canvas.fill(sea.blurred(radius * 0.06).faded(0.16), palette.sky[1])


def _curtain(canvas: Canvas, dice: Dice, colour: Colour) -> None:
    w, h = canvas.width, canvas.height
    top = dice.uniform(0.08, 0.2) * h
    line = [(x * w / 6, top + dice.uniform(0.0, 0.22) * h) for x in range(-1, 8)]
    band = stroke(line, 0.16 * h, 0.05 * h, 0.2 * h, 0.08 * h)
    canvas.add(canvas.mask(band).blurred(34 * canvas.unit), colour, 0.5)
    canvas.add(canvas.mask(stroke(line, 4 * canvas.unit)).blurred(7 * canvas.unit), colour, 0.8)


def _bird(canvas: Canvas, at: Point, size: float, colour: Colour) -> None:
    x, y = at
    for side in (-size, size):
        wing = [(x, y), (x + side * 0.5, y - size * 0.38), (x + side, y - size * 0.1)]
        canvas.fill(canvas.mask(stroke(wing, size * 0.16, size * 0.12, 0.5)), colour)


def mirror(canvas: Canvas, line: float, strength: float) -> None:
    """Reflect what is above `line` in the water or wet ground below it, softer, streaked downwards."""
    top, depth = round(line), max(canvas.height - round(line), 1)
    above = ImageOps.flip(canvas.image.crop((0, max(top - round(depth * 1.3), 0), canvas.width, top)))
    coarse = above.resize((max(canvas.width // 4, 1), max(depth // 12, 1)), Image.Resampling.BOX)
    wet = coarse.resize((canvas.width, depth), Image.Resampling.BICUBIC)
    canvas.image.paste(wet, (0, top), Image.new("L", wet.size, round(255 * strength)))
