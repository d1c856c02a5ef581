"""What the README and the pages of docs/ have from the code: each part stands between `<!-- NAME -->` and `<!-- end -->`.

The rest is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from bench.tokens import SEEN, size
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.errors import Wording
from flux2_mcp.hosts import table as hosts
from flux2_mcp.hosts.entry import PROGRAM
from flux2_mcp.sandbox import scenarios
from flux2_mcp.server.tools import REGISTRY
from packages import facts, session

_PART = re.compile(r"(<!-- ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_REACHED = r"^- {}: ([\d.,]+) "
_MEASURED = (
    ("A host has the first answer after {} ms", "startup", "initialize, ours"),
    ("An image on disk takes {} ms longer than with RunAPI's own SDK", "share", "our share of a generate call.*?"),
)
"""Figures of docs/performance.md: a sentence, the module of `bench` that measures them, and how their lines begin."""
_SOAK = (
    "- {minutes:g} minutes with {cuts} cut connections and {kills} killed servers: {made:,} images made, {made_twice} of them twice,"
    " {completed_but_not_delivered} lost: `python -m bench.soak --minutes {minutes:g}`"
)


def pages() -> dict[str, str]:
    """The README and the pages with their parts as the code has them now, by their path.

    Raises:
        ValueError: A part has no place, or a place no part.
    """
    found, placed = {}, set()
    for path in (facts.ROOT / "README.md", *sorted((facts.ROOT / "docs").glob("*.md"))):
        text = path.read_text("utf-8")
        if names := [name for _, name, _ in _PART.findall(text)]:
            placed |= set(names)
            found[path.relative_to(facts.ROOT).as_posix()] = _PART.sub(
                lambda part: f"{part[1]}{_parts()[part[2]]}\n{part[3]}", text
            )
    if wrong := placed ^ set(_parts()):
        raise ValueError(f"These parts have no place, or are places without a part: {sorted(wrong)}.")
    return found


@cache
def _parts() -> Mapping[str, str]:
    lines = [(f"{PROGRAM} install {row.name}", row.title) for row in hosts.TABLE]
    width = max(len(line) for line, _ in lines)
    about = catalog.document()["variants"]
    return {
        "conversation": session.conversation(),
        "entries": "\n".join(_entries()),
        "hosts": "\n".join(["```sh", *(f"{line:{width}}    # {title}" for line, title in lines), "```"]),
        "tools": _table(("tool and argument", "takes", "what it does"), _tools()),
        "variants": _table(
            ("variant", "an image", "choose it"),
            [(name, _from(name), Wording(about[name]["choose"])) for name in catalog.variants()],
        ),
        "measured": "\n".join(_measured()),
        "variables": _variables(team=False),
        "team-variables": _variables(team=True),
        "sandbox": _table(
            ("marker", "what happens"), [(f"`[sandbox:{row.marker}]`", row.does) for row in scenarios.SCENARIOS]
        ),
    }


def _variables(*, team: bool) -> str:
    rows = [(f"`{row.name}`", row.meaning, row.default) for row in VARIABLES if row.team is team]
    return _table(("variable", "meaning", "default"), rows)


def _entries() -> Iterator[str]:
    """What starts the server, in the three forms that hosts have."""
    for name, where in (("cursor", "Most hosts:"), ("vscode", "VS Code, `.vscode/mcp.json`:")):
        entry = {hosts.host(name).servers: {facts.NAME: {"command": f"/path/to/{PROGRAM}"}}}
        yield from (where, "```json", json.dumps(entry), "```")
    row = hosts.host("codex")
    yield from ("Codex, `~/.codex/config.toml`:", "```toml", f"[{row.servers}.{facts.NAME}]")
    yield from (f'command = "/path/to/{PROGRAM}"', f"tool_timeout_sec = {hosts.TOOL_SECONDS}", "```")


def _tools() -> Iterator[tuple[str, str, str]]:
    """Each tool with its arguments. Those that a tool above takes in the same way share a row."""
    known: dict[str, str] = {}
    for tool in session.session().tools:
        name, schema = tool["name"], tool["inputSchema"]
        costs = (
            f"costs: {', '.join(f'{each} {_from(each)}' for each in catalog.variants())}" if _spends(name) else "free"
        )
        yield f"**`{name}`**", costs, " ".join(tool["description"].split())
        takes = {argument: _takes(about) for argument, about in schema["properties"].items()}
        again = [argument for argument in takes if known.get(argument) == takes[argument]]
        for argument, about in schema["properties"].items():
            if argument not in again:
                needed = ", needed" if argument in schema.get("required", ()) else ""
                yield f"`{argument}`", f"{takes[argument]}{needed}", about.get("description", "")
        if again:
            yield ", ".join(f"`{argument}`" for argument in again), "as above", ""
        known |= takes


def _takes(about: Mapping[str, Any]) -> str:
    """What an argument may be, in a few words."""
    if values := about.get("enum"):
        return ", ".join(map(str, values))
    if about["type"] == "array":
        return f"list of {_takes(about['items'])}"
    low, high = about.get("minimum"), about.get("maximum")
    bounds = "" if high is None else f" up to {high:g}" if low is None else f" {low:g} to {high:g}"
    default = f", default {json.dumps(about['default']).strip(chr(34))}" if "default" in about else ""
    kind = {"string": "text", "boolean": "yes or no", "integer": "whole number"}.get(about["type"], about["type"])
    return f"{kind}{bounds}{default}"


def _measured() -> Iterator[str]:
    page = (facts.ROOT / "docs" / "performance.md").read_text("utf-8")
    for what, module, begins in _MEASURED:
        if (found := re.search(_REACHED.format(begins), page, re.MULTILINE)) is None:
            raise ValueError(f"docs/performance.md has no line for {what!r}; see _MEASURED.")
        yield f"- {what.format(found[1])}: `python -m bench.{module}`"
    listed = size([{key: tool[key] for key in SEEN} for tool in session.session().tools])
    yield f"- The tools take {listed:,} bytes of what a model reads: `python -m bench.tokens`"
    soak = json.loads((facts.ROOT / "docs" / "reliability.json").read_text("utf-8"))
    yield _SOAK.format_map(soak)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _spends(tool: str) -> bool:
    return any(entry.spends for entry in REGISTRY if entry.function.__name__ == tool)


def _from(variant: str) -> str:
    of_it = [model for model in catalog.models().values() if model.variant == variant]
    cents = [price for model in of_it for price in model.published_cents.values()]
    return f"from {dollars(min(cents) / 100)}" if cents else "live price only"
