"""What a team's server says in the place of what holds only on the caller's own machine: no folder is shared, images are links.

One catalogue serves both: here stand only the phrases that differ. An argument that needs a folder of the caller's is left out of
the lists. A call that has it all the same is refused with the command that does it (`engine.remote_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_types import Prompt, Tool

from flux2_mcp.server.docs import uris

LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "generate": frozenset({"save_to", "overwrite", "manifest"}),
    "check_task": frozenset({"workspace", "file"}),
    "check_pricing": frozenset({"manifest"}),
}
"""The arguments of each tool that can't work here."""

PHRASES: Final = (
    # The instructions.
    (
        "saves the image to disk: give the user the file's path.",
        "answers with a link to the image: give the user the link. It opens for an hour; check_task gives a new one.",
    ),
    ("Results marked SANDBOX are drawn on this machine and", "Results marked SANDBOX"),
    (
        (
            f"For more than three images, or a project's, write flux2.toml ({uris.MANIFEST_SCHEMA}); check_pricing and generate"
            ' take manifest: "flux2.toml".'
        ),
        (
            "This server is on another machine: it reads and writes no file of the user's. To save an image: curl -o FILE 'LINK'."
            " To use a file as a source: curl -H 'Authorization: Bearer TOKEN' --data-binary @FILE BASE/uploads; the answer has"
            " its upload:ID. For flux2.toml, the user runs flux2-mcp login --team BASE once, then flux2-mcp plan."
        ),
    ),
    # The tools.
    ("Files land on disk.", "Images come as links."),
    ("How image tasks stand: files, prompts, costs;", "How image tasks stand: links, prompts, costs;"),
    (
        "paths in the workspace, https URLs, task:ID, data: URIs",
        "https URLs, task:ID, data: URIs, or upload:ID of POST BASE/uploads",
    ),
    (
        (
            "`path` is where it is kept, `saved` where save_to put a copy.\n\nOnly while no file is there, `url` has its address,"
            " which dies at `expires_at`."
        ),
        "`url` opens it until `expires_at`; check_task gives a new one.",
    ),
    # The prompts.
    ("give the user the file's path and what was charged.", "give the user the image's link and what was charged."),
    ("Then open each file,", "Then open each image,"),
    ("Paths, https URLs or task:ID of earlier results,", "https URLs, task:ID of earlier results or upload:ID,"),
)
"""What is said on the caller's own machine, and here. BASE stands for the address of the server."""


class TeamTexts:
    """The texts of a server whose callers are on other machines.

    Args:
        base: Its public address, without a slash at its end.
    """

    def __init__(self, base: str) -> None:
        self._phrases = [(usual, here.replace("BASE", base)) for usual, here in PHRASES]

    def said(self, text: str) -> str:
        """Return a text of ours as it holds here."""
        for usual, here in self._phrases:
            text = text.replace(usual, here)
        return text

    def left_out(self, tool: str) -> frozenset[str]:
        """Return the arguments of a tool that can't work here."""
        return LEFT_OUT.get(tool, frozenset())

    def tool(self, tool: Tool) -> Tool:
        """Return a tool as it is listed here."""
        schema = self._everywhere(tool.input_schema)
        left_out, properties = self.left_out(tool.name), schema["properties"]
        schema["properties"] = {name: each for name, each in properties.items() if name not in left_out}
        update = {
            "description": self.said(tool.description or ""),
            "input_schema": schema,
            "output_schema": self._everywhere(tool.output_schema),
        }
        return tool.model_copy(update=update)

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return a prompt as it is listed here."""
        arguments = [
            each.model_copy(update={"description": self.said(each.description or "")})
            for each in prompt.arguments or ()
        ]
        return prompt.model_copy(update={"arguments": arguments})

    def _everywhere(self, value: Any) -> Any:  # noqa: ANN401  # any JSON value
        if isinstance(value, dict):
            return {name: self._everywhere(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._everywhere(each) for each in value]
        return self.said(value) if isinstance(value, str) else value
