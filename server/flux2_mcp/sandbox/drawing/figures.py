"""Subjects that are alive, or nearly: an astronaut, a robot, a cat, a head in profile."""

from __future__ import annotations

from flux2_mcp.sandbox.drawing.basics import WHITE, Colour, Dice, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask
from flux2_mcp.sandbox.drawing.plan import Composition, Palette
from flux2_mcp.sandbox.drawing.shapes import box, curve, dot, ellipse, mirrored, points, stroke
from flux2_mcp.sandbox.drawing.sketch import Sketch

_SIDES = (-1, 1)
_NIGHT: Colour = (8, 8, 14)


def astronaut(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """An astronaut, head and shoulders, the visor full of reflections; a cat in the arms where the words have one."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage)
    deep, dark = sketch.deep, mix(palette.land, palette.sky[1], 0.35)
    cloth = mix(mix(WHITE, palette.sky[2], 0.5), palette.land, 0.28)
    suit = (mix(cloth, WHITE, 0.1), mix(cloth, dark, 0.5), mix(dark, deep, 0.35), deep)
    holds_cat = "cat" in plan.details
    sketch.solid(box(0, 0.42, 0.66, 0.62), stops=(mix(dark, cloth, 0.25), deep), rim=0.8)
    folded, hanging = ".92,.44 1.06,.74 1.12,1.06 1.06,1.29 .9,1.35 .77,1.3", ".9,.46 1.02,.9 1.08,1.4 1.1,2"
    torso = f"0,.06 .38,.09 .68,.2 {folded if holds_cat else hanging} .76,1.5 .8,2.6"
    sketch.solid(mirrored(torso), stops=suit, rim=1.9)
    for side in _SIDES:
        armpit = stroke(points(".62,.56 .7,.82 .72,1.35", side), 0, 0.012, 0.03)
        sketch.ink(armpit, deep, blur=0.03)
        sketch.ink(armpit, deep, 0.8)
        sketch.ink(stroke(points(".5,.18 .42,.5 .46,.95", side), 0.01), deep, 0.35)
        band = stroke(points(".71,.76 .88,.7 1.01,.685", side), 0.045)
        sketch.ink(band, mix(palette.accent, dark, 0.25 if side < 0 else 0.5), 0.9)
    sketch.solid(box(0, 0.43, 0.26, 0.15), stops=(mix(cloth, WHITE, 0.25), mix(cloth, dark, 0.5)), rim=0.7)
    for i, colour in enumerate((palette.accent, palette.light, palette.second)):
        sketch.lamp(ellipse(-0.15 + 0.11 * i, 0.36, 0.024), colour, 0.03)
    sketch.solid(ellipse(0, 0.115, 0.46, 0.13), stops=(mix(cloth, WHITE, 0.3), dark), rim=0.8)
    helmet = sketch.mask(ellipse(0, -0.36, 0.53, 0.515))
    sketch.shadow(helmet, 0.6)
    canvas.ball(helmet, mix(cloth, WHITE, 0.75), cloth, mix(cloth, dark, 0.55), dark, deep, at=(0.4, 0.12))
    for side in _SIDES:
        sketch.solid(box(side * 0.535, -0.34, 0.055, 0.14), stops=(mix(cloth, WHITE, 0.2), dark), rim=0.7)
    sketch.rims(helmet, 1.7)
    _visor(sketch, dice)
    collar = ".0,.165 .3,.125 .46,.03 .47,.11 .28,.225 0,.265"
    sketch.solid(mirrored(collar), stops=(mix(cloth, WHITE, 0.35), mix(cloth, dark, 0.5), dark), rim=0.7)
    if holds_cat:
        _cat_in_arms(sketch, suit)


def _visor(sketch: Sketch, dice: Dice) -> None:
    palette = sketch.palette
    frame = sketch.mask(ellipse(0, -0.335, 0.435, 0.385, power=2.5))
    sketch.canvas.fill(frame, sketch.deep, mix(palette.sky[1], palette.land, 0.3))
    sketch.canvas.rim(frame, WHITE, (0, 1), sketch.at.scale * 0.007, 0.5)
    glass = sketch.mask(ellipse(0, -0.335, 0.40, 0.35, power=2.5))
    view = sketch.window(glass)
    view.canvas.fill(
        Mask(glass.image, 0, 0), palette.land, palette.sky[1], palette.second, palette.sky[3], palette.light
    )
    specks = [
        dot(dice.uniform(-0.4, 0.4), dice.uniform(-0.68, -0.36), 0.002 + 0.005 * dice.uniform() ** 3) for _ in range(60)
    ]
    view.canvas.add(view.mask(*specks), WHITE, 0.9)
    view.canvas.glow(*view.at([(0.10, -0.16)])[0], view.at.scale * 0.42, palette.light, 0.9)
    view.ink(ellipse(0.10, -0.17, 0.075), mix(palette.light, WHITE, 0.6))
    ground = curve(points("-.6,-.11 -.3,-.155 -.1,-.125 .12,-.165 .34,-.12 .6,-.14 .6,.3 -.6,.3"))
    view.canvas.fill(view.mask(ground), mix(palette.land, palette.second, 0.35), palette.land, palette.land)
    for side, tint, strength in ((-1, WHITE, 0.5), (1, palette.second, 0.75)):
        view.shine(stroke(points(".335,-.52 .37,-.36 .335,-.2", side), 0, 0.035, 0), tint, strength, 0.006)
    sheen = curve(points("-.34,-.5 -.2,-.64 .02,-.665 -.12,-.56 -.24,-.4 -.31,-.36"))
    view.shine(sheen, WHITE, 0.28, 0.012)
    sketch.close(view, glass)
    sketch.canvas.rim(glass, palette.light, (-0.6, 0.8), sketch.at.scale * 0.006, 0.6)


def _cat_in_arms(sketch: Sketch, suit: tuple[Colour, ...]) -> None:
    palette = sketch.palette
    fur = mix(palette.land, palette.sky[2], 0.32)
    pale = mix(fur, palette.sky[2], 0.4)
    sketch.solid(
        stroke(points(".28,1.2 .55,1.42 .66,1.62 .58,1.78"), 0.13, 0.12, 0.11, 0.07), stops=(fur, palette.land)
    )
    body = mirrored("0,.69 .14,.7 .33,.9 .4,1.18 .34,1.55 0,1.56")
    sketch.solid(body, stops=(pale, fur, palette.land))
    _cat_head(sketch.within(0, 0.66, 0.32), fur)
    for side in (1, -1):
        sleeve = stroke(points(".92,1.17 .64,1.3 .2,1.26", side), 0.34, 0.34, 0.25)
        sketch.solid(sleeve, stops=(mix(suit[0], suit[1], 0.8), suit[1], suit[2]), rim=0.8, shade=0.4)
        cuff = stroke(points(".25,1.16 .23,1.36", side), 0.06)
        sketch.solid(cuff, stops=(palette.accent, mix(palette.accent, palette.land, 0.6)), rim=0.6)
        palm = ellipse(side * 0.03, 1.245, 0.20, 0.125, turn=side * 6)
        thumb = stroke(points(".13,1.17 .02,1.1 -.05,1.11", side), 0.10, 0.09, 0.07)
        sketch.solid(palm, thumb, stops=(mix(suit[0], WHITE, 0.3), mix(suit[1], palette.land, 0.2)), rim=0.9)
        for fold in ("-.15,1.21 -.05,1.225 .03,1.21", "-.15,1.28 -.05,1.295 .03,1.28"):
            sketch.ink(stroke(points(fold, side), 0.012), palette.land, 0.4)
    for side in _SIDES:
        sketch.solid(ellipse(side * 0.17, 1.13, 0.095, 0.085), stops=(pale, fur), rim=0.8)
        for toe in (side * 0.17 - 0.03, side * 0.17 + 0.03):
            sketch.ink(stroke([(toe, 1.15), (toe, 1.205)], 0.012), palette.land, 0.7)


def cat(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """A sitting cat, its tail around it."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage, 0.013)
    fur = mix(palette.land, palette.sky[2], 0.25)
    sketch.solid(stroke(points(".44,1.55 .8,1.5 .92,1.22 .8,1"), 0.20, 0.19, 0.16, 0.10), stops=(fur, palette.land))
    body = mirrored("0,.1 .26,.14 .42,.46 .56,.9 .64,1.3 .6,1.6 .4,1.7 0,1.74")
    sketch.solid(body, stops=(mix(fur, palette.sky[2], 0.35), fur, palette.land, palette.land))
    for side, colour in zip(_SIDES, (palette.light, palette.second), strict=True):
        sketch.shine(stroke(points(".3,1.05 .27,1.35 .32,1.64", side), 0, 0.02, 0.03), colour, 0.55, 0.012)
        for toe in (side * 0.10, side * 0.20):
            sketch.shine(stroke([(toe, 1.61), (toe, 1.70)], 0.012), palette.sky[2], 0.5)
    sketch.shine(stroke(points("0,.98 0,1.35 0,1.7"), 0, 0.02, 0.025), palette.sky[2], 0.6, 0.01)
    _cat_head(sketch.within(0, -0.24, 0.52), fur)


def _cat_head(sketch: Sketch, fur: Colour) -> None:
    """A cat's head seen from the front, about one unit in radius: ears, shining eyes, nose, whiskers."""
    palette = sketch.palette
    pale = mix(fur, palette.sky[2], 0.4)
    outline = "0,-.62 .24,-.66 .4,-.8 .66,-1.18 .77,-1.2 .83,-.66 .95,-.2 1.03,.1 .9,.38 .58,.62 .26,.74 0,.76"
    head = sketch.mask(mirrored(outline))
    sketch.canvas.shadow(head, palette.land, sketch.at.scale * 0.2, 0.75, (0, sketch.at.scale * 0.12))
    sketch.canvas.fill(head, pale, fur, mix(fur, palette.land, 0.6))
    for side in _SIDES:
        sketch.ink(curve(points(".5,-.78 .68,-1.04 .74,-.66", side)), mix(palette.second, fur, 0.45), blur=0.03)
    sketch.rims(head, 2.5)
    sketch.ink(ellipse(0, 0.40, 0.42, 0.27), mix(pale, WHITE, 0.25), 0.5, 0.1)
    for side in _SIDES:
        eye = ellipse(side * 0.43, -0.03, 0.215, 0.19, turn=side * -14)
        sketch.shine(eye, palette.light, 0.5, 0.14)
        iris = (mix(palette.accent, WHITE, 0.5), mix(palette.light, palette.accent, 0.6), palette.second)
        sketch.canvas.fill(sketch.mask(eye), *iris)
        sketch.ink(ellipse(side * 0.42, -0.03, 0.07, 0.175), _NIGHT)
        sketch.ink(ellipse(side * 0.42 - 0.06, -0.10, 0.045), WHITE)
        for hair in (".34,.34 .8,.24 1.22,.2", ".34,.38 .8,.38 1.22,.5", ".34,.42 .8,.52 1.22,.8"):
            sketch.ink(stroke(points(hair, side), 0.014, 0.012, 0.004), palette.light, 0.7)
        sketch.ink(stroke(points("0,.34 .02,.43 .12,.47 .22,.43", side), 0.022, 0.022, 0.008), palette.land)
    sketch.ink(curve(points("-.1,.25 .1,.25 .03,.34 -.03,.34")), mix(palette.second, WHITE, 0.35))


def robot(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """A robot, head and shoulders, with a face of light."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage, 0.013)
    deep, dark = sketch.deep, mix(palette.land, palette.sky[1], 0.4)
    metal = mix(mix(WHITE, palette.sky[2], 0.45), palette.land, 0.25)
    shell = (mix(metal, WHITE, 0.35), metal, mix(metal, dark, 0.7), deep)
    sketch.solid(stroke([(0, -0.8), (0, -1.02)], 0.035), stops=(metal, dark))
    sketch.lamp(ellipse(0, -1.05, 0.06), palette.accent, 0.09)
    sketch.solid(box(0, 0.33, 0.20, 0.26), stops=(dark, deep))
    for y in (0.20, 0.28, 0.36):
        sketch.ink(stroke([(-0.19, y), (0.19, y)], 0.022), metal, 0.6)
    sketch.solid(mirrored("0,.46 .42,.47 .72,.58 .84,.86 .8,1.4 .74,2.6"), stops=shell, rim=1.4)
    for side in _SIDES:
        sketch.solid(stroke(points(".92,.94 1,1.4 1.02,2.2", side), 0.22), stops=(dark, deep))
        sketch.ball(ellipse(side * 0.86, 0.78, 0.25), mix(metal, WHITE, 0.8), metal, mix(metal, dark, 0.7), deep)
        sketch.solid(ellipse(side * 0.69, -0.32, 0.11, 0.19), stops=(metal, dark))
    sketch.solid(box(0, -0.32, 0.66, 0.50), stops=shell, rim=1.5)
    face = sketch.mask(box(0, -0.30, 0.53, 0.34))
    canvas.fill(face, deep, mix(palette.sky[1], palette.land, 0.35))
    canvas.rim(face, palette.second, (0.4, 0.9), sketch.at.scale * 0.008, 0.7)
    for side in _SIDES:
        sketch.lamp(ellipse(side * 0.24, -0.34, 0.095, 0.125), mix(palette.accent, palette.light, 0.3), 0.07)
    sketch.lamp(stroke(points("-.13,-.11 0,-.08 .13,-.11"), 0.012, 0.03, 0.012), palette.accent, 0.04)
    sketch.shine(curve(points("-.47,-.5 -.3,-.6 .02,-.6 -.2,-.44 -.4,-.16")), WHITE, 0.16, 0.012)
    sketch.solid(ellipse(0, 0.92, 0.19), stops=(dark, deep), rim=0.8)
    sketch.lamp(ellipse(0, 0.92, 0.12), palette.second, 0.10)


def profile(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """A head in profile, a second picture exposed inside it."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage)
    outline = (
        ".66,2.6 .6,1.45 .34,1.08 .18,.92 .13,.74 .2,.61 .36,.57 .445,.48 .425,.385 .475,.315 .455,.265 .495,.205"
        " .46,.135 .585,.065 .56,-.01 .47,-.19 .44,-.29 .475,-.39 .455,-.56 .37,-.76 .18,-.9 -.12,-.94 -.42,-.83"
        " -.6,-.58 -.65,-.27 -.56,.05 -.43,.3 -.41,.58 -.52,.84 -.86,1.04 -1.12,1.32 -1.22,1.8 -1.25,2.6"
    )
    head = sketch.mask(curve(points(outline), steps=6), ellipse(-0.60, -0.66, 0.25, 0.23, turn=-30))
    sketch.shadow(head, 0.6)
    view = sketch.window(head)
    _exposure(view, Mask(head.image, 0, 0), palette, dice)
    sketch.close(view, head)
    canvas.rim(head, palette.light, (0.95, -0.3), sketch.at.scale * 0.014)
    canvas.rim(head, palette.second, (-0.9, -0.4), sketch.at.scale * 0.010, 0.9)


def _exposure(view: Sketch, whole: Mask, palette: Palette, dice: Dice) -> None:
    view.canvas.fill(whole, palette.land, palette.sky[1], palette.second, palette.light, palette.land, palette.land)
    specks = [
        dot(dice.uniform(-0.9, 0.6), dice.uniform(-0.95, 0.4), 0.002 + 0.007 * dice.uniform() ** 4) for _ in range(150)
    ]
    view.canvas.add(view.mask(*specks), WHITE, 0.9)
    for i in range(4):
        base = 0.42 + 0.17 * i
        ridge = [(-1.5 + 0.24 * k, base - dice.uniform(0, 0.30) * (k % 2) - dice.uniform(0, 0.05)) for k in range(14)]
        tone = mix(palette.second, palette.land, 0.22 + 0.25 * i)
        view.canvas.fill(
            view.mask([(-1.5, 3.0), *ridge, (1.7, 3.0)]), mix(tone, palette.light, 0.18), tone, palette.land
        )
