"""Processes of ours that start at once: each is forked from one that has loaded the package.

A start of the server takes 1.2 s of a processor, and all but a twentieth of that is loading. Tests whose subject is neither the start
nor what is loaded begin theirs here: a process like any other, with pipes, signals, an end and an exit code of its own. Those whose
subject it is use `subprocess`, and so does this where it can't fork: elsewhere than on Linux, for other programs, and for an
environment that Python itself reads when it starts. With FLUX2_TESTS_FORK=0, as in `make test-deep`, it forks nothing.

Run as a program, this module is the process that the others are forked from: one for all workers of a run. Its standard input is a
socket, over which it hears what to start, as over those that connect to it; and as it is their parent, it tells how they have ended.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

PROGRAM = [sys.executable, "-P", __file__]
SHARED = "FLUX2_TESTS_PARENT"
"""Names the socket of the process that all workers of this run fork from."""
LONGEST_MESSAGE_BYTES = 200_000
ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
LOADED_LATER = (
    *("anyio._backends._asyncio", "ctypes", "httpcore2", "platformdirs"),
    *("PIL.JpegImagePlugin", "PIL.PngImagePlugin", "uvicorn.protocols.http.h11_impl"),
)
"""What our modules and their libraries load at first use."""
OURS = (["-m", "flux2_mcp"], ["-c"], ["-P", "-c"])
"""What may stand behind the name of our Python."""
READ_AT_THE_START = ("PYTHON", "LC_", "LANG")
"""Beginnings of the variables that Python looks at before it runs anything."""
KEPT = ("PATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")


def can(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether this may be forked: a Python of ours that runs our program or code, in an environment that is read later."""
    ours = command[0] == sys.executable and any([*command[1 : 1 + len(words)]] == words for words in OURS)
    wanted = sys.platform == "linux" and os.environ.get("FLUX2_TESTS_FORK") != "0"
    return wanted and ours and not any(_read_at_the_start(name) for name in env)


def _read_at_the_start(name: str) -> bool:
    return name.startswith(READ_AT_THE_START) and name not in KEPT


