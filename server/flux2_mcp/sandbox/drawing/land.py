"""Landscapes: mountains, ocean, forest, dunes."""

from __future__ import annotations

import math
from itertools import pairwise

from flux2_mcp.sandbox.drawing.basics import Dice, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas
from flux2_mcp.sandbox.drawing.plan import Composition
from flux2_mcp.sandbox.drawing.shapes import Point, curve, ellipse
from flux2_mcp.sandbox.drawing.sky import heaven, mirror

_RANGES = 5
_NEAR, _CLEARING = 0.7, 0.24


def mountains(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Ranges one behind the other, paler with distance, each with a lit and a shaded side, and mist between them."""
    palette = plan.palette
    w, h = canvas.width, canvas.height
    east = heaven(canvas, plan, dice, 0.30) > w * 0.52
    for i in range(_RANGES):
        depth = i / (_RANGES - 1)
        base, height = (0.53 + 0.26 * depth) * h, (0.27 - 0.12 * depth) * h
        line, shaded = _range(dice, w, base, height)
        if east:
            line, shaded = _flipped(line, w), [_flipped(face, w) for face in shaded]
        far = mix(palette.sky[3], palette.sky[2], 0.45)
        colour = mix(mix(far, palette.sky[1], min(0.15 + depth * 1.6, 1)), palette.land, max(depth * 1.6 - 0.6, 0.06))
        mask = canvas.below(line)
        canvas.fill(mask, mix(colour, palette.light, 0.34 * (1 - depth)), mix(colour, palette.sky[2], 0.2))
        shade = canvas.mask(*shaded).faded(0.8 - 0.55 * depth)
        canvas.fill(shade, mix(colour, palette.land, 0.22), colour)
        canvas.rim(mask, palette.light, (0.6 if east else -0.6, -0.7), 1.3 * canvas.unit, 0.55 - 0.4 * depth)
        if i < _RANGES - 1:
            mist = mix(far, palette.sky[2], depth)
            canvas.fog(base - 0.10 * h, base + 0.10 * h, mist, 0.72 - 0.36 * depth)
    if "reflection" in plan.details:
        mirror(canvas, 0.66 * h, 0.9)


def _flipped(line: list[Point], width: float) -> list[Point]:
    return [(width - x, y) for x, y in line]


def _range(dice: Dice, width: float, base: float, height: float) -> tuple[list[Point], list[list[Point]]]:
    """Return a ridge from left to right, and the faces under it that lie in shade, each right of a peak."""
    line: list[Point] = []
    shaded: list[list[Point]] = []
    valley = (-0.12 * width, base)
    while valley[0] < width * 1.1:
        rise, fall = dice.uniform(0.7, 1.5) * height, dice.uniform(0.8, 1.8) * height
        peak = (valley[0] + rise, base - height * dice.uniform(0.45, 1.0))
        beyond = (peak[0] + fall, base - height * dice.uniform(0.0, 0.3))
        up, down = _jagged(dice, valley, peak, 5, 0.07), _jagged(dice, peak, beyond, 5, 0.07)
        foot = (peak[0] + dice.uniform(-0.25, 0.35) * fall, base + height * 0.9)
        spine = _jagged(dice, peak, foot, 4, 0.16)
        ends = [(beyond[0] + 0.3 * fall, base + height), (foot[0] + 0.1 * fall, base + height * 2.2)]
        shaded.append([*down, *ends, *spine[::-1]])
        line += up[:-1] + down[:-1]
        valley = beyond
    return line, shaded


def _jagged(dice: Dice, start: Point, end: Point, rounds: int, roughness: float) -> list[Point]:
    """Return a line broken `rounds` times, each time near the middle of each of its parts."""
    line = [start, end]
    for _ in range(rounds):
        longer = [line[0]]
        for (ax, ay), (bx, by) in pairwise(line):
            t, off = dice.uniform(0.35, 0.65), dice.uniform(-1, 1) * roughness
            longer += [(ax + (bx - ax) * t - (by - ay) * off, ay + (by - ay) * t + (bx - ax) * off), (bx, by)]
        line = longer
    return line


def ocean(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """A sea to the horizon, the light's path on it, and swell towards the viewer."""
    palette, u = plan.palette, canvas.unit
    w, horizon = canvas.width, 0.54 * canvas.height
    x = heaven(canvas, plan, dice, 0.40)
    sea = canvas.below([(-60, horizon), (w + 60, horizon)])
    canvas.fill(sea, mix(palette.sky[3], palette.sky[2], 0.6), palette.sky[1], palette.land, palette.land)
    glints: list[list[Point]] = []
    for _ in range(230):
        depth = dice.uniform() ** 1.6
        at = x + (dice.uniform(-1, 1) + dice.uniform(-1, 1)) * (26 + 150 * depth) * u
        length = dice.uniform(8, 20 + 60 * depth) * u
        glints.append(ellipse(at, horizon + (2 + depth * 400) * u, length, (0.8 + 1.8 * depth) * u)[::4])
    canvas.add(canvas.mask(*glints), palette.light, 0.75)
    for i in range(5):
        depth = (i + 1) / 5
        base, size = horizon + (40 + 300 * depth**1.5) * u, depth * u
        phase, length = dice.uniform(0, 6.3), (120 + 420 * depth) * u
        line: list[Point] = []
        for px in range(-60, w + 61, 6):
            long, short = math.sin(px / length * math.tau + phase), math.sin(px / length * 4.1 + phase * 3)
            line.append((px, base + long * 9 * size + short * 16 * size))
        wave, colour = canvas.below(line), mix(palette.sky[1], palette.land, depth)
        canvas.fill(wave.faded(0.55), mix(colour, palette.second, 0.25), colour, palette.land)
        canvas.rim(wave, palette.light, (0, -1), (0.8 + 1.6 * depth) * u, 0.55)


def forest(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Rows of firs in mist, light falling between them."""
    palette = plan.palette
    w, h = canvas.width, canvas.height
    heaven(canvas, plan, dice, 0.33)
    for i in range(_RANGES):
        depth = i / (_RANGES - 1)
        base, size = (0.55 + 0.30 * depth) * h, (110 + 330 * depth**1.4) * canvas.unit
        hill = curve([(x * w / 5, base + dice.uniform(-0.03, 0.03) * h) for x in range(-1, 7)], closed=False)
        firs: list[list[Point]] = [[*hill, (w * 1.2, h * 1.1), (-w * 0.2, h * 1.1)]]
        count = round(w / size * (6.5 - 3 * depth))
        for k in range(count + 1):
            share = (k + dice.uniform(-0.4, 0.4)) / max(count, 1)
            height = size * dice.uniform(0.6, 1.05)
            # The nearest trees leave the middle open.
            if depth <= _NEAR or abs(share - 0.5) > _CLEARING:
                firs.append(_fir(dice, share * w, base + 0.05 * h, height))
        haze = mix(palette.sky[3], palette.sky[2], 0.35 + depth * 0.5)
        mask = canvas.mask(*firs)
        canvas.fill(mask, mix(haze, palette.land, min(0.12 + depth * 0.95, 1)))
        canvas.rim(mask, palette.light, (0.6, -0.5), 1.2 * canvas.unit, 0.35 * (1 - depth))
        if i < _RANGES - 1:
            mist = mix(palette.sky[3], palette.sky[2], depth * 0.8)
            canvas.fog(base - 0.12 * h, base + 0.10 * h, mist, 0.6 - 0.3 * depth)


def _fir(dice: Dice, x: float, base: float, height: float) -> list[Point]:
    right: list[Point] = []
    left: list[Point] = []
    for tier in range(1, 10):
        y, reach = base - height + height * tier / 9 * 0.94, height * 0.19 * tier / 9
        right += [(x + reach * dice.uniform(0.8, 1.1), y), (x + reach * 0.45, y - height * 0.012)]
        left += [(x - reach * dice.uniform(0.8, 1.1), y), (x - reach * 0.45, y - height * 0.012)]
    trunk = height * 0.02
    return [(x, base - height), *right, (x + trunk, base + height), (x - trunk, base + height), *left[::-1]]


def dunes(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """Dunes with a lit and a shaded side."""
    palette = plan.palette
    w, h = canvas.width, canvas.height
    east = heaven(canvas, plan, dice, 0.32) > w * 0.52
    for i in range(_RANGES):
        depth = i / (_RANGES - 1)
        base, swell = (0.50 + 0.30 * depth) * h, (0.05 + 0.07 * depth) * h
        crest = dice.uniform(0.2, 0.8) * w
        shape = ((-0.4 * w, 1), (0, 0.7), (crest * 0.6, 0.1), (crest, -1), (crest + 0.2 * w, 0.2), (w * 1.1, 0.8))
        line = curve([*((x, base + swell * y) for x, y in shape), (w * 1.4, base + swell)], closed=False)
        bends = ((0, -1), (-0.05, 0.4), (0.06, 1.6), (-0.04, 4))
        spine = curve([(crest + x * w, base + swell * y) for x, y in bends], closed=False)
        face = [*spine[::-1], *(point for point in line if point[0] >= crest), (w * 1.4, h * 1.2), (crest, h * 1.2)]
        if east:
            line, face = _flipped(line, w), _flipped(face, w)
        mask = canvas.below(line)
        lit = mix(mix(palette.light, palette.sky[2], 0.45 + 0.2 * depth), palette.land, depth * 0.55)
        dark = mix(mix(palette.sky[2], palette.sky[1], 0.5), palette.land, 0.2 + 0.6 * depth)
        canvas.fill(mask, lit, mix(lit, dark, 0.6), dark)
        canvas.fill(canvas.mask(face).faded(0.8), mix(dark, palette.sky[1], 0.3), palette.land)
        canvas.rim(mask, palette.light, (-0.3, -0.9), 1.4 * canvas.unit, 0.45)
