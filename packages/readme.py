"""The README's lists, from the code: each stands between `<!-- NAME -->` and `<!-- end -->`; the rest is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.errors import Wording
from flux2_mcp.hosts import table as hosts
from flux2_mcp.hosts.entry import PROGRAM
from flux2_mcp.sandbox import scenarios
from flux2_mcp.server.tools import REGISTRY
from packages import facts


def filled(text: str) -> str:
    """The README with its lists as the code has them now."""
    for name, body in _lists().items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise ValueError(f"The README has no place for {name}.")
        text = f"{before}{begin}{body}\n{end}{after}"
    return text


def _lists() -> dict[str, str]:
    lines = [(f"{PROGRAM} install {row.name}", row.title) for row in hosts.TABLE]
    width = max(len(line) for line, _ in lines)
    tools = facts.tools()
    about = catalog.document()["variants"]
    return {
        "hosts": "\n".join(["```sh", *(f"{line:{width}}    # {title}" for line, title in lines), "```"]),
        "tools": _table(
            ("tool", "what it does", "costs"),
            [(f"`{name}`", does, _costs(name)) for name, does in tools.items()],
        ),
        "variants": _table(
            ("variant", "from", "choose it"),
            [(name, _from(name), Wording(about[name]["choose"])) for name in catalog.variants()],
        ),
        "variables": _table(
            ("variable", "meaning", "default"), [(f"`{row.name}`", row.meaning, row.default) for row in VARIABLES]
        ),
        "sandbox": _table(
            ("marker", "what happens"), [(f"`[sandbox:{row.marker}]`", row.does) for row in scenarios.SCENARIOS]
        ),
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _costs(tool: str) -> str:
    return "yes" if any(entry.spends for entry in REGISTRY if entry.function.__name__ == tool) else "no"


def _from(variant: str) -> str:
    of_it = [model for model in catalog.models().values() if model.variant == variant]
    cents = [price for model in of_it for price in model.published_cents.values()]
    return dollars(min(cents) / 100) if cents else "live price only"
