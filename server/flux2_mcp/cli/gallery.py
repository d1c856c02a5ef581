"""`flux2-mcp gallery`: the recorded images, in the browser."""

from __future__ import annotations

import signal
import threading

import anyio.to_thread
import click

from flux2_mcp.cli import browser, output
from flux2_mcp.cli.invocation import Invocation

EPILOG = """
\b
Examples:
  flux2-mcp gallery
  flux2-mcp gallery --limit 8 --no-open

Only this machine can open it, and only with the URL that is printed. Buttons that spend ask first.
"""


@click.command(epilog=EPILOG)
@click.option("--limit", type=click.IntRange(1, 100), default=50, metavar="N", help="Newest tasks shown; default 50.")
@click.option(
    "--port", type=click.IntRange(1024, 65535), default=None, metavar="N", help="On 127.0.0.1; default: any free one."
)
@click.option("--open/--no-open", "open_", default=True, help="Open it in the browser, or only print its URL.")
@click.pass_obj
def gallery(invocation: Invocation, *, limit: int, port: int | None, open_: bool) -> None:
    """Show what was made in the browser, live, until stopped.

    Prints the URL. The page is the gallery that agent hosts show: remix, vary, upscale to 2k, copy a path.
    """
    settings = invocation()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    async def work() -> None:
        from flux2_mcp.server.viewer.app import opened

        async with opened(settings, port=port or 0, limit=limit) as guard:
            output.echo(guard.url())
            if open_ and browser.is_here(invocation.env):
                browser.open_at(guard.ticket(), invocation.env)
            with output.progress() as show:
                show("Serving; Ctrl-C ends it.")
                await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)

    output.run(work, stopped="Stopped.")
