"""flux2.toml as it is read: what it means, and what is refused with its line and column."""

from __future__ import annotations

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.domain.manifest import digests, reading
from flux2_mcp.domain.manifest.entries import Entry, Manifest, quoted
from flux2_mcp.domain.toml_places import Place, places
from flux2_mcp.errors import ManifestError
from tests.support.rows import rows

PROJECT = """\
# The pictures of the site.
[style]
prompt = "flat illustration, palette #0B1020"
sources = ["brand/mascot.png"]

[images."public/hero.png"]
prompt = "a lighthouse at dusk"
variant = "pro"
aspect_ratio = "16:9"
widths = [640, 1280]
formats = ["avif", "webp"]

[images."public/icon.png"]
prompt = "a lighthouse, app icon"
style = false
icons = true

[images."public/team-night.png"]
sources = ["photos/team.jpg", "https://example.com/night.png"]
prompt = "make it night."
"""


def read(text: str, derive: reading.Derive = reading.nothing) -> Manifest:
    return reading.read(text.encode(), derive=derive)


def copies(entry: Entry) -> list[str]:
    stem = entry.path.rpartition(".")[0]
    return [f"{stem}-{width}.webp" for width in entry.widths]


def refused(text: str | bytes, derive: reading.Derive = copies) -> list[str]:
    with pytest.raises(ManifestError) as found:
        reading.read(text.encode() if isinstance(text, str) else text, derive=derive)
    assert found.value.cost == "Nothing was sent and nothing was charged."
    return [f"{problem.field}: {problem.text}" for problem in found.value.problems]


def test_an_entry_is_a_call_of_generate_with_the_style_in_its_prompt_and_sources() -> None:
    made = read(PROJECT)
    hero, icon, night = (made.request(entry) for entry in made.entries.values())
    assert hero.prompt == "a lighthouse at dusk. flat illustration, palette #0B1020"
    assert (hero.variant, hero.aspect_ratio, hero.source_images) == ("pro", "16:9", ("brand/mascot.png",))
    assert (icon.prompt, icon.source_images, icon.aspect_ratio) == ("a lighthouse, app icon", None, None)
    assert night.prompt == "make it night. flat illustration, palette #0B1020"
    assert night.source_images == ("photos/team.jpg", "https://example.com/night.png", "brand/mascot.png")


def test_the_mascot_of_the_style_does_not_decide_about_the_shape() -> None:
    made = read(
        '[style]\nsources = ["a.png"]\n[images."x.png"]\nprompt = "a fox"\n[images."y.png"]\nsources=["b.png"]\nprompt = "a fox"'
    )
    assert [made.request(entry).aspect_ratio for entry in made.entries.values()] == ["1:1", None]


