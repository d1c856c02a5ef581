"""Whole turns in the real clients, with a scripted model: what it gets to see of a picture that it has asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.images.preview import MAX_SIDE_PX, MIME_TYPES
from flux2_mcp.server.clients import client as row
from tests.real_hosts.clients import client, environment
from tests.real_hosts.model import CLAUDE_TOOL, URL, Model, Seen, scripted
from tests.real_hosts.test_real_hosts import flux2

PROMPT = "a red fox in snow"
TRIES = 2
"""A busy machine can miss a first turn: the client is then still waiting for its servers."""
CODEX_PROVIDER = f'{{name="stub", base_url="{URL}/v1", wire_api="responses", env_key="STUB_KEY"}}'

Turn = Callable[[Model, dict[str, str], Path], str]


def claude(model: Model, env: dict[str, str], cwd: Path) -> str:
    settings = json.dumps({"env": {"ANTHROPIC_BASE_URL": URL}})
    arguments = ("-p", "draw a fox", "--settings", settings, "--allowedTools", CLAUDE_TOOL)
    env |= {"ANTHROPIC_API_KEY": "dummy", "ENABLE_TOOL_SEARCH": "false"}
    done = client("claude", *arguments, env=env, cwd=cwd, before=model.before, fds=[model.hand_over.fileno()])
    return done.stdout + done.stderr


def codex(model: Model, env: dict[str, str], cwd: Path) -> str:
    set_to = {
        "model_provider": "stub",
        "model_providers.stub": CODEX_PROVIDER,
        "mcp_servers.flux-2.default_tools_approval_mode": "approve",  # nobody is there to ask
    }
    options = [word for name, value in set_to.items() for word in ("-c", f"{name}={value}")]
    arguments = ("exec", "--skip-git-repo-check", *options, "draw a fox")
    env |= {"STUB_KEY": "dummy"}
    done = client("codex", *arguments, env=env, cwd=cwd, before=model.before, fds=[model.hand_over.fileno()])
    return done.stdout + done.stderr


def seen(turn: Turn, env: dict[str, str], cwd: Path) -> Seen:
    """What the model is told, in a turn of a client."""
    tries = []
    for _ in range(TRIES):
        with scripted(PROMPT) as model:
            said = turn(model, dict(env), cwd)
        if model.told and model.told[-1].pictures:
            return model.told[-1]
        tries.append(f"{said}\nThe model was told: {[each.texts for each in model.told]}")
    pytest.fail("\n\n".join(tries))


@pytest.mark.parametrize(("name", "turn"), [("claude-code", claude), ("codex", codex)])
def test_in_a_whole_turn_path_price_status_and_picture_reach_the_model(name: str, turn: Turn, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".codex").mkdir(parents=True)
    kept = tmp_path / "kept"
    env = environment(home, FLUX2_HOME=str(kept), FLUX2_SANDBOX_SPEED="1000", FLUX2_MODE="sandbox")
    flux2(env, home, "install", name)
    told = seen(turn, env, home)
    text = "\n".join(told.texts)
    [path] = (kept / "images").iterdir()
    assert f'"path":{json.dumps(str(path))}' in text  # a link to it alone would be dropped by others
    assert '"status":"completed"' in text
    assert '"quoted_usd":0.05,"charged_usd":0.05' in text
    assert '"sandbox":true' in text
    [(kind, data)] = told.pictures
    wanted = row(name).preview
    assert wanted is not None
    with Image.open(io.BytesIO(data)) as picture, Image.open(path) as whole:
        assert (kind, picture.format) == (MIME_TYPES[wanted], wanted)
        assert picture.size == (MAX_SIDE_PX, MAX_SIDE_PX)
        small = whole.convert("RGB").resize((8, 8), Image.Resampling.BOX).tobytes()
        shown = picture.convert("RGB").resize((8, 8), Image.Resampling.BOX).tobytes()
    assert max(abs(a - b) for a, b in zip(small, shown, strict=True)) < 24  # the same picture, give or take compression
