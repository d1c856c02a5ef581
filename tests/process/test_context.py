"""Documents, prompts and completion over real stdio, in both eras."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flux2_mcp.server.docs import index, uris
from tests.support.stdio import LEGACY, MODERN, Host


@pytest.mark.parametrize("era", [MODERN, pytest.param(LEGACY, marks=pytest.mark.deep)])
def test_an_agent_that_builds_on_the_api_finds_all_it_needs(
    era: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Host(clean_env, era, cwd=str(tmp_path)) as host:
        listed = host.request("resources/list")["resources"]
        read = {
            one["uri"]: host.request("resources/read", {"uri": one["uri"]})["contents"]
            for one in listed
            if one["uri"].startswith(uris.DOCS)
        }
        names = [prompt["name"] for prompt in host.request("prompts/list")["prompts"]]
        prompt = host.request("prompts/get", {"name": "add_to_app", "arguments": {"language": "ruby"}})
        refused = host.answer("prompts/get", {"name": "generate", "arguments": {}})["error"]
        wrong = host.answer("prompts/get", {"name": "generate", "arguments": {"prompt": 7}})["error"]
        completed = host.request(
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "remix"},
                "argument": {"name": "aspect_ratio", "value": "au"},
                "context": {"arguments": {"variant": "flex"}},
            },
        )
        errors = host.close()
    written = [document for document in index.documents().values() if document.listed]
    assert read == {one.uri: [{"uri": one.uri, "mimeType": one.mime_type, "text": one.text()}] for one in written}
    assert names == ["generate", "remix", "compare_variants", "add_to_app"]
    kinds = [message["content"]["type"] for message in prompt["messages"]]
    assert kinds == ["text", "resource", "resource", "resource", "resource"]
    assert (refused["code"], refused["message"]) == (-32602, "prompt: is needed.")
    assert wrong["code"] == -32602
    assert "pydantic" not in json.dumps(wrong)
    assert completed["completion"] == {"values": ["auto"], "total": 1, "hasMore": False}
    assert (host.process.returncode, errors) == (0, "")
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)
    # Nothing of this needs a task, so nothing was written down.
    assert not (Path(clean_env["FLUX2_HOME"]) / "images").exists()
