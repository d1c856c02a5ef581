"""`flux2-mcp sandbox`: only the embedded RunAPI, for developers of applications on RunAPI."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.settings import Settings

LOOK_SECONDS = 0.2
"""The interval at which Ctrl-C is checked, seconds: Windows can't interrupt a longer wait."""
EPILOG = """
\b
Examples:
  flux2-mcp sandbox --port 8787
  flux2-mcp sandbox --speed 100

A marker in a prompt scripts what becomes of its task, such as [sandbox:moderation]; docs/sandbox.md lists them.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="On 127.0.0.1; 0 (default): any free one."
)
@click.option(
    "--speed", type=click.FloatRange(0.01, 10_000), metavar="X",
    help="So many times faster than life; from 100 on, pictures are plain. Default FLUX2_SANDBOX_SPEED, else 1.",
)  # fmt: skip
@click.option(
    "--hybrid",
    is_flag=True,
    help="Answer each create with 202 and a Location, from where the result comes in an envelope.",
)
@click.pass_obj
def sandbox(read_settings: Callable[[], Settings], *, port: int, speed: float | None, hybrid: bool) -> None:
    """Serve a RunAPI without models or money until stopped.

    Prints two lines to paste into a shell, export RUNAPI_BASE_URL=... and export RUNAPI_API_KEY=... . Any RunAPI client
    can use it; it answers 401 to every other key.
    """
    settings = read_settings()
    ended: list[int] = []  # not a threading.Event: its lock may be held by the wait that the signal interrupts
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    from flux2_mcp.sandbox.server import Sandbox

    folder, fast = settings.home / "sandbox", speed or settings.sandbox_speed
    with Sandbox(folder, speed=fast, port=port, hybrid=hybrid) as server:
        output.echo(f"export RUNAPI_BASE_URL={server.base_url}\nexport RUNAPI_API_KEY={server.api_key}")
        with output.progress() as show:
            show("Serving; Ctrl-C ends it.")
            while not ended:
                time.sleep(LOOK_SECONDS)
