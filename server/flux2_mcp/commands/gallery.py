"""`flux2-mcp gallery`: what was made, in the browser."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import anyio.to_thread
import click

from flux2_mcp.commands import output
from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp gallery
  flux2-mcp gallery --limit 8 --no-open

Only this machine can open it, and only with the URL that is printed. Buttons that spend ask first.
"""
IN_TERMINALS = frozenset({"www-browser", "links", "elinks", "lynx", "w3m"})
"""Browsers that would take the terminal over, and show nothing of a page that is a program."""


@click.command(epilog=EPILOG)
@click.option("--limit", type=click.IntRange(1, 100), default=50, metavar="N", help="Newest tasks shown; default 50.")
@click.option(
    "--port", type=click.IntRange(1024, 65535), default=None, metavar="N", help="On 127.0.0.1; default: any free one."
)
@click.option("--open/--no-open", "open_", default=True, help="Open it in the browser, or only print its URL.")
@click.pass_obj
def gallery(read_settings: Callable[[], Settings], *, limit: int, port: int | None, open_: bool) -> None:
    """Show what was made in the browser, live, until stopped.

    Prints the URL. The page is the gallery that agent hosts show: remix, vary, upscale to 2k, copy a path.
    """
    settings = read_settings()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    async def work() -> None:
        from flux2_mcp.viewer.app import opened

        async with opened(settings, port=port or 0, limit=limit) as guard:
            click.echo(guard.url())
            if open_:
                _open(guard.ticket())
            with output.progress() as show:
                show("Serving; Ctrl-C ends it.")
                await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)

    output.run(work, stopped="Stopped.")


def _open(url: str) -> None:
    """Open the user's browser. Not waited for: some return only when it is closed."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if getattr(browser, "name", None) not in IN_TERMINALS:
        threading.Thread(target=browser.open, args=(url,), daemon=True).start()