HOSTILE = [
    ('[images."a.png"]\nprompt = "x', "flux2.toml:2:12", "is no TOML"),
    ('[images."a.png"]\nprompt = "fox"\n[images."a.png"]', "flux2.toml:3:16", "is no TOML"),
    ("style = 3", "flux2.toml:1:9 style", "needs a table; got a whole number, 3"),
    ('[stile]\nprompt = "x"', "flux2.toml:1:2 stile", "is no key here (did you mean style?); allowed: style, images."),
    ('[images."a.png"]\n  widht = [1]\nprompt = "fox"', 'flux2.toml:2:3 images."a.png".widht', "is no key here (did you mean widths?)"),
    ('images = { "a.png" = { promt = "fox" } }', 'flux2.toml:1:24 images."a.png".promt', "did you mean prompt?"),
    ('[images."a.png"]\nprompt = 3', 'flux2.toml:2:10 images."a.png".prompt', "needs a string; got a whole number, 3."),
    ('[images."a.png"]\nprompt = "fox"\nicons = "yes"', 'flux2.toml:3:9 images."a.png".icons', "needs true or false; got a string, 'yes'."),
    ('[images."a.png"]\nprompt = "fox"\nupscale = true', 'flux2.toml:3:11 images."a.png".upscale', "needs a whole number; got true."),
    ('[images."a.png"]\nprompt = "fox"\nwidths = [\n  640,\n  "a" ]', 'flux2.toml:5:3 images."a.png".widths[1]', "needs a list of whole numbers; got a string"),
    ('[images]\n"a.png" = "fox"', 'flux2.toml:2:1 images."a.png"', "needs a table"),
    ('[images."../a.png"]\nprompt = "fox"', 'flux2.toml:1:9 images."../a.png"', "must stay below the project's folder"),
    ('[images."/etc/a.png"]\nprompt = "fox"', 'flux2.toml:1:9 images."/etc/a.png"', "must be a path in the project"),
    ('[images."C:\\\\a.png"]\nprompt = "fox"', "flux2.toml:1:9", "holds a character that not every system allows"),
    ('[images."a/./b.png"]\nprompt = "fox"', "flux2.toml:1:9", "has a part '.'"),
    ('[images."nul.png"]\nprompt = "fox"', "flux2.toml:1:9", "Windows keeps for devices"),
    ('[images.".git/a.png"]\nprompt = "fox"', "flux2.toml:1:9", "leads into .git"),
    ('[images."a.gif"]\nprompt = "fox"', "flux2.toml:1:9", "is no picture's name; a picture is saved as .png, .jpg"),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["b.png", "../../b.png"]', 'flux2.toml:3:21 images."a.png".sources[1]', "must stay below"),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["task:17"]', "flux2.toml:3:12", "must be a file in the project or an https URL"),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["http://example.com/b.png"]', "flux2.toml:3:12", "or an https URL"),
    ('[images."a.png"]\nprompt = "fox"\n[images."A.PNG"]\nprompt = "fox"', 'flux2.toml:3:9 images."A.PNG"', "writes A.PNG, and so does a.png (flux2.toml:1:9, a.png)"),
    ('[images."a.png"]\nprompt = "fox"\nwidths = [64]\n[images."a-64.webp"]\nprompt = "fox"', "flux2.toml:4:9", "writes a-64.webp, and so does a.png"),
    ('[images."a.png"]\nprompt = "fox"\n[images."a.png/b.png"]\nprompt = "fox"', "flux2.toml:1:9", "would be a file and a folder"),
    ('[images."a.png"]\nprompt = "fox"\nwidths = [640, 4000]', 'flux2.toml:3:16 images."a.png".widths[1]', "is 4,000, and the original will be about 1,024 pixels wide"),
    ('[images."a.png"]\nprompt = "fox"\nwidths = [640, 640]', "flux2.toml:3:16", "stands twice: 640."),
    ('[images."a.png"]\nprompt = "fox"\nwidths = [0]', "flux2.toml:3:11", "allowed: 1 to 16,383 pixels"),
    ('[images."a.png"]\nprompt = "fox"\nformats = ["webb"]', "flux2.toml:3:12", "(did you mean webp?); allowed: avif, webp, png, jpeg."),
    ('[images."a.png"]\nprompt = "fox"\nvariant = "prp"', 'flux2.toml:3:11 images."a.png".variant', "(did you mean pro?)"),
    ('[images."a.png"]\nprompt = "fox"\naspect_ratio = "5:4"', "flux2.toml:3:16", "allowed: 1:1"),
    ('[images."a.png"]\nprompt = "x"', "flux2.toml:2:10", "got 1 characters; pro allows 3 to 5000."),
    ('[style]\nprompt = "flat"\n[images."a.png"]\nprompt = """' + "x" * 4999 + '"""', "flux2.toml:4:10", "with the prompt of [style], got 5005 characters"),
    ('[images."a.png"]', 'flux2.toml:1:9 images."a.png".prompt', "needs it"),
    ('[images."a.jpg"]\nprompt = "fox"\nbackground = "transparent"', "flux2.toml:3:14", "a JPEG has no transparent ground"),
    ('[style]\nprompt = " "', "flux2.toml:2:10 style.prompt", "is empty"),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["a.png"]', 'flux2.toml:3:1 images."a.png".sources', "go in a circle: a.png needs a.png."),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["b.png"]\n[images."b.png"]\nprompt = "fox"\nsources = ["a.png"]', "flux2.toml:6:1", "go in a circle: a.png needs b.png needs a.png."),
    ('[images."a.png"]\nprompt = "fox"\nsources = ["b-64.webp"]\n[images."b.png"]\nprompt = "fox"\nsources = ["a.png"]\nwidths = [64]', "flux2.toml:6:1", "go in a circle"),
    ("a = " + "[" * 5000 + "]" * 5000, "flux2.toml:1:1", "stand in each other too deeply"),
    ("a = " + "1" * 5000, "flux2.toml:1:1", "limit"),
    ("#" + ".a" * 40 + "\na" + ".a" * 300_000 + " = 1", "flux2.toml:2:64", "is in a key of more than 32 parts."),
    ("x = '''\n'''\n[" + ' "a".' * 100_000 + " b]", "flux2.toml:3:161", "is in a key of more than 32 parts."),
    ("\n".join(f'[images."{n}.png"]\nprompt = "fox"\nsources = ["{(n + 1) % 900}.png"]' for n in range(900)), "flux2.toml:2700:1",
     "go in a circle: 0.png needs 1.png needs 2.png needs 3.png needs 4.png needs 5.png needs 894 others needs 0.png."),
]  # fmt: skip


