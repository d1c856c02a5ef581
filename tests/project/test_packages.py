"""The packages for agent hosts are what the code would write today, and say nothing that isn't so yet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flux2_mcp import settings
from flux2_mcp.domain import catalog
from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.server.docs import index, uris
from packages import facts
from packages.__main__ import files, write
from packages.manifests import AGENT_PLUGIN, PLUGIN

ROOT = facts.ROOT
SKILL = ROOT / PLUGIN / "skills/flux-2"
FROM_THE_INDEX = re.compile(r"(?:uvx|pipx? install|pipx run|uv tool install|uv tool run) flux2-mcp|\"uvx\"|pypi")


def held(path: str) -> Any:  # noqa: ANN401  # JSON
    return json.loads((ROOT / path).read_text("utf-8"))


def front(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8").split("---\n")[1])
    return found


# --- drift ------------------------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_make_packages_would_write(tmp_path: Path) -> None:
    for path in write(tmp_path):
        assert (ROOT / path).read_text("utf-8") == (tmp_path / path).read_text("utf-8"), f"{path}: run make packages"


def test_nothing_stands_in_the_plugins_folder_that_make_packages_did_not_write() -> None:
    for folder in (PLUGIN, AGENT_PLUGIN):
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert there == {path for path in files() if path.startswith(f"{folder}/")}


def test_what_changed_is_written_what_is_stale_goes_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    everything = write(tmp_path)
    assert set(everything) == set(files())
    assert write(tmp_path) == []
    (tmp_path / "manifest.json").write_text("{}")
    stale, other = tmp_path / PLUGIN / "commands/old.md", tmp_path / "install/mine.txt"
    stale.touch()
    other.touch()
    assert write(tmp_path) == [f"{PLUGIN}/commands/old.md", "manifest.json"]
    assert (stale.exists(), other.exists()) == (False, True)


# --- the release ------------------------------------------------------------------------------------------------------


def test_before_the_release_nothing_assumes_that_an_index_has_the_package() -> None:
    assert [path for path, text in files(published=False).items() if FROM_THE_INDEX.search(text)] == []
    assert not FROM_THE_INDEX.search((ROOT / "README.md").read_text("utf-8"))


def test_one_constant_turns_all_of_it_to_the_plain_name() -> None:
    released = files(published=True)
    plugins = [
        f"{PLUGIN}/{name}" for name in ("claude.mcp.json", "codex.mcp.json", "cursor.mcp.json", "gemini-extension.json")
    ]
    for path in (*plugins, f"{AGENT_PLUGIN}/mcp.json"):
        server = json.loads(released[path])["mcpServers"]["flux-2"]
        assert (server["command"], server["args"]) == ("uvx", ["flux2-mcp"]), path
    [package] = json.loads(released["install/server.json"])["packages"]
    assert (package["registryType"], package["identifier"], package["version"]) == (
        "pypi", "flux2-mcp", facts.project()["version"],
    )  # fmt: skip
    assert "PUBLISHED='yes'" in released["install/install.sh"]
    assert "$PUBLISHED = 'yes'" in released["install/install.ps1"]
    assert "install.sh" not in "".join(text for path, text in released.items() if path.startswith(f"{PLUGIN}/"))


# --- what the manifests say -------------------------------------------------------------------------------------------


def test_every_manifest_tells_the_packages_version() -> None:
    versions = {path: json.loads(text).get("version") for path, text in files().items() if path.endswith(".json")}
    told = {path: version for path, version in versions.items() if version is not None}
    assert len(told) >= 6
    assert set(told.values()) == {facts.project()["version"]}


def test_the_bundle_names_an_entry_that_is_there_and_hands_the_key_over_only_by_reference() -> None:
    bundle = held("manifest.json")
    assert (ROOT / bundle["server"]["entry_point"]).is_file()
    assert bundle["server"]["mcp_config"]["env"] == {"RUNAPI_API_KEY": "${user_config.api_key}"}
    assert bundle["user_config"]["api_key"]["sensitive"] is True


def test_codex_lets_every_variable_through_that_the_server_reads() -> None:
    source = Path(settings.__file__).read_text("utf-8")
    read = set(re.findall(r'"((?:FLUX2|RUNAPI)_[A-Z_0-9]+)"', source))
    read -= {each.name for each in VARIABLES if each.team}  # of a server that no host starts
    assert read <= set(held(f"{PLUGIN}/codex.mcp.json")["mcpServers"]["flux-2"]["env_vars"])


def test_no_host_gives_up_before_the_longest_wait_is_over() -> None:
    for path, key, unit in (
        ("claude.mcp.json", "timeout", 1000), ("gemini-extension.json", "timeout", 1000), ("codex.mcp.json", "tool_timeout_sec", 1),
    ):  # fmt: skip
        assert held(f"{PLUGIN}/{path}")["mcpServers"]["flux-2"][key] / unit > settings.MAX_WAIT_SECONDS


def test_every_marketplace_leads_to_the_plugin() -> None:
    claude, cursor = held(".claude-plugin/marketplace.json"), held(".cursor-plugin/marketplace.json")
    codex = held(".agents/plugins/marketplace.json")
    for market, source in (
        (claude, claude["plugins"][0]["source"]),
        (cursor, cursor["plugins"][0]["source"]),
        (codex, codex["plugins"][0]["source"]["path"]),
    ):
        assert market["name"] == "flux2-mcp"
        assert market["plugins"][0]["name"] == held(f"{PLUGIN}/.claude-plugin/plugin.json")["name"]
        assert (ROOT / source) == ROOT / PLUGIN


def test_the_mcp_registry_gets_a_name_and_a_description_that_it_takes() -> None:
    entry = held("install/server.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert f"<!-- mcp-name: {entry['name']} -->" in (ROOT / "README.md").read_text("utf-8")


# --- the skill and the commands ---------------------------------------------------------------------------------------


def test_the_skills_name_and_description_are_within_the_limits() -> None:
    head = front(SKILL / "SKILL.md")
    assert head["name"] == SKILL.name
    assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", head["name"])
    assert len(head["name"]) <= 64
    assert 1 <= len(head["description"]) <= 1024


def test_the_skill_holds_every_document_and_the_schema_of_every_model() -> None:
    beside = {path.name for path in (SKILL / "references").iterdir()}
    assert {f"{model}.request.schema.json" for model in catalog.models()} < beside
    assert len(beside) == sum(document.listed for document in index.documents().values())
    for model in catalog.models():
        text = (SKILL / f"references/{model}.request.schema.json").read_text("utf-8")
        assert text == index.documents()[uris.request_schema(model)].text()


def test_every_file_that_the_skill_names_is_there_and_no_address_of_the_server_is_left() -> None:
    beside = {path.name for path in (SKILL / "references").iterdir()}
    templates = {"quickstart-LANGUAGE.md", "{model}.request.schema.json"}
    named = set()
    for path in SKILL.rglob("*.md"):  # a schema's address is its name, and stays
        text = path.read_text("utf-8")
        assert "flux2://" not in text, path
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert link.startswith("https://") or (path.parent / link).is_file(), f"{path}: {link}"
        named |= set(re.findall(r"[\w{}-][\w{}.-]*\.(?:md|schema\.json)", text))
    assert named - templates <= beside | {"SKILL.md"}


def test_the_commands_name_only_tools_and_arguments_that_there_are() -> None:
    tools = facts.tools()
    for name in ("flux2", "flux2-remix", "flux2-spend"):
        path = ROOT / PLUGIN / f"commands/{name}.md"
        assert front(path)["description"]
        called = set(re.findall(r"`((?:check|list|generate)\w*)`", path.read_text("utf-8")))
        assert called
        assert called <= set(tools)
    spend = (ROOT / PLUGIN / "commands/flux2-spend.md").read_text("utf-8")
    assert "never call `generate`" in spend


# --- the hint ---------------------------------------------------------------------------------------------------------


def hint(home: Path, *, program: bool = True, env: Mapping[str, str] | None = None) -> str:
    """What the hook prints at the start of a session."""
    folder = home / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("grep", "sh"):
        (folder / name).symlink_to(shutil.which(name) or name)
    if program:
        (folder / "flux2-mcp").touch(mode=0o755)
    done = subprocess.run(
        ["sh", str(ROOT / PLUGIN / "scripts/no-key.sh")],
        env={"PATH": str(folder), "HOME": str(home)} | dict(env or {}),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


needs_sh = pytest.mark.skipif(os.name == "nt", reason="runs sh with a PATH of its own")


@needs_sh
@pytest.mark.parametrize("config", [None, "", "{}", '{"api_key": ""}', '{"base_url": "https://runapi.ai"}'])
def test_the_hint_is_given_where_no_key_is_set(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / ".config/runapi").mkdir(parents=True)
        (tmp_path / ".config/runapi/config.json").write_text(config)
    assert "no RunAPI key is set" in (told := hint(tmp_path))
    assert "SANDBOX" in told


@needs_sh
@pytest.mark.parametrize("name", ["RUNAPI_API_KEY", "RUNAPI_KEY", "CLAUDE_PLUGIN_OPTION_API_KEY"])
def test_no_hint_is_given_where_a_variable_holds_a_key(tmp_path: Path, name: str) -> None:
    assert hint(tmp_path, env={name: "k"}) == ""


@needs_sh
@pytest.mark.parametrize("field", ["api_key", "apiKey"])
def test_no_hint_is_given_where_the_file_holds_a_key(tmp_path: Path, field: str) -> None:
    folder = tmp_path / "elsewhere/runapi"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({field: "k"}, indent=2))
    assert hint(tmp_path, env={"XDG_CONFIG_HOME": str(folder.parent)}) == ""


@needs_sh
def test_who_lacks_the_program_is_told_where_it_comes_from(tmp_path: Path) -> None:
    assert "not on the PATH" in (told := hint(tmp_path, program=False))
    assert "install/install.sh" in told
    assert "`" not in told
