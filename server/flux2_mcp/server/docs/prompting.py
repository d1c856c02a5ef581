"""How to write a prompt for FLUX.2, as Markdown. Pure.

The advice is Black Forest Labs', from the public guides in SOURCES, in our words. What was added is marked as ours there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from flux2_mcp.domain import catalog
from flux2_mcp.server.docs import uris

RULES: Final = (
    (
        "**Say what the image shows, in sentences.** Subject first, then what it does, style, place, light, camera: what stands"
        " first counts most. 30 to 80 words are usually enough."
    ),
    (
        "**Write no negatives.** There is no negative prompt, and a thing that is named is often drawn. Name what is there"
        ' instead: "an empty street" for "no people".'
    ),
    (
        '**Put lettering in double quotes**, early, with its style, size and place: `The headline "FRESH BREAD" in bold sans-serif'
        " at the top`. Use the variant flex for it."
    ),
    "**Give colours as hex codes with a name, each tied to a thing**: `a #F39C12 (warm amber) blanket`. Three to five are enough.",
    "**Name the light.** It changes an image most: soft window light from the left, golden hour, a softbox, neon.",
    "**In a remix, say what changes and what stays**, and call the sources image 1, image 2, in their order.",
    (
        '**A transparent ground is no prompt but an argument**: `background: "transparent"` of the tool `generate`. FLUX.2 paints'
        " no transparency. In the prompt, put the subject alone on a plain ground of another colour. `upscale` makes it larger."
    ),
)
"""The whole of it in short. The skill shows them too."""

RATIOS: Final[Mapping[str, str]] = {
    "1:1": "posts, profile pictures, product shots, logos and icons",
    "4:3": "classic photographs, pictures in a text",
    "3:4": "the same upright: portraits, cards",
    "16:9": "heroes and headers of web pages, slides, video covers",
    "9:16": "phone screens, stories",
    "3:2": "photographs as cameras make them, banners of articles",
    "2:3": "the same upright: posters, book covers",
    "auto": "a remix that keeps its source's shape",
}
"""What each ratio is good for. A test holds the names to the catalogue."""

_POSITIVE: Final = (
    ("no people, no crowd", "empty, deserted, quiet"),
    ("no text, no logo", "plain surfaces, an unmarked label"),
    ("no blur", "sharp focus throughout"),
    ("no clutter, no background", "a plain white studio background"),
    ("no glasses, no hat", "clear eyes, bare head"),
    ("no colour", "black and white"),
    ("not dark", "bright, even daylight"),
)

_JSON: Final = """{
  "scene": "a bakery's window in the morning, seen from the street",
  "subjects": [
    {
      "description": "a round loaf with a dark crust on a #D9B382 (light oak) board",
      "position": "centre, foreground",
      "action": "steaming"
    },
    {
      "description": "a hand-painted sign that reads \\"FRESH BREAD\\" in white script",
      "position": "top, on the glass"
    }
  ],
  "style": "editorial food photograph",
  "color_palette": ["#D9B382", "#2C3E50", "#FFFFFF"],
  "lighting": "low sun from the left, long soft shadows",
  "mood": "warm, calm",
  "composition": "loaf on the lower third, the upper half plain for a headline",
  "camera": {"angle": "eye level", "lens": "85mm", "depth_of_field": "shallow"}
}"""

SOURCES: Final = (
    ("https://docs.bfl.ml/guides/prompting_guide_flux2", "order, negatives, colours, JSON"),
    ("https://docs.bfl.ai/guides/usecases_t2i_json_prompting", "the members of a JSON prompt, and when to use one"),
    ("https://docs.bfl.ai/guides/prompting_unified_technical", "ratios, replacing negatives"),
    (
        "https://github.com/black-forest-labs/skills",
        "flux-best-practices of 2026-02-03: length, light, lettering, sources",
    ),
)


def guide() -> str:
    """Write the guide."""
    longest = max(int(model.fields["prompt"].high or 0) for model in catalog.models().values())
    variants = [(name, catalog.variant_notes(name)["best_for"]) for name in catalog.variants()]
    return f"""# Prompts for FLUX.2

{_list(RULES)}

A prompt has at most {longest:,} characters. There is no seed: to try again, change one thing of the prompt at a time.

## Instead of a negative

Ask what would be seen in its place, and write that.

{_table(("not", "but"), _POSITIVE)}

## JSON

For a scene with several things, or a prompt that a program fills in, write JSON as the prompt: as text, not as an object. No member
is needed, and others are understood. For one thing in one place, a sentence does as well.

```json
{_JSON}
```

To make a series, keep all members but one.

## Lettering

- Write the very letters, with capitals as they should come: `"OPEN"`. One to four words come out best.
- Say the style (bold sans-serif, script, neon tubes), the size beside other text, the place, and the colour.
- Keep long texts out of the image: set them in HTML over it, and ask for a plain area there.

## Colours

- `#RRGGBB` and a name, at the thing: `walls in #2C3E50 (dark blue-grey)`. A code alone, or far from its thing, is easily lost.
- A gradient has a first and a last: `from #02EB3C (green) to #EDFA3C (yellow)`.
- The colours come close, not exact: measure where a brand needs one to the digit.

## Remix

- One change a call is safest: `Make it night; keep the composition and the colours of the coat.`
- Several sources each have a part: `The person of image 1 sits in the room of image 2, in the style of image 3.`
- To take something away, say what is there instead: `Replace the sign with a bare brick wall.`

## Transparent, larger

Both are arguments of the tool `generate`, and each is one more paid task, which the quote names:

- A logo with a transparent ground: `{{"prompt": "A flat fox logo in #E4572E (orange), bold simple shapes, alone on a plain white ground", "background": "transparent", "save_to": "logo.png"}}`. The file ends in .png or .webp.
- A picture that is there, larger: `{{"source_images": ["hero.png"], "upscale": 4, "save_to": "hero-4x.png"}}`. Without a prompt
  nothing is painted anew: one source is cut out, enlarged, or both.
- Hair, glass, smoke and a subject that the frame cuts off are hard to cut out: ask for clear edges and room on all sides.
- Cut out first, then look, then enlarge: the same call with `upscale` added would paint another picture, so give the result as
  `task:ID` and no prompt.

An application calls the services themselves: {uris.API}.

## Ratios

{_table(("`aspect_ratio`", "for"), [(f"`{ratio}`", use) for ratio, use in RATIOS.items()])}

Describe a scene that fits the ratio: a wide one has room at the sides, an upright one above and below.

## Variants

{_table(("variant", "for"), variants)}

## Sources

Black Forest Labs' own guides, read on 2026-11-28. Ours are the uses of 3:4 and 2:3, series, HTML over an image, measuring
colours, and what is transparent or larger.

{_table(("guide", "what of it"), SOURCES)}
"""


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
