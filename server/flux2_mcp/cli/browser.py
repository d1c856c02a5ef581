"""Opens the user's browser with Python's `webbrowser`, and files with the system's viewer, in separate processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import click

from flux2_mcp.cli import output

OPENER = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"

GRACE_SECONDS = 5.0
"""A viewer that still runs after this time has opened its file: some run until their window is closed."""


def is_here(env: Mapping[str, str]) -> bool:
    """False over SSH, where a browser would open on the wrong computer."""
    return not any(env.get(name) for name in ("SSH_CONNECTION", "SSH_TTY"))


def open_at(address: str, env: Mapping[str, str], *, failing: str | None = None) -> None:
    """Open a graphical browser, and do not wait for it: some browsers run until their window is closed.

    Args:
        address: A URL made here. It is visible for a moment in the machine's list of processes.
        env: The environment. TERM is removed from it, so that no text browser takes over the terminal.
        failing: A message for standard error if there is no browser.
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
            output.echo(failing, err=True)

    threading.Thread(target=work, daemon=True).start()


def show(path: Path, *, folder: bool) -> bool:
    """Open a file in the system's viewer, or the folder that it is in. Returns False if nothing opened it."""
    if sys.platform in {"darwin", "win32", "cygwin"}:
        return click.launch(str(path), locate=folder) == 0
    # `click.launch` does not wait for the answer of xdg-open, which also stands on machines without any viewer.
    try:
        opener = subprocess.Popen(  # noqa: S603  # a list of arguments; the user's PATH decides which program it is
            ["xdg-open", path.parent if folder else path],  # noqa: S607  # the same
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return opener.wait(GRACE_SECONDS) == 0
    except OSError:
        return False
    except subprocess.TimeoutExpired:
        return True
