"""Where each agent host keeps its servers. Each host has one row, in the order of lists; facts of November 2026.

For Claude Code, Codex, Gemini CLI, opencode and Copilot CLI the facts were tested with the host; the rest is from
documentation. Paths are templates: `~` is the user's home, `${NAME:-else}` a variable of the environment, `*` any name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from flux2_mcp.domain import variables
from flux2_mcp.errors import InvalidRequestError, Problem, shortened
from flux2_mcp.hosts.editors.jsonc import Json

System = Literal["Linux", "Darwin", "Windows"]
SYSTEMS: tuple[System, ...] = ("Linux", "Darwin", "Windows")
Scope = Literal["user", "project"]
SCOPES: tuple[Scope, ...] = ("user", "project")
Paths = Mapping[System, tuple[str, ...]]

TOOL_SECONDS = 960
"""How long a tool call may take: the longest wait that a call can ask for, and a minute for the rest of the call."""
START_SECONDS = 60
"""How long the server may take to start, on a cold disk under load. Usually it takes less than a second."""
VARIABLES = tuple(variable.name for variable in variables.VARIABLES if not variable.team)
"""The variables that the server reads in an agent host. A host that clears the environment must pass them on, or no cap would hold."""
SYSTEM_VARIABLES = (
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""The variables that decide where the key's file and the journal are, and how RunAPI is reached."""


class OwnCommand(Struct, frozen=True, kw_only=True):
    """A host's own command line, where it is better than an edit. `add` reads the entry as JSON from standard input.

    Those of other hosts can't set limits (Codex), or write the same file without a lock and take seconds to start.
    """

    program: str
    add: tuple[str, ...]
    remove: tuple[str, ...]


class Switch(Struct, frozen=True, kw_only=True):
    """A place where a host records servers that it does not start, in another file than its servers.

    `user` are files in the home folder, `project` a file below the project's folder. `keys` lead to a list of names, or
    to `false`; in them `{folder}` is the project's folder and `{name}` the server. `scopes` are those of the entries
    affected.
    """

    user: Paths | None = None
    project: str | None = None
    keys: tuple[str, ...]
    scopes: tuple[Scope, ...] = SCOPES


class Host(Struct, frozen=True, kw_only=True):
    """One row. `also` are other names that people give it.

    `user` are the files that the host reads, best first: the first that exists is edited; if none does, the first is
    made. `project` is a file below the project's folder. `marks` exist if the host was ever started; `programs` are on
    the PATH if it is installed.

    `servers` is the key of the map of servers. An entry has the members of `fixed` unchanged, those of `unless_set` if
    the user did not set them, and those of `limits` at least as high. `listed`: command and arguments are one list.
    `env` is the member with the server's environment.

    `allowed` leads to the list of the only servers that are started, if the file has one; `excluded` to the list of
    servers that are not started. Of each, the project's list takes precedence over the user's. `switches` are in other
    files. `merged`: entries with the same name are one entry, in which the project's members take precedence.
    `from_env` is the text that passes on a key from the environment, in the entry's own form; empty if that is not
    known or not needed. `then` tells the user what to do next.
    """

    name: str
    title: str
    also: tuple[str, ...] = ()
    user: Paths
    project: str | None = None
    marks: Paths
    programs: tuple[str, ...] = ()
    format: Literal["json", "jsonc", "toml"] = "json"
    servers: str = "mcpServers"
    fixed: Mapping[str, Json] = field(default_factory=dict)
    unless_set: Mapping[str, Json] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    listed: bool = False
    allowed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    switches: tuple[Switch, ...] = ()
    merged: bool = False
    env: str = "env"
    from_env: str = ""
    own: OwnCommand | None = None
    then: str


def _everywhere(*paths: str) -> Paths:
    return dict.fromkeys(SYSTEMS, paths)


def _below(folders: Paths, *names: str) -> Paths:
    return {system: tuple(f"{folder}/{name}" for folder in folders[system] for name in names) for system in SYSTEMS}


