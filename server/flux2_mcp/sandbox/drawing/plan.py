"""What a prompt asks for, as far as a handful of words can say: colours, a scene and a subject."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from flux2_mcp.sandbox.drawing.basics import Colour, Dice, oklch

Lch = tuple[float, float, float]

_THEMES: Final[dict[str, str]] = {
    "neon": "neon cyberpunk synthwave vaporwave futuristic hologram arcade club retro",
    "night": "night midnight moon moonlight moonlit star starry dark noir aurora space galaxy planet cosmic nebula"
    " universe northern",
    "sunset": "sunset dusk evening twilight warm hour",
    "dawn": "dawn sunrise morning pastel dreamy soft spring blossom bloom",
    "fire": "fire lava volcano ember flame dragon hell burning",
    "gold": "gold golden luxury amber bronze brass honey whisky premium autumn",
    "winter": "winter snow ice frozen arctic glacier cold frost polar",
    "green": "forest jungle garden emerald moss rainforest woods woodland nature leaf",
    "studio": "studio rim dramatic cinematic astronaut portrait headshot chiaroscuro",
    "day": "day sunny summer beach tropical sky noon bright mountain ocean sea lake sailing",
}
_SCENES: Final[dict[str, str]] = {
    "space": "space galaxy planet cosmic nebula universe orbit spaceship rocket star starry saturn mars cosmos",
    "city": "city skyline tokyo paris london york venice street building tower skyscraper urban downtown cyberpunk"
    " rooftop alley canal",
    "ocean": "lighthouse ocean sea wave beach coast sail sailing sailboat boat ship harbor harbour surf island underwater whale",
    "mountains": "mountain peak alp hill valley landscape canyon summit cliff glacier volcano lake fjord dragon castle"
    " aurora balloon",
    "forest": "forest jungle tree wood woods woodland pine rainforest cabin deer fox wolf bear owl",
    "dunes": "desert dune sahara sand camel oasis",
    "studio": "studio product logo packshot",
}
_SUBJECTS: Final[dict[str, str]] = {
    "fox": "fox vixen",
    "apple": "apple fruit",
    "lighthouse": "lighthouse beacon",
    "astronaut": "astronaut cosmonaut spaceman spacesuit",
    "robot": "robot android cyborg droid mech machine",
    "cat": "cat kitten kitty feline tabby",
    "profile": "portrait woman man girl boy person face headshot model queen king human lady gentleman singer bride"
    " fisherman dancer",
    "flower": "flower rose bouquet bloom blossom tulip peony lotus orchid dahlia sunflower daisy petal lily floral"
    " lavender",
    "cup": "coffee cup mug tea espresso latte cappuccino cocoa",
    "bottle": "bottle perfume cosmetic skincare lotion serum whisky wine potion vase shampoo",
    "product": "product watch shoe sneaker candle jewelry jewellery ring handbag headphones packshot lipstick",
    "sailboat": "sail sailing sailboat boat ship yacht",
    "balloon": "balloon",
}
_ON_EVEN_GROUND: Final = "logo icon sticker emblem mascot clipart cutout"
_GROUNDS: Final = re.compile(
    r"\b(white|plain|even|blank|transparent|no) (back)?ground\b|\b(on|isolated on) (plain |pure )?white\b(?! \w)|\bcut[ -]?out\b"
)
_DETAILS: Final[dict[str, str]] = {
    "cat": _SUBJECTS["cat"],
    "stars": "night midnight star starry space galaxy cosmic nebula universe astronaut moon aurora moonlit northern",
    "moon": "night midnight moon moonlight moonlit noir aurora",
    "reflection": "rain rainy wet reflection lake puddle mirror water river canal neon venice",
    "birds": "bird seagull gull crow raven flock freedom eagle",
    "aurora": "aurora northern borealis",
}
_HUES: Final[dict[str, float]] = {
    "red": 25, "rose": 10, "orange": 52, "ginger": 52, "yellow": 95, "sunflower": 88, "green": 150, "teal": 190,
    "cyan": 205, "turquoise": 195, "blue": 255, "indigo": 280, "purple": 305, "violet": 300, "lavender": 298,
    "magenta": 340, "pink": 358,
}  # fmt: skip
_COLOURS: Final[dict[str, tuple[Lch, ...]]] = {
    # In OKLCH: the sky from its top to the horizon (four), the light, the second light, the nearest land.
    "neon": ((0.13, 0.06, 285), (0.24, 0.14, 295), (0.44, 0.22, 325), (0.68, 0.21, 5),
             (0.84, 0.14, 205), (0.68, 0.26, 345), (0.12, 0.05, 285)),
    "night": ((0.13, 0.045, 275), (0.23, 0.09, 277), (0.38, 0.12, 285), (0.58, 0.13, 310),
              (0.94, 0.04, 95), (0.62, 0.15, 265), (0.11, 0.035, 275)),
    "sunset": ((0.26, 0.11, 292), (0.46, 0.17, 345), (0.69, 0.18, 38), (0.87, 0.13, 78),
               (0.94, 0.10, 88), (0.66, 0.20, 10), (0.17, 0.06, 310)),
    "dawn": ((0.50, 0.09, 265), (0.70, 0.09, 310), (0.83, 0.09, 25), (0.93, 0.06, 75),
             (0.97, 0.05, 85), (0.76, 0.12, 20), (0.25, 0.06, 285)),
    "fire": ((0.13, 0.04, 15), (0.28, 0.12, 20), (0.52, 0.20, 30), (0.78, 0.18, 60),
             (0.92, 0.13, 85), (0.62, 0.23, 30), (0.11, 0.03, 15)),
    "gold": ((0.13, 0.02, 60), (0.25, 0.05, 62), (0.48, 0.10, 68), (0.78, 0.14, 82),
             (0.91, 0.13, 90), (0.62, 0.14, 48), (0.11, 0.02, 60)),
    "winter": ((0.40, 0.07, 255), (0.62, 0.07, 240), (0.82, 0.045, 225), (0.94, 0.025, 190),
               (0.98, 0.02, 95), (0.78, 0.09, 230), (0.24, 0.05, 255)),
    "green": ((0.27, 0.06, 200), (0.47, 0.09, 178), (0.72, 0.10, 145), (0.91, 0.09, 110),
              (0.96, 0.08, 105), (0.72, 0.14, 160), (0.15, 0.045, 185)),
    "studio": ((0.15, 0.035, 262), (0.22, 0.06, 268), (0.34, 0.11, 285), (0.52, 0.15, 320),
               (0.82, 0.15, 57), (0.68, 0.17, 250), (0.10, 0.025, 265)),
    "day": ((0.44, 0.12, 255), (0.63, 0.12, 240), (0.82, 0.08, 220), (0.94, 0.05, 100),
            (0.98, 0.06, 95), (0.74, 0.13, 225), (0.22, 0.06, 250)),
}  # fmt: skip


class Palette(Struct, frozen=True):
    """The colours of one picture: the sky from its top to the horizon, two lights, the nearest land, the variant's."""

    sky: tuple[Colour, Colour, Colour, Colour]
    light: Colour
    second: Colour
    land: Colour
    accent: Colour


