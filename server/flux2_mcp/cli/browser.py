"""Opening the user's browser, by the interpreter's own means in a process of its own: what it prints goes nowhere."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping

import click

OPENER = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def is_here(env: Mapping[str, str]) -> bool:
    """False over SSH, where a browser would open on the wrong computer."""
    return not any(env.get(name) for name in ("SSH_CONNECTION", "SSH_TTY"))


def open_at(address: str, env: Mapping[str, str], *, failing: str | None = None) -> None:
    """Open a browser with windows. Nobody waits for it: some run until their window is closed.

    Args:
        address: An address that we made. Who looks at the machine's processes sees it for a moment.
        env: The process's. Without its TERM the opener takes no browser that would fill the terminal.
        failing: Said on standard error where there is none.
    """

    def work() -> None:
        done = subprocess.run(  # noqa: S603  # our own interpreter
            [sys.executable, "-c", OPENER, address],
            env={name: value for name, value in env.items() if name != "TERM"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )
        if done.returncode and failing is not None:
            click.echo(failing, err=True)

    threading.Thread(target=work, daemon=True).start()
