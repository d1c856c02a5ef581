"""Pictures inline: which terminals get them, and the bytes they get, read back as the protocols say."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from flux2_mcp.cli import task_output, terminal_images
from flux2_mcp.cli.task_output import WaitLine
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.waiting import Progress
from tests.support.rows import rows

KITTY = re.compile(r"\x1b_G(?P<keys>[^;\x1b]*);(?P<data>[A-Za-z0-9+/=]*)\x1b\\")
ITERM2 = re.compile(r"\x1b\]1337;File=(?P<keys>[^:\x07]*):(?P<data>[A-Za-z0-9+/=]+)\x07")


def keys(text: str, separator: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(separator))


@rows(
    ("env", "takes"),
    [
        ({}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM_PROGRAM": "mintty"}, "iterm2"),
        ({"WEZTERM_PANE": "0"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-kitty", "TERM_PROGRAM": "iTerm.app"}, "kitty"),  # started from the other
        ({"TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),  # noqa: S108  # no file
        ({"TERM": "screen", "STY": "1.pts", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({"KITTY_WINDOW_ID": "", "WEZTERM_PANE": ""}, None),
    ],
)
def test_only_a_terminal_that_is_known_to_show_pictures_gets_one(env: dict[str, str], takes: str | None) -> None:
    assert terminal_images.protocol(env) == takes
    assert (terminal_images.drawer(env) is None) == (takes is None)


@given(st.binary(min_size=1, max_size=20_000))
@example(bytes(range(256)) * 40)
@example(b"x" * 3072)
def test_kitty_gets_a_png_in_messages_of_at_most_4096_characters(png: bytes) -> None:
    sent = terminal_images.kitty(png)
    messages = list(KITTY.finditer(sent))
    assert "".join(message[0] for message in messages) == sent
    assert b64decode("".join(message["data"] for message in messages)) == png
    first, *rest = [keys(message["keys"], ",") for message in messages]
    assert {name: value for name, value in first.items() if name != "m"} == {"a": "T", "f": "100", "q": "2"}
    assert [each["m"] for each in (first, *rest)] == ["1"] * len(rest) + ["0"]
    assert all(list(each) == ["m"] for each in rest)
    assert all(len(message["data"]) <= 4096 for message in messages)
    assert all(len(message["data"]) % 4 == 0 for message in messages[:-1])


@given(st.binary(min_size=1, max_size=20_000))
def test_iterm2_gets_the_image_as_it_is_with_its_size_in_bytes(image: bytes) -> None:
    found = ITERM2.fullmatch(terminal_images.iterm2(image))
    assert found
    assert b64decode(found["data"]) == image
    assert keys(found["keys"], ";") == {
        "inline": "1", "size": str(len(image)), "width": "48", "height": "18", "preserveAspectRatio": "1",
    }  # fmt: skip


@rows(
    ("size", "cell", "pixels"),
    [
        ((1280, 720), (9, 19), 432),  # as wide as allowed
        ((720, 1280), (9, 19), 342),  # as high as allowed
        ((1024, 1024), (9, 19), 342),
        ((720, 1280), (18, 38), 684),  # twice the density, the same on screen
        ((200, 100), (9, 19), 200),  # never enlarged
        ((2, 2000), (1, 1), 18),
    ],
)
def test_a_picture_fits_a_part_of_the_screen(size: tuple[int, int], cell: tuple[int, int], pixels: int) -> None:
    assert terminal_images.longest(*size, cell) == pixels


def test_what_is_drawn_is_the_picture_and_a_file_that_has_gone_is_none(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (1280, 720), (200, 30, 40)).save(path)
    for env, pattern, kind in (
        ({"TERM": "xterm-kitty"}, KITTY, "PNG"),
        ({"TERM_PROGRAM": "iTerm.app"}, ITERM2, "JPEG"),
    ):
        draw = terminal_images.drawer(env)
        assert draw is not None
        drawn = draw(path, 1280, 720)
        assert drawn
        data = "".join(found["data"] for found in pattern.finditer(drawn))
        with Image.open(io.BytesIO(b64decode(data))) as picture:
            assert picture.format == kind
            assert picture.width * 9 == pytest.approx(picture.height * 16, abs=16)
            red, green, blue = picture.convert("RGB").getpixel((5, 5))  # type: ignore[misc]  # a pixel of RGB
            assert max(abs(red - 200), abs(green - 30), abs(blue - 40)) < 6
        assert draw(tmp_path / "gone.png", 1280, 720) is None


# --- the bar of a wait ---


def test_the_bar_grows_with_the_wait_and_never_goes_back() -> None:
    line = WaitLine()
    told = [(0.0, None), (2.0, 8.0), (3.0, 27.0), (10.0, 10.0)]
    shown = [line(Progress(elapsed=elapsed, remaining=left, states=(State.PROCESSING,))) for elapsed, left in told]
    assert shown == [
        "processing, 0 s",
        f"{task_output.bar(0.2)}  processing, 2 s, about 8 s left",
        f"{task_output.bar(0.2)}  processing, 3 s, about 27 s left",
        f"{task_output.bar(0.5)}  processing, 10 s, about 10 s left",
    ]


def test_a_bar_is_drawn_with_what_the_terminal_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, wanted in (("utf-8", "━" * 5 + "─" * 15), ("latin-1", "#" * 5 + "." * 15)):
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert task_output.bar(0.25) == wanted
    assert (task_output.bar(0), task_output.bar(1)) == ("." * 20, "#" * 20)
