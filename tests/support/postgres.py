"""A PostgreSQL of Debian's package, in a folder of its own and on a unix socket only: python -m tests.support.postgres FOLDER.

All workers of a run share one: the first starts it, and each holds a lock while it lives. A process of its own waits until
that lock is free, then stops the server and removes its folder, also where the workers were killed.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg
import pytest

USERS = ("postgres", "nobody")
"""As whom it runs where the tests run as root, whom PostgreSQL refuses."""
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
"""For tests that cut no power: what was committed is there for every process, and nobody waits for the disk."""
SAFE = {"fsync": "on"}
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest that there is."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda path: int(path.parent.name), default=None)


class Cluster:
    """A server in a folder of its own. Another process may have started it.

    Args:
        folder: Its folder; its path must be short, since it holds a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = binaries()

    @property
    def url(self) -> str:
        """The address of its first database."""
        return f"postgresql://flux2@/postgres?host={self.folder}"

    def with_schema(self) -> str:
        """The address with a new, empty schema."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}&options=-csearch_path%3D{name}"

    def make(self, settings: dict[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._own(self.folder)
        self._run("initdb", "--username=flux2", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
                  "--wal-segsize=4", f"--pgdata={self.data}")  # fmt: skip
        lines = [f"{name} = '{value}'" for name, value in (SETTINGS | settings).items()]
        lines += [f"unix_socket_directories = '{self.folder}'", "unix_socket_permissions = 0777"]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        log = self.folder / "log"
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--silent", f"--pgdata={self.data}", f"--log={log}")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: nothing is written, and the next start recovers."""
        self._run("pg_ctl", "stop", "--wait", "--timeout=60", "--silent", f"--mode={mode}", f"--pgdata={self.data}")

    def use(self) -> int:
        """Note that this process uses the server, as long as the descriptor that is returned stays open."""
        users = os.open(self.folder / "users", os.O_RDWR | os.O_CREAT)
        fcntl.flock(users, fcntl.LOCK_SH)
        return users

    def end_when_unused(self) -> None:
        """Let a process of its own stop the server when nobody uses it any more, also where its users were killed."""
        command = [sys.executable, "-m", __name__, str(self.folder)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        os.posix_spawn(command[0], command, os.environ | {"PYTHONPATH": path}, setsid=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its processes: SIGSTOP is a server that says nothing."""
        parent = int((self.data / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True
        ).stdout
        for pid in (parent, *map(int, children.split())):
            with suppress(ProcessLookupError):  # one that served a connection may end meanwhile
                os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> None:
        assert self._bin is not None
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(
            command, user=_user(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    @staticmethod
    def _own(path: Path) -> None:
        if (user := _user()) is not None:
            shutil.chown(path, user)


@cache
def _user() -> str | None:
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in USERS if user in known)


@contextmanager
def cluster(settings: dict[str, str] = SAFE) -> Iterator[Cluster]:
    """A server of the caller's own, gone soon after the end."""
    server = Cluster(Path(tempfile.mkdtemp(prefix="pg-")))
    used = server.use()
    try:
        server.make(settings)
        server.start()
        server.end_when_unused()
        yield server
    finally:
        os.close(used)


@cache
def shared() -> Cluster:
    """The server that all workers of this run share."""
    if binaries() is None:
        pytest.skip("there is no PostgreSQL: its package has no place on the PATH or in /usr/lib/postgresql")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    folder = Path(tempfile.gettempdir()) / f"pg-{run[:12]}"
    server = Cluster(folder)
    folder.mkdir(mode=0o755, exist_ok=True)
    server.use()
    with (folder / "start").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            server.make(FAST)
            server.start()
            server.end_when_unused()
            (folder / "ready").touch()
    return server


def main() -> None:
    """Wait until no process uses the server; then stop it."""
    folder = Path(sys.argv[1])
    with (folder / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        with suppress(RuntimeError):  # it may be stopped already
            Cluster(folder).stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
