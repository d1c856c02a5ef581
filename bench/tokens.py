"""What a model has to read: our list of tools, and the results of calls without their previews: python -m bench.tokens.

The tools as `tests/tools` sees them: name, description and input schema. The results are real ones, as live mode gives them
to a client, from a sandbox in RunAPI's place: for a client that nobody knows, which gets all forms, they are held to their
bytes, all forms and links together; for each host that is known, they are what it shows its model. Without a key a result
says twice, besides, that the sandbox made it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Reach, Report, end, options
from bench.talk import SERVER, Conversation, live, sandbox
from flux2_mcp.server import clients
from flux2_mcp.server.clients import STANDARD, Client
from flux2_mcp.server.results.tasks import SANDBOX_NOTICE

SEEN = ("name", "description", "inputSchema")
PROMPT = "[sandbox:instant] A photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting"
TASKS = 10
MOST = {"hero": 2400, "ten tasks": 12_000, "list_variants": 7000, "check_pricing": 2000}
"""Bytes of a result, all its forms and links together, its previews apart."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a host passes to its model, beside what its row in `clients.py` says.

    Attributes:
        host: Its name.
        text: False if it drops the text of a result that has structured content.
        data: False if structured content never reaches the model.
    """

    host: str
    text: bool = True
    data: bool = True


HOSTS = {
    "claude-code": Shown("Claude Code", text=False),
    "codex": Shown("Codex"),
    "gemini": Shown("Gemini CLI", data=False),
    "opencode": Shown("opencode", data=False),
    "copilot": Shown("Copilot CLI"),
}
"""By the part of a client's name that its row has."""

Result = Mapping[str, Any]


def size(value: object) -> int:
    """Bytes of compact JSON."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def texts(result: Result) -> int:
    return sum(len(block["text"].encode()) for block in result["content"] if block["type"] == "text")


def links(result: Result) -> int:
    return sum(size(block) for block in result["content"] if block["type"] == "resource_link")


def data(result: Result) -> int:
    return size(result["structuredContent"]) if "structuredContent" in result else 0


def shown(result: Result, host: Shown, row: Client) -> int:
    """Bytes of what a host shows its model."""
    has_data = "structuredContent" in result
    return (
        (data(result) if host.data else 0)
        + (texts(result) if host.text or not has_data else 0)
        + (links(result) if row.links else 0)
    )


def results(url: str, key: str, home: str, row: Client) -> Iterator[tuple[str, Result]]:
    """The result of each call, for a client with this row; all clients ask about the same tasks."""
    env = live(url, key) | {"FLUX2_WORKSPACE": str(Path(home).parent)}
    with Conversation(SERVER, home, env, client=row.part or "bench") as talk:
        yield "hero", talk.call("generate", prompt=PROMPT, save_to="hero.png", idempotency_key="hero", wait_seconds=60)
        for number in range(1, TASKS):
            talk.call("generate", prompt=PROMPT, idempotency_key=f"k{number}", wait_seconds=60, preview=False)
        yield "ten tasks", talk.call("check_task", limit=TASKS)
        yield "list_variants", talk.call("list_variants")
        yield "check_pricing", talk.call("check_pricing")


def measure(seed: int) -> Report:
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as name, sandbox(Path(name) / "runapi", speed=1000, seed=seed) as (url, key):
        home = str(Path(name, "home").resolve())
        with Conversation(SERVER, home, live(url, key)) as talk:
            tools = talk.ask("tools/list", {})["tools"]
        full = dict(results(url, key, home, STANDARD))
        seen = {
            host.host: {what: shown(result, host, row) for what, result in results(url, key, home, row)}
            for part, host in HOSTS.items()
            for row in [clients.client(part)]
        }
    task = full["hero"]["structuredContent"]["tasks"][0]
    assert task["status"] == "completed", task
    assert len(full["ten tasks"]["structuredContent"]["tasks"]) == TASKS
    kinds = [content["type"] for content in full["hero"]["content"]]
    listed = size([{name: tool[name] for name in SEEN} for tool in tools])
    rows += [("tools/list", listed)]
    rows += [(f"  {tool['name']}", size({name: tool[name] for name in SEEN})) for tool in tools]
    for what, result in full.items():
        rows += [
            (f"{what}: all", texts(result) + data(result) + links(result)),
            ("  words", texts(result)),
            ("  structured content", data(result)),
            ("  links", links(result)),
            *((f"  as {host} shows it", found[what]) for host, found in seen.items()),
        ]
    rows.append(("in the sandbox, the notice in either form", len(SANDBOX_NOTICE)))
    alls = {what: texts(result) + data(result) + links(result) for what, result in full.items()}
    return Report(
        "tokens",
        ("what a model reads", "bytes"),
        rows,
        (
            Reach("tools/list: names, descriptions, input schemas", listed, 3900, "bytes"),
            *(Reach(f"{what}: all forms and links, previews apart", alls[what], most, "bytes") for what, most in MOST.items()),
            *(
                Reach(f"{what}: the most that a known host shows", max(found[what] for found in seen.values()), MOST[what], "bytes")
                for what in MOST
            ),
        ),
        (
            "Bytes of compact JSON, UTF-8; how many tokens that makes depends on the model.",
            "What each host shows is data, in server/flux2_mcp/server/clients.py and in HOSTS of this bench; it was measured with the real hosts in November 2026.",
            "Paths in the results lie under a temporary folder: a longer home makes them longer by as much, each time it is named.",
            f"The hero's content was: {', '.join(kinds)}. The preview is left out; all previews of a result take at most 60 kB.",
        ),
        seed,
    )  # fmt: skip


def main() -> None:
    chosen = options("tokens", __doc__)
    end(measure(chosen.seed), chosen)


if __name__ == "__main__":
    main()