@rows(("text", "place", "why"), HOSTILE, ids=[why for _, _, why in HOSTILE])
def test_what_is_wrong_is_named_with_its_line_and_column(text: str, place: str, why: str) -> None:
    [first, *_] = refused(text)
    assert first.startswith(place)
    assert why in first


def test_too_much_is_refused_before_it_is_looked_at() -> None:
    many = "\n".join(f'[images."{n}.png"]\nprompt = "fox"' for n in range(10_000))
    [first] = refused(many)
    assert first == 'flux2.toml:2001:9 images."1000.png": is number 1001 of 10,000; at most 1,000 are read.'
    [large] = refused('[images."a.png"]\nprompt = "' + "x" * 5_000_000 + '"')
    assert large == "flux2.toml:1:1: has 5,000,028 bytes; at most 1,000,000 are read."
    assert refused(b'[style]\nprompt = "\xff"') == ["flux2.toml:2:11: is not UTF-8; save the file as UTF-8."]


def test_a_text_with_nothing_but_wrong_keys_or_widths_is_not_looked_at_to_its_end() -> None:
    assert len(refused("\n".join(f"key{n} = 1" for n in range(10_000)))) == 200
    many = refused('[images."a.png"]\nprompt = "fox"\nwidths = [' + "64, " * 20_000 + "]")
    assert len(many) == 32
    assert "at most 32 copies of one picture" in many[-1]


def test_dots_in_texts_are_no_parts_of_a_key() -> None:
    dots = "a." * 100
    made = read(
        f'[images."a.png"]\nprompt = """{dots}\n{dots}"""  # {dots}\n[images."{"b." * 40}png"]\nprompt = \'{dots}\''
    )
    assert len(made.entries) == 2


def test_all_that_is_wrong_is_named_at_once_in_the_order_of_the_text() -> None:
    text = '[images."a.gif"]\nprompt = 3\nwidths = [0]\n[stile]'
    assert [line.split(" ")[0] for line in refused(text)] == [
        "flux2.toml:1:9", "flux2.toml:2:10", "flux2.toml:3:11", "flux2.toml:4:2",
    ]  # fmt: skip


def test_a_file_of_windows_with_a_byte_order_mark_reads_the_same() -> None:
    windows = b"\xef\xbb\xbf" + PROJECT.replace("\n", "\r\n").encode()
    assert reading.read(windows).entries == read(PROJECT).entries


def request(text: str, path: str = "a.png", **contents: str) -> str:
    made = read(text)
    found = {source: contents.get(source[0], source) for source in made.sources(made.entries[path])}
    return digests.request(digests.parts(made, made.entries[path], found))