class Composition(Struct, frozen=True):
    """What to draw for a prompt; the scene is "abstract" where no word of it is known.

    `even`: the subject stands alone on an even, light ground, as logos do and what is going to be cut out.
    """

    palette: Palette
    scene: str
    subject: str | None
    details: frozenset[str]
    even: bool = False


def plan(prompt: str, accent: Colour, take: str = "") -> Composition:
    """Return what to draw for a prompt, the same each time; `accent` is the variant's colour, `take` varies the rest."""
    words = _words(prompt)
    scene, subject = _first(_SCENES, words), _first(_SUBJECTS, words)
    even = not words.isdisjoint(_ON_EVEN_GROUND.split()) or _GROUNDS.search(prompt.casefold()) is not None
    if even and subject is None:
        subject = "emblem"
    if scene == "studio" and subject is None:
        subject = "product"
    details = frozenset(name for name, known in _DETAILS.items() if not words.isdisjoint(known.split()))
    palette = _palette(words, Dice("palette:" + prompt + take), accent)
    return Composition(palette, scene or ("studio" if subject else "abstract"), subject, details, even)


def _words(prompt: str) -> frozenset[str]:
    found = re.findall(r"[a-z]+", prompt.casefold())
    return frozenset([*found, *(word.removesuffix("s") for word in found)])


def _first(vocabulary: dict[str, str], words: frozenset[str]) -> str | None:
    return next((name for name, known in vocabulary.items() if not words.isdisjoint(known.split())), None)


def _palette(words: frozenset[str], dice: Dice, accent: Colour) -> Palette:
    theme = _first(_THEMES, words)
    named = next((hue for word, hue in _HUES.items() if word in words), None)
    stops = _COLOURS[theme] if theme else _invented(dice, named)
    turn = dice.uniform(-10, 10)
    colours = [oklch(lightness, chroma, hue + turn) for lightness, chroma, hue in stops]
    second = colours[5] if named is None else oklch(0.70, 0.19, named)
    return Palette((colours[0], colours[1], colours[2], colours[3]), colours[4], second, colours[6], accent)


def _invented(dice: Dice, named: float | None) -> tuple[Lch, ...]:
    """Return a theme for a prompt that names none: its own hue (dark yellows look like mud), and a path from it."""
    hue, step = dice.uniform(190, 375) if named is None else named, dice.pick((-1, 1)) * dice.uniform(16, 28)
    return (
        (0.19, 0.07, hue),
        (0.36, 0.13, hue + step),
        (0.58, 0.17, hue + 2 * step),
        (0.80, 0.13, hue + 3 * step),
        (0.95, 0.07, hue + 3.5 * step),
        (0.70, 0.17, hue + 150),
        (0.14, 0.05, hue),
    )