_CODE: Paths = {
    "Linux": ("${XDG_CONFIG_HOME:-~/.config}/Code/User",),
    "Darwin": ("~/Library/Application Support/Code/User",),
    "Windows": ("${APPDATA:-~/AppData/Roaming}/Code/User",),
}
_CLAUDE_DESKTOP: Paths = {
    "Linux": ("${XDG_CONFIG_HOME:-~/.config}/Claude",),
    "Darwin": ("~/Library/Application Support/Claude",),
    "Windows": (
        "${LOCALAPPDATA:-~/AppData/Local}/Packages/Claude_*/LocalCache/Roaming/Claude",
        "${APPDATA:-~/AppData/Roaming}/Claude",
    ),
}
_DEVIN: Paths = {
    "Linux": ("~/.config/devin",),
    "Darwin": ("~/.config/devin",),
    "Windows": ("${APPDATA:-~/AppData/Roaming}/devin",),
}
_CLAUDE_CODE = _everywhere("${CLAUDE_CONFIG_DIR:-~}/.claude.json")
_REJECTED = ("disabledMcpjsonServers",)
_OPENCODE = _everywhere("${XDG_CONFIG_HOME:-~/.config}/opencode")
_ROO, _ZOO = (
    _below(_CODE, f"globalStorage/{extension}")
    for extension in ("rooveterinaryinc.roo-cline", "zoocodeorganization.zoo-code")
)