def test_a_request_is_the_same_in_any_order_and_with_what_would_be_without_saying() -> None:
    one = '[images."a.png"]\nprompt = "fox"\nupscale = 2\nbackground = "transparent"'
    for same in (
        '[images."a.png"]\nbackground = "transparent"\nupscale = 2\nprompt = "fox"',
        '[images."a.png"]\r\nprompt = "fox"\r\nupscale = 2\r\nbackground = "transparent"\r\n',
        one + '\nvariant = "pro"\naspect_ratio = "1:1"\noutput_resolution = "1k"',
        one + '\nvariant = "flux-2-pro-text-to-image"\nwidths = [64]\nicons = true',
        '[images."b.png"]\nprompt="dog"\n' + one,
    ):
        assert request(same) == request(one)
    # Pinned: a lock that was written on another machine, by another version, must fit.
    assert request(one) == "9316aa5661ba7fcf6e7734e1e60caff23f7bd486afc2d53487ce13ed93b33092"


def test_another_prompt_style_source_or_setting_is_another_request() -> None:
    style = '[style]\nprompt = "flat"\nsources = ["s.png"]\n'
    entry = '[images."a.png"]\nprompt = "fox"\nsources = ["b.png"]\n'
    different = {
        request(style + entry, s="1", b="1"),
        request(style + entry, s="2", b="1"),
        request(style + entry, s="1", b="2"),
        request(style.replace("flat", "bold") + entry, s="1", b="1"),
        request(style + entry.replace("fox", "dog"), s="1", b="1"),
        request(style + entry + 'variant = "flex"', s="1", b="1"),
        request(style + entry + "style = false", s="1", b="1"),
    }
    assert len(different) == 7
    moved = entry.replace("b.png", "bbb/other.png")
    assert request(style + moved, s="1", b="1") == request(style + entry, s="1", b="1")


def test_every_key_of_a_text_has_its_place() -> None:
    text = 'a.b = 1 # c\n[t."x y"]\nk = [ 1, """\n"#]""", { in = \'"\' } ]\n[[l]]\nn = 1\n[[l]]\nn = 1979-05-27 07:32:00\nm = 2'
    found = places(text)
    assert {path: str(place) for path, place in found.keys.items()} == {
        ("a",): "1:1", ("a", "b"): "1:3", ("t",): "2:2", ("t", "x y"): "2:4", ("t", "x y", "k"): "3:1",
        ("t", "x y", "k", 2, "in"): "4:11", ("l",): "5:3", ("l", 0): "5:3", ("l", 0, "n"): "6:1",
        ("l", 1): "5:3", ("l", 1, "n"): "8:1", ("l", 1, "m"): "9:1",
    }  # fmt: skip
    assert found.values["t", "x y", "k", 1] == Place(3, 10)


KEYS = st.text(st.characters(codec="utf-8"), min_size=0, max_size=6)
VALUES = st.recursive(
    st.integers(-9, 9).map(str) | KEYS.map(quoted) | st.sampled_from(["'''\n#'''", '"""a""""', "1e3", "1979-05-27 07:32:00"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[ " + ",\n # x\n".join(items) + " ]")
    | st.dictionaries(KEYS, inner, max_size=3).map(lambda held: "{ " + ", ".join(f"{quoted(k)} = {v}" for k, v in held.items()) + " }"),
    max_leaves=6,
)  # fmt: skip


def paths_of(value: object, above: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {above}.union(*(paths_of(each, (*above, key)) for key, each in pairs))


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_the_places_are_those_of_what_tomllib_reads(tables: dict[str, dict[str, str]]) -> None:
    text = "\n".join(
        f"[{quoted(name)}] # t\n" + "\n".join(f"{quoted(key)} = {value}" for key, value in pairs.items())
        for name, pairs in tables.items()
    )
    held = tomllib.loads(text)
    found = places(text)
    assert found.keys.keys() | found.values.keys() | {()} == paths_of(held)
    lines = text.split("\n")
    for path, place in found.keys.items():
        assert lines[place.line - 1][place.column - 1 :].startswith(quoted(str(path[-1])))


def test_a_thousand_entries_are_read_in_no_time() -> None:
    """Not a bound on a time: what grows with the square of the entries takes minutes here."""
    text = "\n".join(f'[images."{n}.png"]\nprompt = "fox {n}"\nwidths = [64, 128]' for n in range(1000))
    began = time.process_time()
    assert len(read(text, derive=copies).outputs) == 3000
    assert time.process_time() - began < 30