def begin(command: Sequence[str], env: Mapping[str, str], **more: Any) -> subprocess.Popen[Any]:  # noqa: ANN401  # Popen's own
    """As `subprocess.Popen`. With `start_new_session`, a terminal that is its standard error is the session's."""
    if can(command, env):
        return _Forked(command, env=dict(env), **more)
    return subprocess.Popen(command, env=dict(env), **more)


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout: float,
    given: str | None = None,
    **more: Any,  # noqa: ANN401  # Popen's own
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`: to its end, with its output as text. `given`: what it reads."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    source = subprocess.DEVNULL if given is None else subprocess.PIPE
    with begin(command, env, text=True, stdin=source, **pipes) as process:
        try:
            out, err = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class _Forked(subprocess.Popen[Any]):
    """Private methods, for want of others: where a process is made, and where its end is heard of."""

    def _execute_child(self, *given: object) -> None:
        base: Any = subprocess.Popen
        asked = inspect.signature(base._execute_child).bind(self, *given).arguments
        order = {
            "words": [os.fspath(word) for word in asked["args"]],
            "env": asked["env"],
            "folder": os.fspath(asked["cwd"] or "."),
            "session": asked["start_new_session"],
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
            descriptors = [own if end == -1 else end for own, end in enumerate(ends)]
            socket.send_fds(_parent.door(), [json.dumps(order).encode()], [*descriptors, theirs.fileno()])
        self._close_pipe_fds(*(asked[name] for name in ENDS))  # type: ignore[attr-defined]
        self._told = ours
        self.pid = int(ours.recv(16))
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None, *_: object) -> int | None:
        base: Any = super()
        code: int | None = base._internal_poll(_deadstate, lambda _, flags: self._try_wait(flags))
        return code

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """As `os.waitpid` answers a parent."""
        self._told.setblocking(not wait_flags & os.WNOHANG)
        try:
            told = self._told.recv(16)
        except BlockingIOError:
            return 0, 0
        self._told.close()
        return self.pid, int(told)


class _Parent:
    """The process that others are forked from, or the way to that of the whole run. It loads the package at the first order."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def door(self) -> socket.socket:
        if self._door is None:
            if SHARED in os.environ:
                self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._door.connect(os.environ[SHARED])
            else:
                self._start()
        assert self._door is not None
        return self._door

    def share(self) -> None:
        """Start it for the workers of this run, which begin after this."""
        if sys.platform == "linux":
            self._folder = tempfile.TemporaryDirectory(prefix="flux2-")
            os.environ[SHARED] = f"{self._folder.name}/parent"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(os.environ[SHARED])
                listener.listen()
                self._start(str(listener.fileno()), pass_fds=[listener.fileno()])

    def _start(self, *argv: str, **more: Any) -> None:  # noqa: ANN401  # Popen's own
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        with theirs:
            self._process = subprocess.Popen([*PROGRAM, *argv], stdin=theirs.fileno(), env=env, **more)

    def end(self) -> None:
        """Let it go, and with it the time that it and the others took: from now on this process's children's."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            del os.environ[SHARED]


_parent = _Parent()
share, end = _parent.share, _parent.end


# --- the process that the others are forked from -----------------------------------------------------------------------


@cache
def _load() -> None:
    """Load all of the package, and keep it out of every later search for garbage."""
    import flux2_mcp

    gc.disable()
    for module in pkgutil.walk_packages(flux2_mcp.__path__, "flux2_mcp."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(module.name)
    for name in LOADED_LATER:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _serve(owner: int, listener: int | None) -> tuple[dict[str, Any], list[int]] | None:
    """Fork at each order. Gives the child its order and its descriptors, and the parent None once its owner has gone."""
    children: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    if listener is not None:
        poll.register(listener, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in children:
                poll.unregister(ready)
                pid, told = children.pop(ready)
                _tell(told, os.waitpid(pid, 0)[1])
                os.close(told)
                os.close(ready)
                continue
            if ready == listener:
                poll.register(_accepted(listener), select.POLLIN)
                continue
            message, descriptors = _heard(ready)
            if not message:
                if ready == owner:
                    return None
                poll.unregister(ready)
                os.close(ready)
                continue
            _load()
            if not (pid := os.fork()):
                return json.loads(message), descriptors
            *others, told = descriptors
            for descriptor in others:
                os.close(descriptor)
            children[watched := os.pidfd_open(pid)] = pid, told
            poll.register(watched, select.POLLIN)
            _tell(told, pid)


def _accepted(listener: int) -> int:
    with socket.socket(fileno=os.dup(listener)) as listening:
        connection, _ = listening.accept()
    return connection.detach()


def _heard(door: int) -> tuple[bytes, list[int]]:
    """One order and its descriptors, or nothing if the other side has gone."""
    with socket.socket(fileno=os.dup(door)) as heard:
        try:
            message, descriptors, _, _ = socket.recv_fds(heard, LONGEST_MESSAGE_BYTES, 4)
        except ConnectionResetError:
            return b"", []
    return message, descriptors


def _tell(told: int, number: int) -> None:
    """One message, if whoever began the process still listens."""
    try:
        os.write(told, str(number).encode())
    except BrokenPipeError:
        return


def _become(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Make of this process one that was started so."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    if order["session"]:
        os.setsid()
        if os.isatty(2):
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)
    coerced = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}  # Python itself sets it
    os.environ.clear()
    os.environ.update(order["env"] | coerced)
    os.chdir(order["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        old = getattr(sys, name)
        buffering = 1 if name == "stderr" else -1
        new = open(number, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _main(listener: int | None = None) -> None:
    if (ordered := _serve(0, listener)) is None:
        return
    order, descriptors = ordered
    _become(order, descriptors)
    _, *words = order["words"]
    [options] = [each for each in OURS if words[: len(each)] == each]
    if options[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words[len(options) - 1 :]
        code = sys.argv.pop(1)
        exec(code, vars(sys.modules["__main__"]))  # noqa: S102  # the test's own


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