TABLE = (
    Host(
        name="claude-code",
        title="Claude Code",
        also=("claude",),
        user=_CLAUDE_CODE,
        project=".mcp.json",
        marks=_everywhere("${CLAUDE_CONFIG_DIR:-~}/.claude.json", "${CLAUDE_CONFIG_DIR:-~/.claude}"),
        programs=("claude",),
        fixed={"type": "stdio"},
        # The most time that a call has, and the least that a silent one has. The start has only MCP_TIMEOUT, a variable
        # of the environment.
        limits={"timeout": TOOL_SECONDS * 1000},
        # Servers that /mcp switched off in a folder, and servers of a project's file that the user rejected.
        switches=(
            Switch(user=_CLAUDE_CODE, keys=("projects", "{folder}", "disabledMcpServers")),
            Switch(user=_CLAUDE_CODE, keys=("projects", "{folder}", *_REJECTED), scopes=("project",)),
            Switch(user=_everywhere("${CLAUDE_CONFIG_DIR:-~/.claude}/settings.json"), keys=_REJECTED, scopes=("project",)),
            Switch(project=".claude/settings.json", keys=_REJECTED, scopes=("project",)),
            Switch(project=".claude/settings.local.json", keys=_REJECTED, scopes=("project",)),
        ),
        from_env='"env": {"RUNAPI_API_KEY": "${RUNAPI_API_KEY}"}',
        # Running sessions rewrite this file under a lock, which only the host's own command line respects.
        own=OwnCommand(
            program="claude",
            add=("mcp", "add-json", "--scope", "user", "{name}", "-"),
            remove=("mcp", "remove", "--scope", "user", "{name}"),
        ),
        then="Start a new session; /mcp shows it.",
    ),
    Host(
        name="codex",
        title="Codex",
        user=_everywhere("${CODEX_HOME:-~/.codex}/config.toml"),
        project=".codex/config.toml",
        marks=_everywhere("${CODEX_HOME:-~/.codex}"),
        programs=("codex",),
        format="toml",
        servers="mcp_servers",
        unless_set={"env_vars": [*VARIABLES, *SYSTEM_VARIABLES]},
        # `codex mcp add` has no option for limits, so an edit is better.
        limits={"startup_timeout_sec": START_SECONDS, "tool_timeout_sec": TOOL_SECONDS},
        merged=True,
        then="Start a new session; /mcp shows it. A project's file counts only in a folder that Codex trusts.",
    ),
    Host(
        name="cursor",
        title="Cursor",
        user=_everywhere("~/.cursor/mcp.json"),
        project=".cursor/mcp.json",
        marks=_everywhere("~/.cursor"),
        programs=("cursor", "cursor-agent"),
        format="jsonc",
        from_env='"env": {"RUNAPI_API_KEY": "${env:RUNAPI_API_KEY}"}',
        then="In Cursor: Settings, MCP; switch it on.",
    ),
    Host(
        name="vscode",
        title="VS Code",
        also=("code", "vs-code"),
        user=_below(_CODE, "mcp.json"),
        project=".vscode/mcp.json",
        marks=_CODE,
        programs=("code",),
        format="jsonc",
        servers="servers",
        fixed={"type": "stdio"},
        from_env='"env": {"RUNAPI_API_KEY": "${input:runapi-key}"}, and beside "servers": '
        '"inputs": [{"id": "runapi-key", "type": "promptString", "description": "RunAPI key", "password": true}]',
        then='In VS Code: "MCP: List Servers", start it, and use the chat in agent mode.',
    ),
    Host(
        name="claude-desktop",
        title="Claude Desktop",
        user=_below(_CLAUDE_DESKTOP, "claude_desktop_config.json"),
        marks=_CLAUDE_DESKTOP,
        then="Quit Claude Desktop altogether and start it again.",
    ),
    Host(
        name="gemini",
        title="Gemini CLI",
        also=("gemini-cli",),
        user=_everywhere("${GEMINI_CLI_HOME:-~}/.gemini/settings.json"),
        project=".gemini/settings.json",
        marks=_everywhere("${GEMINI_CLI_HOME:-~}/.gemini/settings.json"),
        programs=("gemini",),
        format="jsonc",
        limits={"timeout": TOOL_SECONDS * 1000},
        allowed=("mcp", "allowed"),
        excluded=("mcp", "excluded"),
        # `gemini mcp disable` writes this.
        switches=(
            Switch(
                user=_everywhere("${GEMINI_CLI_HOME:-~}/.gemini/mcp-server-enablement.json"), keys=("{name}", "enabled")
            ),
        ),
        from_env='"env": {"RUNAPI_API_KEY": "$RUNAPI_API_KEY"}',
        then="Start it again; /mcp shows it.",
    ),
    Host(
        name="copilot",
        title="Copilot CLI",
        also=("copilot-cli",),
        user=_everywhere("${COPILOT_HOME:-~/.copilot}/mcp-config.json"),
        project=".mcp.json",
        marks=_everywhere("${COPILOT_HOME:-~/.copilot}"),
        programs=("copilot",),
        format="jsonc",
        # It reads "stdio" as "local". So one project's file serves both this host and Claude Code.
        fixed={"type": "stdio"},
        unless_set={"tools": ["*"]},
        limits={"timeout": TOOL_SECONDS * 1000},
        then="Start it again; /mcp shows it.",
    ),
    Host(
        name="devin",
        title="Devin CLI",
        also=("devin-cli",),
        user=_below(_DEVIN, "config.json"),
        project=".devin/config.json",
        marks=_DEVIN,
        programs=("devin",),
        format="jsonc",
        then="Start a new session.",
    ),
    Host(
        name="devin-desktop",
        title="Devin Desktop (was Windsurf)",
        also=("windsurf",),
        user=_everywhere("~/.codeium/windsurf/mcp_config.json"),
        marks=_everywhere("~/.codeium/windsurf"),
        programs=("windsurf",),
        then="In its settings, under MCP servers: refresh.",
    ),
    Host(
        name="opencode",
        title="opencode",
        user=_below(_OPENCODE, "opencode.json", "opencode.jsonc"),
        project="opencode.json",
        marks=_OPENCODE,
        programs=("opencode",),
        format="jsonc",
        servers="mcp",
        fixed={"type": "local", "enabled": True},
        # The limit of every request; the default is 5 seconds.
        limits={"timeout": TOOL_SECONDS * 1000},
        listed=True,
        merged=True,
        env="environment",
        from_env='"environment": {"RUNAPI_API_KEY": "{env:RUNAPI_API_KEY}"}',
        then="Start it again; opencode mcp list shows it.",
    ),
    Host(
        name="roo",
        title="Roo Code",
        also=("roo-code",),
        user=_below(_ROO, "settings/mcp_settings.json"),
        project=".roo/mcp.json",
        marks=_ROO,
        limits={"timeout": TOOL_SECONDS},
        from_env='"env": {"RUNAPI_API_KEY": "${env:RUNAPI_API_KEY}"}',
        then="In Roo's MCP view: refresh.",
    ),
    Host(
        name="zoo",
        title="Zoo Code",
        also=("zoo-code",),
        user=_below(_ZOO, "settings/mcp_settings.json"),
        project=".roo/mcp.json",
        marks=_ZOO,
        limits={"timeout": TOOL_SECONDS},
        from_env='"env": {"RUNAPI_API_KEY": "${env:RUNAPI_API_KEY}"}',
        then="In Zoo's MCP view: refresh.",
    ),
    Host(
        name="antigravity",
        title="Antigravity",
        user=_everywhere("~/.gemini/config/mcp_config.json", "~/.gemini/antigravity/mcp_config.json"),
        project=".agents/mcp_config.json",
        marks=_everywhere("~/.gemini/config", "~/.gemini/antigravity"),
        programs=("agy", "antigravity"),
        then="In the agent's menu: MCP Servers, refresh.",
    ),
)  # fmt: skip


def host(name: str) -> Host:
    """The row of a host, by its name or by another that people use.

    Raises:
        InvalidRequestError: No host has this name.
    """
    wanted = name.strip().lower()
    found = next((row for row in TABLE if wanted == row.name or wanted in row.also), None)
    if found is None:
        raise InvalidRequestError(
            Problem("HOST", f"{shortened(name)!r} is none of {', '.join(row.name for row in TABLE)}.")
        )
    return found
