"""The other settings: space, city, studio, and the abstract ones for prompts without a known word."""

from __future__ import annotations

import math
from itertools import pairwise

from flux2_mcp.sandbox.drawing.basics import WHITE, Colour, Dice, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas
from flux2_mcp.sandbox.drawing.plan import Composition, Palette
from flux2_mcp.sandbox.drawing.shapes import Point, Polygon, curve, dot, ellipse, stroke
from flux2_mcp.sandbox.drawing.sky import clouds, heaven, mirror, stars

_TOWERS = 3
_BANDS = 10
_WITH_SPIRE = 0.3
_WINDOWS = ((0.55, 0.5), (0.34, 0.8), (0.7, 0.3))
_SIGNS = ((9.0, 58.0), (44.0, 9.0), (7.0, 84.0))


def space(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Nebula, stars, a small moon and a ringed planet: the subject, where there is no other."""
    palette, u = plan.palette, canvas.unit
    canvas.fill(clouds(canvas, dice, (3, 3), 96).faded(0.55), palette.second)
    canvas.add(clouds(canvas, dice, (4, 3), 118), palette.sky[3], 0.7)
    stars(canvas, dice, 420, 1.0, palette.light)
    left = dice.pick((True, False))
    if plan.subject:
        x, y, radius = (0.2 if left else 0.8) * canvas.width, dice.uniform(0.26, 0.34) * canvas.height, 150 * u
    else:
        x, y, radius = (0.44 if left else 0.56) * canvas.width, 0.40 * canvas.height, dice.uniform(215, 250) * u
    _planet(canvas, palette, (x, y), radius, -22 if left else 22)
    moon = canvas.mask(ellipse((0.8 if left else 0.2) * canvas.width, 0.16 * canvas.height, 24 * u))
    canvas.ball(moon, palette.light, palette.second, palette.land)


def _planet(canvas: Canvas, palette: Palette, centre: Point, r: float, tilt: float) -> None:
    x, y = centre
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    lit = mix(palette.light, WHITE, 0.2)
    beyond = [
        (x + (px * cos - py * sin) * r, y + (px * sin + py * cos) * r)
        for px, py in ((-3, 0), (3, 0), (3, -3), (-3, -3))
    ]

    def ring(cut: list[list[Point]], strength: float) -> None:
        band = canvas.mask(
            ellipse(x, y, r * 2.05, r * 0.5, turn=tilt), cut=[ellipse(x, y, r * 1.38, r * 0.3, turn=tilt), *cut]
        )
        gap = canvas.mask(
            ellipse(x, y, r * 1.78, r * 0.425, turn=tilt), cut=[ellipse(x, y, r * 1.7, r * 0.4, turn=tilt), *cut]
        )
        if cut:
            canvas.shadow(band, palette.land, r * 0.05, 0.6, (0, r * 0.1))
        canvas.fill(band.faded(strength), lit, palette.sky[3], palette.sky[2], angle=20)
        canvas.fill(gap.faded(0.6), palette.sky[1])

    canvas.glow(x, y, r * 2.2, palette.second, 0.5, 2.5)
    ring([], 0.75)
    body = canvas.mask(ellipse(x, y, r))
    canvas.ball(body, lit, palette.sky[3], palette.sky[2], palette.sky[1], palette.land, at=(0.26, 0.22))
    for at, colour in ((-0.55, lit), (-0.19, palette.sky[1]), (0.17, palette.second), (0.53, palette.sky[1])):
        reach = r * math.sqrt(1 - at * at) * 1.02
        stripe = canvas.mask(ellipse(x - sin * at * r, y + cos * at * r, reach, r * 0.085, turn=tilt))
        canvas.fill(stripe.blurred(r * 0.04).faded(0.22), colour)
    canvas.rim(body, lit, (-0.7, -0.7), 3 * canvas.unit, 0.8)
    canvas.rim(body, palette.second, (0.75, 0.65), 2 * canvas.unit, 0.7)
    ring([beyond], 0.92)


def city(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Towers in three depths, the nearest to either side, lit windows; wet ground mirrors them where words say so."""
    palette, u = plan.palette, canvas.unit
    w, h = canvas.width, canvas.height
    heaven(canvas, plan, dice, 0.33)
    ground = 0.69 * h
    canvas.glow(0.5 * w, ground, 520 * u, palette.second, 0.75, 1.6)
    for i in range(_TOWERS):
        depth = i / (_TOWERS - 1)
        towers, warm, cool = _block(canvas, dice, ground, depth)
        mask = canvas.mask(*towers)
        haze = mix(palette.sky[3], palette.sky[2], 0.5 + 0.5 * depth)
        colour = mix(mix(haze, palette.sky[1], 0.35 + 0.4 * depth), palette.land, 0.15 + 0.75 * depth)
        canvas.fill(mask, colour, mix(colour, haze, 0.45 - 0.3 * depth))
        canvas.rim(mask, palette.light, (0.8, -0.5), 1.2 * u, 0.3 + 0.3 * depth)
        for panes, lamp in ((warm, palette.light), (cool, palette.second)):
            if panes:
                lamps = canvas.mask(*panes)
                canvas.add(lamps.blurred(6 * u), lamp, 0.8 * depth)
                canvas.fill(lamps.faded(0.25 + 0.65 * depth), mix(lamp, haze, 0.5 - 0.5 * depth))
        if i < _TOWERS - 1:
            canvas.fog(ground - 0.24 * h, ground, haze, 0.6)
    for _ in range(6):
        _sign(canvas, dice, palette, ground)
    street = mix(palette.land, palette.second, 0.25)
    canvas.fill(canvas.below([(-60, ground), (w + 60, ground)]), street, palette.land, palette.land)
    if "reflection" in plan.details:
        mirror(canvas, ground, 0.8)


def _block(
    canvas: Canvas, dice: Dice, ground: float, depth: float
) -> tuple[list[Polygon], list[Polygon], list[Polygon]]:
    """Return one depth of the city: its towers, and their lit windows in two colours."""
    u, w = canvas.unit, canvas.width
    towers: list[Polygon] = []
    panes: tuple[list[Polygon], list[Polygon]] = ([], [])
    x = -30.0 * u
    while x < w:
        width = dice.uniform(44, 84) * (0.7 + 0.8 * depth) * u
        side = abs((x + width / 2) / w - 0.5) * 2
        share = 0.10 + 0.26 * depth * side**1.5 + 0.22 * (1 - depth) * (1 - side * 0.6) + dice.uniform(-0.06, 0.07)
        top = ground - share * canvas.height
        spire: list[Point] = []
        if dice.uniform() < _WITH_SPIRE:
            steps = ((-0.22 * width, 0), (-0.22 * width, 18), (-2 * u, 18), (0, 64), (2 * u, 18), (0.22 * width, 18))
            spire = [(x + width / 2 + dx, top - dy * u) for dx, dy in (*steps, (0.22 * width, 0))]
        towers.append([(x, canvas.height), (x, top), *spire, (x + width, top), (x + width, canvas.height)])
        _light_windows(dice, (x, top, width, ground - top), (8 + 6 * depth) * u, panes)
        x += width + dice.pick((0, 0, 0, 6, 14)) * u
    return towers, panes[0], panes[1]


def _light_windows(
    dice: Dice, tower: tuple[float, float, float, float], pitch: float, panes: tuple[list[Polygon], list[Polygon]]
) -> None:
    """Add the lit windows of a tower (left, top, width, height): single ones, or whole floors."""
    left, top, width, height = tower
    tall, wide = dice.pick(_WINDOWS)
    lit, by_floor = dice.uniform(0.06, 0.34), dice.pick((True, False, False))
    columns = int((width - 0.8 * pitch) / pitch)
    inset = (width - columns * pitch) / 2 + pitch * (1 - wide) / 2
    for row in range(int(height / pitch) - 1):
        floor = dice.uniform() < lit
        for column in range(columns):
            if floor if by_floor else dice.uniform() < lit:
                x, y = left + inset + column * pitch, top + (row + 0.8) * pitch
                right, bottom = x + pitch * wide, y + pitch * tall
                dice.pick((panes[0], panes[0], panes[0], panes[1])).append(
                    [(x, y), (right, y), (right, bottom), (x, bottom)]
                )


def _sign(canvas: Canvas, dice: Dice, palette: Palette, ground: float) -> None:
    u = canvas.unit
    x, y = (dice.pick((0.0, 0.72)) + dice.uniform(0.03, 0.25)) * canvas.width, ground - dice.uniform(60, 210) * u
    wide, tall = dice.pick(_SIGNS)
    colour: Colour = dice.pick((palette.second, palette.sky[3], palette.accent, palette.light))
    tube = canvas.mask(stroke([(x, y), (x + (wide - 9) * u, y + (tall - 9) * u)], 6 * u))
    canvas.add(tube.blurred(18 * u), colour)
    canvas.add(tube.blurred(5 * u), colour, 0.8)
    canvas.fill(tube, mix(colour, WHITE, 0.45))


def studio(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """A dark backdrop with a great disc of light behind the subject, smoke, and dust in the beam."""
    palette, stage = plan.palette, canvas.stage
    x, y, u = stage.x, stage.y + 0.1 * stage.scale, stage.scale / 305
    canvas.fog(-canvas.height, canvas.height * 0.9, palette.land, 0.75)
    canvas.glow(x, y, 620 * u, palette.sky[2], 0.9, 1.6)
    disc = canvas.mask(ellipse(x, y, 330 * u))
    canvas.shadow(disc, palette.second, 40 * u, 0.55)
    canvas.fill(disc, palette.light, palette.sky[3], palette.second, palette.sky[1], angle=80)
    _rings(canvas, (x, y), ((372 * u, 0.35), (414 * u, 0.22), (462 * u, 0.12)), palette.light)
    canvas.add(clouds(canvas, dice, (3, 4), 104), palette.sky[2], 0.42)
    dust: list[list[Point]] = []
    for _ in range(110):
        at = (dice.uniform(0, canvas.width), dice.uniform(0, 0.8) * canvas.height)
        dust.append(dot(*at, (0.5 + 2.2 * dice.uniform() ** 4) * u))
    canvas.add(canvas.mask(*dust), palette.light, 0.5)


def _rings(canvas: Canvas, at: Point, rings: tuple[tuple[float, float], ...], colour: Colour) -> None:
    for radius, strength in rings:
        line = canvas.mask(ellipse(*at, radius), cut=[ellipse(*at, radius - 1.6 * canvas.unit)])
        canvas.add(line, colour, strength)


def abstract(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Nothing that has a name: folded ribbons, or spheres of glass."""
    palette = plan.palette
    at = (dice.uniform(0.25, 0.75) * canvas.width, dice.uniform(0.2, 0.4) * canvas.height)
    canvas.glow(*at, 560 * canvas.unit, palette.light, 0.55)
    dice.pick((_ribbons, _spheres))(canvas, palette, dice)


def _ribbons(canvas: Canvas, palette: Palette, dice: Dice) -> None:
    u, w, h = canvas.unit, canvas.width, canvas.height
    start, end = dice.uniform(0.30, 0.5) * h, dice.uniform(0.30, 0.5) * h
    bend = dice.pick((-1, 1)) * dice.uniform(0.12, 0.26) * h
    colours = (palette.light, palette.sky[3], palette.second, palette.sky[2], palette.sky[1], palette.land)
    knots = (
        (-0.2, start, 1.3),
        (0.05, start, 1),
        (0.32, start + bend, 0.35),
        (0.64, end - bend, 0.9),
        (0.95, end, 0.6),
    )
    lines: list[list[Point]] = []
    for i in range(_BANDS + 1):
        lift = (i / _BANDS - 0.5) * 0.62 * h
        through = [(x * w, y + lift * share) for x, y, share in (*knots, (1.2, end, 1.2))]
        lines.append(curve(through, closed=False, steps=16))
    for i, (upper, lower) in enumerate(pairwise(lines)):
        below = [(x, y + 14 * u) for x, y in lower]
        mask = canvas.below(upper) if i == _BANDS - 1 else canvas.mask([*upper, *below[::-1]])
        where = i / _BANDS * (len(colours) - 1)
        colour = mix(colours[int(where)], colours[int(where) + 1], where % 1)
        canvas.shadow(mask, palette.land, 16 * u, 0.32, (0, -9 * u))
        canvas.fill(mask, colour, mix(colour, palette.light, 0.25), mix(colour, palette.sky[1], 0.3), angle=10)
        canvas.add(canvas.mask(stroke(upper[::4], 2.2 * u)), mix(palette.light, WHITE, 0.4), 0.45)


def _spheres(canvas: Canvas, palette: Palette, dice: Dice) -> None:
    u = canvas.unit
    x, y, turn = 0.5 * canvas.width, 0.40 * canvas.height, dice.uniform(0, 360)
    _rings(canvas, (x, y), ((250 * u, 0.5), (330 * u, 0.3), (420 * u, 0.18)), palette.light)
    places = [(0.0, 0.0, dice.uniform(165, 195))]
    places += [(turn + 58 * k, dice.pick((250, 330, 420)), dice.uniform(26, 84)) for k in range(6)]
    tones = (palette.second, palette.sky[3], palette.sky[2], palette.accent, palette.light)
    for i, (angle, reach, size) in enumerate(places):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        at, radius, tone = (x + reach * u * cos, y + reach * u * sin * 0.92), size * u, tones[i % len(tones)]
        sphere = canvas.mask(ellipse(*at, radius))
        canvas.glow(*at, radius * 2.2, tone, 0.4)
        canvas.shadow(sphere, palette.land, radius * 0.22, 0.5, (radius * 0.12, radius * 0.25))
        canvas.ball(sphere, mix(tone, WHITE, 0.8), tone, mix(tone, palette.sky[1], 0.55), palette.sky[0], palette.land)
        canvas.rim(sphere, palette.light, (-0.7, -0.7), 1.6 * u, 0.7)
        canvas.rim(sphere, palette.second, (0.7, 0.75), 2.2 * u, 0.8)
