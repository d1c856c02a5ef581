"""What a model has to read: our list of tools, and the result of a generate call without its preview: python -m bench.tokens.

The tools as `tests/tools` sees them: name, description and input schema. The result is a real one, as live mode gives it,
from a sandbox in RunAPI's place. Without a key it says twice, besides, that the sandbox made it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.report import Reach, Report, end, options
from bench.talk import SERVER, Conversation, live, sandbox
from flux2_mcp.server.results.tasks import SANDBOX_NOTICE

SEEN = ("name", "description", "inputSchema")
PROMPT = "[sandbox:instant] A photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting"


def size(value: object) -> int:
    """Bytes of compact JSON."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def measure(seed: int) -> Report:
    with (
        tempfile.TemporaryDirectory() as name,
        sandbox(Path(name) / "runapi", speed=1000, seed=seed) as (url, key),
        Conversation(SERVER, str(Path(name, "home").resolve()), live(url, key)) as talk,
    ):
        tools = talk.ask("tools/list", {})["tools"]
        result = talk.call("generate", prompt=PROMPT, wait_seconds=60)
    task = result["structuredContent"]["tasks"][0]
    assert task["status"] == "completed", task
    kinds = [content["type"] for content in result["content"]]
    words = sum(len(content["text"].encode()) for content in result["content"] if content["type"] == "text")
    listed, structured = (
        size([{name: tool[name] for name in SEEN} for tool in tools]),
        size(result["structuredContent"]),
    )
    rows = [
        ("tools/list", listed),
        *((f"  {tool['name']}", size({name: tool[name] for name in SEEN})) for tool in tools),
        ("generate: structured content", structured),
        ("generate: text", words),
        ("  and in the sandbox, the notice in either", len(SANDBOX_NOTICE)),
    ]
    return Report(
        "tokens",
        ("what a model reads", "bytes"),
        rows,
        (
            Reach("tools/list: names, descriptions, input schemas", listed, 3300, "bytes"),
            Reach("structured content of a typical generate result", structured, 1500, "bytes"),
            Reach("text of the same, for hosts that show the model that instead", words, 1500, "bytes"),
        ),
        (
            "Bytes of compact JSON, UTF-8; how many tokens that makes depends on the model.",
            "Most hosts show the model either the structured content or the text, which has the same JSON after words for a reader.",
            "Paths in the result lie under a temporary folder: a longer home makes it longer by as much, each time it is named.",
            f"The result's content was: {', '.join(kinds)}. The preview is left out.",
        ),
        seed,
    )  # fmt: skip


def main() -> None:
    chosen = options("tokens", __doc__)
    end(measure(chosen.seed), chosen)


if __name__ == "__main__":
    main()
