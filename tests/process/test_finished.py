"""A logo with a transparent ground and a hero twice as large: over stdio and by the command line.

Each is asked of the sandbox, and of an API that knows only the contract.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux2_mcp.domain import catalog
from tests.support import forked
from tests.support.contract_api import KEY, contract_api
from tests.support.stdio import DEADLINE, LEGACY, MODERN, Host

MODELS = list(catalog.all_models())
CUT, LARGER = "recraft-remove-background", "topaz-upscale-image"


DEEP = pytest.mark.deep


@pytest.fixture
def env(request: pytest.FixtureRequest, clean_env: dict[str, str]) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        if request.param == "sandbox":
            yield clean_env | {"FLUX2_MODE": "sandbox", "FLUX2_SANDBOX_SPEED": "100"}
            return
        api = stack.enter_context(contract_api())
        yield clean_env | {"RUNAPI_BASE_URL": api.url, "RUNAPI_API_KEY": KEY}


def looked_at(path: Path) -> tuple[str, tuple[int, int], bool]:
    """Its mode, its size, and whether it is transparent in a corner and not in the middle."""
    with Image.open(path) as picture:
        width, height = picture.size
        if picture.mode != "RGBA":
            return picture.mode, picture.size, False
        corner, middle = (picture.getpixel(at) for at in ((1, 1), (width // 2, height // 2)))
        assert isinstance(corner, tuple)
        assert isinstance(middle, tuple)
        return picture.mode, picture.size, corner[3] == 0 and middle[3] == 255


def steps(task: dict[str, Any]) -> list[str]:
    return [step["model"] for step in task.get("steps") or ()] + [task["model"]]


@pytest.mark.parametrize(
    ("env", "era"),
    [
        ("sandbox", LEGACY),
        pytest.param("sandbox", MODERN, marks=DEEP),
        pytest.param("contract", LEGACY, marks=DEEP),
        pytest.param("contract", MODERN, marks=DEEP),
    ],
    indirect=["env"],
)
def test_over_stdio(env: dict[str, str], tmp_path: Path, era: str) -> None:
    with Host(env, era, cwd=str(tmp_path)) as host:
        cut = {"background": "transparent", "save_to": "logo.png"}
        # Nobody publishes the price of the second step.
        logo = host.call("generate", prompt="a flat fox logo on white", max_cost_usd=0.5, **cut)["structuredContent"]
        (task,) = logo["tasks"]
        assert (logo["status"], steps(task)) == ("completed", ["flux-2-pro-text-to-image", CUT])
        (image,) = task["images"]
        assert image["matches_request"]
        assert 0.05 < image["transparent_share"] < 0.95
        host.call("generate", prompt="a lighthouse at dusk", aspect_ratio="16:9", save_to="hero.png")
        hero = host.call("generate", source_images=["hero.png"], upscale=2, save_to="hero-large.png", max_cost_usd=0.5)
        assert hero["structuredContent"]["tasks"][0]["images"][0]["matches_request"]
    assert looked_at(tmp_path / "logo.png") == ("RGBA", (1024, 1024), True)
    _, size, _ = looked_at(tmp_path / "hero.png")
    assert looked_at(tmp_path / "hero-large.png")[1] == (2 * size[0], 2 * size[1])


@pytest.mark.parametrize("env", [pytest.param("sandbox", marks=DEEP), "contract"], indirect=True)
def test_by_the_command_line(env: dict[str, str], tmp_path: Path) -> None:
    def generate(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "flux2_mcp", "generate", *arguments, "--yes", "--json"]
        done = forked.run(command, env, cwd=tmp_path, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    logo = generate("a flat fox logo on white", "--background", "transparent", "--save-to", "logo.png")
    assert steps(logo["tasks"][0]) == ["flux-2-pro-text-to-image", CUT]
    assert looked_at(tmp_path / "logo.png") == ("RGBA", (1024, 1024), True)
    hero = generate("--source", "logo.png", "--upscale", "2", "--save-to", "hero.png")
    assert steps(hero["tasks"][0]) == [LARGER]
    assert looked_at(tmp_path / "hero.png") == ("RGBA", (2048, 2048), True)


def test_the_command_line_says_what_a_broken_off_call_has_made_and_what_steps_cost(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    with contract_api() as api:
        api.failing.add(CUT)
        api.schedules[LARGER] = 4
        env = clean_env | {"RUNAPI_BASE_URL": api.url, "RUNAPI_API_KEY": KEY}

        def said(*arguments: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "flux2_mcp", *arguments]
            done = forked.run(command, env, cwd=tmp_path, timeout=DEADLINE)
            return done.returncode, done.stdout

        code, out = said("generate", "a flat fox logo", "--background", "transparent", "--yes", "--no-picture")
        assert code == 7
        kept = next(line for line in out.splitlines() if "after flux-2-pro-text-to-image, completed" in line)
        assert Path(kept.partition(": ")[2]).is_file()
        assert "Run this again with the same arguments" in out
        code, out = said("pricing")
        rows = [line.split() for line in out.splitlines()]
        assert code == 0
        assert ["then", "--background", "any", "unknown", "not", "published"] in rows
        assert ["then", "--upscale", "any", "$0.04", "live"] in rows
