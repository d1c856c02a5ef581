"""The command line in processes of its own: run to its end, on a terminal, or serving."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support import forked

DEADLINE = 60.0
COMMAND = [sys.executable, "-m", "flux2_mcp"]


def flux2_mcp(env: Mapping[str, str], *args: str, **more: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401  # subprocess's own
    """One command, run to its end. Whatever becomes of it, nobody sees a stack trace."""
    done = forked.run([*COMMAND, *args], env, timeout=DEADLINE, **more)
    assert "Traceback" not in (done.stderr or "") + (done.stdout or "")
    return done


# A terminal's Ctrl-C goes to the session that owns it.
OWN = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A terminal of 100 columns, and the process that has it as its stderr; as its stdin too where `typing`, as its stdout
    where `whole`. What `loads` is not forked."""

    def __init__(
        self,
        env: Mapping[str, str],
        command: list[str],
        *,
        typing: bool,
        whole: bool = False,
        cwd: Path | None = None,
        loads: bool = False,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.process = forked.begin(
            command if forked.can(command, env) and not loads else [sys.executable, "-ISc", OWN, *command],
            env,
            cwd=cwd,
            stdin=theirs if typing else subprocess.DEVNULL,
            stdout=theirs if whole else subprocess.PIPE,
            stderr=theirs,
            text=True,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until `text` stands on the terminal."""
        while text not in self.seen:
            assert self._read(), f"{text!r} never came: {self.seen!r}"

    def keys(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def end(self) -> tuple[int, str]:
        """The exit code and what came on stdout; all that came on the terminal is in `seen`."""
        while self._read():
            pass
        out, _ = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out or ""

    def _read(self) -> bool:
        assert select.select([self._ours], [], [], DEADLINE)[0], f"silence after {self.seen!r}"
        try:
            came = os.read(self._ours, 65536)
        except OSError:
            return False  # the other side has closed: on Linux that is an error
        self.seen += came.decode()
        return bool(came)

    def close(self) -> None:
        os.close(self._ours)
        self.process.kill()
        self.process.wait()


@contextmanager
def on_terminal(
    env: Mapping[str, str],
    *command: str,
    typing: bool = False,
    whole: bool = False,
    cwd: Path | None = None,
    loads: bool = False,
) -> Iterator[Terminal]:
    with closing(Terminal(env, [*COMMAND, *command], typing=typing, whole=whole, cwd=cwd, loads=loads)) as terminal:
        yield terminal
        assert "Traceback" not in terminal.seen


@contextmanager
def serving(env: Mapping[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A running `flux2-mcp sandbox` and its two lines as an environment."""
    command = [*COMMAND, "sandbox", *options]
    with forked.begin(command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            # As a shell takes them that they are pasted into.
            shell = ["/bin/sh", "-c", "".join(lines) + 'printf "%s\\n%s" "$RUNAPI_BASE_URL" "$RUNAPI_API_KEY"']
            values = subprocess.run(shell, env={}, capture_output=True, text=True, check=True).stdout.splitlines()
            assert all(line.startswith("export ") for line in lines)
            yield process, dict(zip(("RUNAPI_BASE_URL", "RUNAPI_API_KEY"), values, strict=True))
        finally:
            process.kill()


def known(data: Any) -> Any:  # noqa: ANN401  # any JSON value
    """Data without what is null or empty: a tool leaves out most of that."""
    if isinstance(data, dict):
        return {name: known(value) for name, value in data.items() if value not in (None, [])}
    return [known(value) for value in data] if isinstance(data, list) else data
