"""Where each agent host keeps its servers. One row a host, in the order that they are listed; facts of November 2026.

Claude Code, Codex, Gemini CLI, opencode and Copilot CLI were run for what stands here; the rest is from their documentation. Paths
are templates: `~` is the user's home, `${NAME:-else}` a variable of the environment, `*` what the system put there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flux2_mcp.domain import variables
from flux2_mcp.errors import InvalidRequestError, Problem, shortened
from flux2_mcp.hosts.editors.jsonc import Json

System = Literal["Linux", "Darwin", "Windows"]
SYSTEMS: tuple[System, ...] = ("Linux", "Darwin", "Windows")
Scope = Literal["user", "project"]
SCOPES: tuple[Scope, ...] = ("user", "project")
Paths = Mapping[System, tuple[str, ...]]

TOOL_SECONDS = 960
"""How long a tool call may take: the longest wait that a call can ask for, and a minute for what is around it."""
START_SECONDS = 60
"""How long the server may take to start: a cold disk under load; otherwise it is below one second."""
VARIABLES = tuple(variable.name for variable in variables.VARIABLES)
"""What the server reads; a host that scrubs the environment must let them through, or caps would be open there."""
SYSTEM_VARIABLES = (
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""What decides where the key's file and the journal are, and how RunAPI is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCommand:
    """A host's own command line, where it does better than an edit. `add` reads the entry as JSON from standard input.

    Those of the others know no limits (Codex), or write the same file without a lock, after seconds of starting up.
    """

    program: str
    add: tuple[str, ...]
    remove: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Where a host keeps what it does not start, in another file than its servers.

    `user` are files in the home folder, `project` one below the project's. `keys` lead to a list of names, or to `false`; in them
    `{folder}` is the project's folder and `{name}` the server. `scopes` are those of the entries that it switches.
    """

    user: Paths | None = None
    project: str | None = None
    keys: tuple[str, ...]
    scopes: tuple[Scope, ...] = SCOPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One row. `also` are other names that people give it.

    `user` are the files that it reads, best first: the first that is there is edited, else the first is made. `project` is one
    below the project's folder. `marks` are there where the host was ever started, `programs` on the PATH where it is installed.
    `servers` is the key of the servers' map. An entry has `fixed` as it stands, `unless_set` where the user set nothing else,
    and `limits` at least as high. `listed`: command and arguments are one list. `allowed` leads to the list of the only servers that
    are started, where there is one, `excluded` to the list of those that are not: of each, the project's goes before the user's.
    `switches` are in other files. `merged`: entries of one name are one entry, the project's members before the user's. `from_env` is what hands on a key from the
    environment, in the entry's own form; empty where that is not known or not needed.
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
        # A wall, and the least time that a silent call has. Start-up has MCP_TIMEOUT, in the environment only.
        limits={"timeout": TOOL_SECONDS * 1000},
        # What /mcp switches off in a folder, and what its user did not approve of a project's file.
        switches=(
            Switch(user=_CLAUDE_CODE, keys=("projects", "{folder}", "disabledMcpServers")),
            Switch(user=_CLAUDE_CODE, keys=("projects", "{folder}", *_REJECTED), scopes=("project",)),
            Switch(user=_everywhere("${CLAUDE_CONFIG_DIR:-~/.claude}/settings.json"), keys=_REJECTED, scopes=("project",)),
            Switch(project=".claude/settings.json", keys=_REJECTED, scopes=("project",)),
            Switch(project=".claude/settings.local.json", keys=_REJECTED, scopes=("project",)),
        ),
        from_env='"env": {"RUNAPI_API_KEY": "${RUNAPI_API_KEY}"}',
        # Running sessions rewrite this file; only its own command line takes part in their lock.
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
        # `codex mcp add` has no option for these, so the edit brings more.
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
        # What `gemini mcp disable` writes.
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
        # It takes "stdio" for "local", and so the project's file, which Claude Code reads too, serves both.
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
        # Of every request; 5 seconds where nothing is said.
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
    """The row of a host, by its name or another that people use.

    Raises:
        InvalidRequestError: There is none.
    """
    wanted = name.strip().lower()
    found = next((row for row in TABLE if wanted == row.name or wanted in row.also), None)
    if found is None:
        raise InvalidRequestError(
            Problem("HOST", f"{shortened(name)!r} is none of {', '.join(row.name for row in TABLE)}.")
        )
    return found
