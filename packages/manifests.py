"""The manifests, one function a format.

Formats as the clients validated them in November 2026 (`tests/real_hosts/test_packages.py` names which); Cursor's and the MCP
registry's were only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux2_mcp.hosts.entry import PROGRAM
from flux2_mcp.hosts.table import START_SECONDS, SYSTEM_VARIABLES, TOOL_SECONDS, VARIABLES
from packages import facts

JsonObject = dict[str, Any]
PLUGIN = "install/plugin"
"""One folder for Claude Code, Codex, Cursor and Gemini CLI: each reads its own manifest, and they share skill and commands."""
AGENT_PLUGIN = "install/agent-plugin"
"""For clients of the open standard. It stands apart, since Codex prefers its manifest, and that knows no time limits."""
_AGENT_PLUGINS = "https://agent-plugins.org/schemas/1.0.0"
_SERVER_SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
_REGISTRY_DESCRIPTION_MOST = 100


def manifests(*, published: bool) -> dict[str, JsonObject]:
    """Every manifest by its path in the repository."""
    start = facts.start(published=published)
    stdio = {"type": "stdio", **start}
    listing = {"name": facts.NAME, "description": facts.project()["description"]}
    local = {"source": "local", "path": f"./{PLUGIN}"}
    return {
        "manifest.json": _bundle(),
        f"{PLUGIN}/.claude-plugin/plugin.json": _claude(),
        f"{PLUGIN}/claude.mcp.json": _servers(stdio | _claude_extras()),
        f"{PLUGIN}/.codex-plugin/plugin.json": _about() | {"skills": "./skills/", "mcpServers": "./codex.mcp.json"},
        f"{PLUGIN}/codex.mcp.json": _servers(start | _codex_extras()),
        f"{PLUGIN}/.cursor-plugin/plugin.json": _about()
        | {"displayName": facts.TITLE, "mcpServers": "./cursor.mcp.json"},
        f"{PLUGIN}/cursor.mcp.json": _servers(stdio),
        f"{AGENT_PLUGIN}/plugin.json": {"$schema": f"{_AGENT_PLUGINS}/plugin.schema.json", **_about()},
        f"{AGENT_PLUGIN}/mcp.json": {"$schema": f"{_AGENT_PLUGINS}/mcp.schema.json", **_servers(stdio)},
        f"{PLUGIN}/gemini-extension.json": _gemini(start),
        # Their clients look for these at the top of a repository, and nowhere else.
        ".claude-plugin/marketplace.json": _market() | {"plugins": [listing | {"source": local["path"]}]},
        ".cursor-plugin/marketplace.json": _market() | {"plugins": [listing | {"source": local["path"]}]},
        ".agents/plugins/marketplace.json": {
            "name": facts.MARKETPLACE,
            "interface": {"displayName": facts.TITLE},
            "plugins": [
                {
                    "name": facts.NAME,
                    "source": local,
                    "policy": {"installation": "AVAILABLE", "authentication": "ON_INSTALL"},
                    "category": "Creativity",
                }
            ],
        },
        "install/server.json": _registry(published=published),
    }


def _about() -> JsonObject:
    project = facts.project()
    return {
        "name": facts.NAME,
        "version": project["version"],
        "description": project["description"],
        "author": facts.AUTHOR,
        "license": project["license"],
        "keywords": project["keywords"],
    }


def _servers(server: JsonObject) -> JsonObject:
    return {"mcpServers": {facts.NAME: server}}


def _market() -> JsonObject:
    description = f"{facts.TITLE}: one plugin, the server flux2-mcp with commands and a skill"
    return {"name": facts.MARKETPLACE, "owner": facts.AUTHOR, "metadata": {"description": description}}


def _bundle() -> JsonObject:
    """The desktop bundle. It brings its own code, so that no index needs to have it."""
    about = _about()
    del about["keywords"]
    return {
        "manifest_version": "0.4",
        **about,
        "display_name": facts.TITLE,
        "keywords": facts.project()["keywords"],
        "server": {
            "type": "uv",
            "entry_point": "server/main.py",
            "mcp_config": {
                "command": "uv",
                # Not the tools that we are built with, and byte-code at once: a slow start costs the first turn.
                "args": ["run", "--no-dev", "--compile-bytecode", "--directory", "${__dirname}", "server/main.py"],
                "env": {"RUNAPI_API_KEY": "${user_config.api_key}"},
            },
        },
        "tools": [{"name": name, "description": text} for name, text in facts.tools().items()],
        "compatibility": {
            "platforms": ["darwin", "win32", "linux"],
            "runtimes": {"python": facts.project()["requires-python"]},
        },
        # With an empty default the placeholder of a field that nobody filled in is replaced too.
        "user_config": {
            "api_key": {"type": "string", **facts.KEY, "sensitive": True, "required": False, "default": ""}
        },
    }


def _claude() -> JsonObject:
    """Claude Code's. The hook stands here, since other clients read a hooks/hooks.json as their own; so it is with .mcp.json."""
    hint = {"type": "command", "command": 'sh "${CLAUDE_PLUGIN_ROOT}/scripts/no-key.sh"', "timeout": 5}
    return {
        **_about(),
        "displayName": facts.TITLE,
        "userConfig": {"api_key": {"type": "string", **facts.KEY, "sensitive": True, "required": False}},
        "mcpServers": "./claude.mcp.json",
        "hooks": {"SessionStart": [{"matcher": "startup", "hooks": [hint]}]},
    }


def _claude_extras() -> JsonObject:
    # A field that was left empty comes as "". Under the last of the key's names it hides neither the variable nor the file.
    return {"env": {"RUNAPI_KEY": "${user_config.api_key}"}, "timeout": TOOL_SECONDS * 1000}


def _codex_extras() -> JsonObject:
    return {
        "env_vars": [*VARIABLES, *SYSTEM_VARIABLES],
        "startup_timeout_sec": START_SECONDS,
        "tool_timeout_sec": TOOL_SECONDS,
    }


def _gemini(start: Mapping[str, Any]) -> JsonObject:
    project = facts.project()
    setting = {"name": facts.KEY["title"], "description": facts.KEY["description"]}
    return {
        "name": facts.NAME,
        "version": project["version"],
        "description": project["description"],
        "mcpServers": {facts.NAME: {**start, "timeout": TOOL_SECONDS * 1000}},
        "settings": [setting | {"envVar": "RUNAPI_API_KEY", "sensitive": True}],
    }


def _registry(*, published: bool) -> JsonObject:
    """The MCP registry's. Before the first release there is no package to point to, and the schema wants none."""
    project = facts.project()
    entry: JsonObject = {
        "$schema": _SERVER_SCHEMA,
        "name": f"{facts.NAMESPACE}/{PROGRAM}",
        "title": facts.TITLE,
        "description": project["description"],
        "version": project["version"],
    }
    if len(entry["description"]) > _REGISTRY_DESCRIPTION_MOST:
        raise ValueError(f"the MCP registry takes descriptions of {_REGISTRY_DESCRIPTION_MOST} characters, no longer")
    key = {"name": "RUNAPI_API_KEY", "description": facts.KEY["description"], "isSecret": True, "isRequired": False}
    package = {
        "registryType": "pypi",
        "identifier": project["name"],
        "version": project["version"],
        "runtimeHint": "uvx",
        "transport": {"type": "stdio"},
        "environmentVariables": [key],
    }
    return entry | ({"packages": [package]} if published else {})
