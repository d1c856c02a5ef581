"""Subjects that are things: flowers, pack shots, a sailing boat, a hot-air balloon."""

from __future__ import annotations

import math

from flux2_mcp.sandbox.drawing.basics import WHITE, Colour, Dice, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas
from flux2_mcp.sandbox.drawing.plan import Composition
from flux2_mcp.sandbox.drawing.shapes import Frame, Point, box, curve, dot, ellipse, mirrored, points, stroke
from flux2_mcp.sandbox.drawing.sketch import Sketch

_SIDES = (-1, 1)
_LEAF: Colour = (60, 150, 100)
_STEM: Colour = (20, 70, 50)
_GOLDEN_ANGLE = 2.4
# Petals of a ring: how many, how long, how wide; from the outermost ring inwards.
_LARGE = ((10, 1.0, 0.32), (9, 0.77, 0.27), (7, 0.54, 0.23), (5, 0.34, 0.17))
_SMALL = ((8, 1.0, 0.36), (6, 0.66, 0.28))


def flower(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """One great bloom and two small ones, on stems."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage, 0.008)
    leaf, stem = mix(palette.sky[1], _LEAF, 0.55), mix(palette.land, _STEM, 0.5)
    for way in ("-.95,.7 -.3,1.5 .05,2.6", ".8,.7 .3,1.5 .05,2.6", "0,.3 0,1.5 .05,2.6"):
        sketch.solid(stroke(points(way), 0.035, 0.05, 0.06), stops=(leaf, stem))
    for side, y, size in ((-1, 1.25, 0.62), (1, 1.12, 0.7), (-1, 1.75, 0.7), (1, 1.6, 0.8)):
        blade = [(x * size * side, y + dy) for x, dy in points("0,.5 .35,.08 1,-.22 .8,.22 .3,.48")]
        sketch.solid(curve(blade), stops=(leaf, stem))
    _bloom(sketch.within(-0.95, 0.62, 0.34), dice, _SMALL)
    _bloom(sketch.within(0.82, 0.58, 0.30), dice, _SMALL)
    _bloom(sketch.within(0, 0.02, 0.92), dice, _LARGE)


def _bloom(sketch: Sketch, dice: Dice, rings: tuple[tuple[int, float, float], ...]) -> None:
    palette, canvas, turn = sketch.palette, sketch.canvas, dice.uniform(0, 40)
    inner = mix(palette.second, palette.sky[3], 0.5)
    tones = (mix(palette.second, palette.land, 0.35), palette.second, inner, palette.sky[3], palette.light)
    for ring, (count, length, width) in enumerate(rings):
        for i in range(count):
            angle = turn + ring * 19 + 360 * i / count
            mask = sketch.mask(_petal(math.radians(angle), length, width))
            canvas.shadow(mask, palette.land, sketch.at.scale * 0.035, 0.42)
            base, tip = tones[ring], tones[ring + 1]
            canvas.fill(mask, base, mix(base, tip, 0.8), tip, angle=angle)
            canvas.rim(mask, palette.light, (-0.6, -0.8), sketch.at.scale * 0.007, 0.5)
    sketch.canvas.ball(
        sketch.mask(ellipse(0, 0, 0.15)), palette.light, mix(palette.light, palette.second, 0.6), tones[0]
    )
    seeds: list[list[Point]] = []
    for k in range(1, 60):
        reach = 0.018 * math.sqrt(k)
        seeds.append(dot(reach * math.cos(k * _GOLDEN_ANGLE), reach * math.sin(k * _GOLDEN_ANGLE), 0.009))
    canvas.fill(sketch.mask(*seeds).faded(0.7), tones[0])


def _petal(angle: float, length: float, width: float) -> list[Point]:
    cos, sin = math.cos(angle), math.sin(angle)
    half = [(length * x, width * y) for x, y in points(".02,0 .35,.75 .78,1 .98,.35 1.03,0")]
    outline = [*half, *((x, -y) for x, y in half[-2:0:-1])]
    return curve([(x * cos - y * sin, x * sin + y * cos) for x, y in outline], steps=5)


def _plinth(canvas: Canvas, plan: Composition) -> Sketch:
    """Two steps of stone for something to stand on, at y = 1."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage, 0.009)
    stone = (mix(palette.sky[3], palette.sky[2], 0.4), palette.sky[2], palette.sky[1], sketch.deep)
    for y, reach, tall in ((1.20, 1.05, 0.9), (0.98, 0.66, 0.24)):
        front = [*ellipse(0, y + tall, reach, reach * 0.16)[:61], *ellipse(0, y, reach, reach * 0.16)[60:0:-1]]
        sketch.solid(front, stops=stone, angle=0)
        top = (mix(palette.light, palette.sky[3], 0.5), palette.sky[2], palette.sky[1])
        sketch.solid(ellipse(0, y, reach, reach * 0.16), stops=top, angle=0, rim=0.6)
    _sphere(sketch, -0.72, 1.02, 0.22, palette.accent)
    return sketch


def _sphere(sketch: Sketch, x: float, y: float, radius: float, colour: Colour) -> None:
    sketch.ball(ellipse(x, y, radius), WHITE, colour, mix(colour, sketch.palette.land, 0.6), sketch.deep)


def bottle(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """The pack shot of a bottle."""
    sketch, palette = _plinth(canvas, plan), plan.palette
    pale, deep = mix(palette.light, WHITE, 0.3), sketch.deep
    cap = (mix(deep, pale, 0.15), mix(pale, palette.light, 0.5), mix(deep, palette.sky[1], 0.5), deep)
    sketch.solid(box(0, -0.62, 0.17, 0.17), stops=cap, angle=0)
    sketch.solid(
        box(0, -0.41, 0.12, 0.06), stops=(palette.light, pale, mix(palette.light, deep, 0.7)), angle=0, rim=0.5
    )
    glass = (mix(palette.second, WHITE, 0.25), palette.second, mix(palette.second, palette.sky[2], 0.5), palette.sky[1])
    sketch.solid(box(0, 0.31, 0.44, 0.68), stops=glass, angle=35, rim=1.4)
    liquid = sketch.mask(box(0, 0.44, 0.37, 0.49))
    canvas.fill(liquid.faded(0.75), palette.sky[3], palette.second, palette.sky[1], palette.land, angle=60)
    canvas.rim(liquid, pale, (0, -1), sketch.at.scale * 0.008, 0.6)
    sketch.shine(stroke(points("-.35,-.22 -.365,.3 -.35,.84"), 0.02, 0.05, 0.02), WHITE, 0.7, 0.008)
    sketch.shine(stroke(points(".36,-.2 .375,.3 .36,.84"), 0.01, 0.025, 0.01), palette.accent, 0.8, 0.006)
    label = (mix(pale, WHITE, 0.4), pale, mix(pale, palette.sky[2], 0.3))
    sketch.solid(box(0, 0.40, 0.23, 0.17), stops=label, angle=0, rim=0.3)
    for y, reach in ((0.35, 0.12), (0.40, 0.16), (0.45, 0.07)):
        sketch.ink(stroke([(-reach, y), (reach, y)], 0.014), palette.land, 0.7)


def cup(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """A steaming cup."""
    sketch, palette = _plinth(canvas, plan), plan.palette
    china = mix(palette.light, WHITE, 0.45)
    side = (china, mix(china, palette.second, 0.25), mix(palette.second, palette.sky[1], 0.6), sketch.deep)
    ring = sketch.mask(ellipse(0.56, 0.42, 0.25, 0.24), cut=[ellipse(0.55, 0.42, 0.16, 0.15)])
    sketch.shadow(ring, 0.5)
    canvas.fill(ring, *side[:3])
    sketch.rims(ring)
    sketch.solid(ellipse(0, 0.98, 0.56, 0.10), stops=side, angle=0)
    bowl = mirrored("0,.1 .56,.1 .55,.42 .44,.78 .26,.95 0,.97")
    sketch.solid(bowl, stops=side, angle=0, rim=1.4)
    sketch.solid(ellipse(0, 0.12, 0.56, 0.13), stops=(mix(china, palette.sky[2], 0.4), china), rim=0.7)
    sketch.canvas.fill(sketch.mask(ellipse(0, 0.135, 0.49, 0.10)), (34, 18, 14), (96, 54, 34))
    sketch.ink(ellipse(0.05, 0.14, 0.22, 0.04), mix(china, (150, 90, 50), 0.4), 0.9, 0.012)
    for x in (-0.22, 0.02, 0.24):
        sway = [(x + dice.uniform(-0.14, 0.14), 0.05 - 0.24 * k) for k in range(5)]
        sketch.shine(stroke(sway, 0.02, 0.09, 0.13, 0.08, 0.0), mix(palette.light, WHITE, 0.5), 0.42, 0.045)


def product(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """The pack shot of anything else: a polished sphere in a ring."""
    sketch, palette = _plinth(canvas, plan), plan.palette
    outer, inner = ellipse(0, 0.36, 0.98, 0.24, turn=-16), ellipse(0, 0.35, 0.88, 0.19, turn=-16)
    metal = (palette.light, WHITE, mix(palette.light, palette.land, 0.5))
    canvas.fill(sketch.mask(outer, cut=[inner]), *metal[::-1], angle=0)
    _sphere(sketch, 0, 0.34, 0.62, palette.second)
    sketch.shine(ellipse(-0.24, 0.02, 0.2, 0.1, turn=-38), WHITE, 0.5, 0.05)
    near = sketch.mask(outer, cut=[inner, points("-1.4,.76 1.4,-.04 1.4,-1 -1.4,-1")])
    sketch.shadow(near, 0.6)
    canvas.fill(near, *metal, angle=0)
    sketch.rims(near, 0.6)


def sailboat(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """A small yacht on the water, a little left of the light."""
    palette, u = plan.palette, canvas.unit
    at = Frame(canvas.stage.x - 0.13 * canvas.width, 0.585 * canvas.height, 118 * u)
    image = canvas.mask(at(points(".05,.2 -.5,.32 -.3,.8 .1,1.3 .3,.7 .55,.3")))
    canvas.fill(image.blurred(at.scale * 0.06).faded(0.45), palette.land)
    for sail, share in (
        (".03,-1.65 .16,-.9 .56,-.06 .03,-.06", 0.25),
        ("-.03,-1.5 -.2,-.8 -.56,-.02 -.03,-.06", 0.45),
    ):
        mask = canvas.mask(at(curve(points(sail), steps=4)))
        canvas.fill(mask, mix(palette.light, WHITE, 0.4), mix(palette.light, palette.sky[2], share), angle=30)
        canvas.rim(mask, palette.light, (0.8, -0.4), 1.2 * u, 0.9)
    hull = canvas.mask(at(points("-.72,.02 .78,-.02 .52,.24 -.5,.24")), at(stroke(points("0,0 0,-1.72"), 0.03, 0.02)))
    canvas.fill(hull, mix(palette.land, palette.sky[1], 0.2), palette.land)
    canvas.rim(hull, palette.light, (0.4, -0.9), 1.5 * u, 0.8)


def balloon(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """A hot-air balloon in the sky."""
    palette = plan.palette
    stage = canvas.stage
    at = Frame(stage.x, stage.y - 0.05 * canvas.height, stage.scale * 0.62)
    sketch = Sketch(canvas, palette, at, 0.02)
    gores = (
        palette.accent,
        palette.light,
        palette.second,
        palette.light,
        palette.accent,
        palette.light,
        palette.second,
    )
    half = points("0,-1 .52,-.9 .88,-.52 .94,-.1 .72,.4 .34,.86 .16,1")
    outlines = []
    for i, colour in enumerate(gores):
        narrow = [(x * (1 - i / len(gores)), y) for x, y in half]
        outlines.append(curve([*narrow, *((-x, y) for x, y in narrow[::-1])]))
        canvas.fill(
            sketch.mask(outlines[-1]), mix(colour, WHITE, 0.15), colour, mix(colour, palette.land, 0.45), angle=60
        )
    sketch.rims(sketch.mask(outlines[0]))
    ropes = [stroke(points(".15,1 .11,1.26", side), 0.014) for side in _SIDES]
    basket = (mix(palette.land, palette.light, 0.35), palette.land)
    sketch.solid(box(0, 1.38, 0.16, 0.13), *ropes, stops=basket, shade=0)
