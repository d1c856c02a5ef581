"""The texts of the plugin: its README, the commands, and the sentences that the skill shares with them."""

from __future__ import annotations

import json

from flux2_mcp.hosts.entry import PROGRAM
from flux2_mcp.server.prompts import LAST_STEP
from packages import facts

COMMANDS: dict[str, tuple[str, str, str]] = {
    "flux2": (
        "Make an image with FLUX.2. Costs money.",
        "WHAT IT SHOWS [--variant, ratio, file: in plain words]",
        f"""Call the tool `generate` of the server `{facts.NAME}` once for what the user wrote after the command.

- What they wrote is the prompt, word for word. Take out only what is an argument: a variant, an aspect ratio, a resolution,
  a number of images, a file or folder to save to, a transparent ground (`background`), an enlargement (`upscale`).
- Where they wrote nothing, ask what the image should show. Don't invent it: each image is paid.
- If the call is refused for its price, show the user the price and ask; don't raise a limit yourself.

{LAST_STEP} A result marked SANDBOX is no FLUX.2 image: say so.
""",
    ),
    "flux2-remix": (
        "Change images with FLUX.2 by an instruction. Costs money.",
        "IMAGE... WHAT TO CHANGE",
        f"""Call the tool `generate` of the server `{facts.NAME}` once, with `source_images` and the instruction as the prompt.

- `source_images` are those that the user named: paths, https URLs, `task:ID` of an earlier result. For "the last one", call
  `check_task` without ids and take the newest that is completed.
- The prompt is the instruction, word for word. Where either is missing, ask.
- Where the user only wants a picture cut out or larger, give `background` or `upscale`, one source and no prompt.
- The image keeps the source's shape. Give `aspect_ratio` only where another is asked for, or for `max`, which needs one.
- A local image's pixels are uploaded to RunAPI. Don't send one that the user did not name.

{LAST_STEP} A result marked SANDBOX is no FLUX.2 image: say so.
""",
    ),
    "flux2-spend": (
        "Show what FLUX.2 images cost: the balance, what was charged lately, prices. Free.",
        "",
        f"""Tell the user about their money. Spend none: never call `generate` here.

1. Call `check_pricing` of the server `{facts.NAME}`: balance and prices, and where they come from.
2. Call `check_task` without ids: the latest tasks with what each was charged.

Answer in a few lines: the balance; what the listed tasks were charged together, and how many failed free of charge; those
whose charge is not known, by id; what an image costs now. Say that the list is the latest tasks, not all. Where the balance
or a charge is not given, say so and don't estimate it.
""",
    ),
}
"""Name without its slash: what it does, what it takes, and what the model is told. What the user wrote is put behind it."""


def commands() -> dict[str, str]:
    """The commands' files by their path in the plugin's folder."""
    return {f"commands/{name}.md": _command(*parts) for name, parts in COMMANDS.items()}


def _command(does: str, takes: str, told: str) -> str:
    hint = f"argument-hint: {json.dumps(takes)}\n" if takes else ""
    return f"---\ndescription: {json.dumps(does)}\n{hint}---\n\n{told}"


def setup(*, published: bool) -> str:
    """Where `flux2-mcp` comes from."""
    if published:
        return f"`uvx {PROGRAM} sandbox` runs it without installing anything."
    return f"`{PROGRAM}` comes from a checkout of its repository: `sh install/install.sh`."


def tools() -> str:
    """The tools as a Markdown table."""
    rows = "\n".join(f"| `{name}` | {text} |" for name, text in facts.tools().items())
    return f"| tool | what it does |\n| --- | --- |\n{rows}"


def readme(*, published: bool) -> str:
    """The plugin's README, which marketplaces show."""
    start = facts.start(published=published)
    line = " ".join([start["command"], *start["args"]])
    before = (
        "It needs [uv](https://docs.astral.sh/uv/), and nothing else."
        if published
        else f"It starts the `{PROGRAM}` on the PATH, which `sh install/install.sh --tool-only` brings from a checkout."
    )
    listed = "\n".join(f"- `/{name}`: {does}" for name, (does, _, _) in COMMANDS.items())
    return f"""# {facts.TITLE}

{facts.project()["description"]} This folder is a plugin for Claude Code, Codex and Cursor, an extension for Gemini CLI and a
package for clients of Agent Plugins. All of them start the server as `{line}`. {before}

{tools()}

Commands in Claude Code:

{listed}

The skill `{facts.NAME}` teaches prompts for FLUX.2, and to build it into an application: schemas, prices, quickstarts, errors.

The key is read from `RUNAPI_API_KEY` or from `~/.config/runapi/config.json`. {facts.KEY["description"]}

Written by `make packages`: change `packages/` instead.
"""
