"""Processes of ours that start at once: each is forked from one that has loaded the package.

A start of the server takes 1.2 s of a processor, and all but a twentieth of that is loading. Tests whose subject is neither the start
nor what is loaded begin theirs here: a process like any other, with pipes, signals, an end and an exit code of its own. Those whose
subject it is use `subprocess`, and so does this where it can't fork: elsewhere than on Linux, for other programs, and for an
environment that Python itself reads when it starts. With FLUX2_TESTS_FORK=0, as in `make test-deep`, it forks nothing.

Run as a program, this module is the process that the others are forked from. Its standard input is a socket, over which it hears what
to start; and as it is their parent, it tells how they have ended.
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
import selectors
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from typing import Any

PROGRAM = [sys.executable, "-P", __file__]
LONGEST_MESSAGE_BYTES = 200_000
ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
LOADED_LATER = (
    *("anyio._backends._asyncio", "certifi", "ctypes", "httpcore", "platformdirs"),
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
    """The process that others are forked from: one of each pytest process, started at first use."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None

    def door(self) -> socket.socket:
        if self._door is None:
            self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            env = {name: os.environ[name] for name in KEPT if name in os.environ}
            with theirs:
                self.process = subprocess.Popen(PROGRAM, stdin=theirs.fileno(), env=env)
        return self._door

    def end(self) -> None:
        """Let it go, and with it the time that it and the others took: from now on this process's children's."""
        if self._door is not None and self.process is not None:
            self._door.close()
            self.process.wait()
            self._door = None


_parent = _Parent()
end = _parent.end


# --- the process that the others are forked from -----------------------------------------------------------------------


def _load() -> None:
    import flux2_mcp

    for module in pkgutil.walk_packages(flux2_mcp.__path__, "flux2_mcp."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(module.name)
    for name in LOADED_LATER:
        importlib.import_module(name)


def _serve(door: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork at each order. Gives the child its order and its descriptors, and the parent None in the end."""
    children: dict[int, tuple[int, int]] = {}
    with selectors.PollSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in children:
                    selector.unregister(key.fd)
                    pid, told = children.pop(key.fd)
                    _tell(told, os.waitpid(pid, 0)[1])
                    os.close(told)
                    os.close(key.fd)
                    continue
                message, descriptors, _, _ = socket.recv_fds(door, LONGEST_MESSAGE_BYTES, 4)
                if not message:
                    return None
                if not (pid := os.fork()):
                    return json.loads(message), descriptors
                *others, told = descriptors
                for descriptor in others:
                    os.close(descriptor)
                watched = os.pidfd_open(pid)
                selector.register(watched, selectors.EVENT_READ)
                children[watched] = pid, told
                _tell(told, pid)


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


def _main() -> None:
    gc.disable()
    _load()
    gc.freeze()
    gc.enable()
    with socket.socket(fileno=os.dup(0)) as door:
        ordered = _serve(door)
    if ordered is None:
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
    _main()
