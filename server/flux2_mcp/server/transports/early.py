"""Answers what a host asks before anybody asks for an image, without the SDK: its import takes half a second and 60 MiB.

The first requests of a host never change: `initialize` or `server/discover`, then lists. A thread reads the real
input from the start and answers these requests from `early.jsonl`, a snapshot of the SDK's own replies. So no first turn
is without tools, and as long as a host asks nothing else, the SDK is not loaded (`sleep`). Once it loads, all input is
passed on unchanged, so the server sees the whole conversation; a `ping` alone leaves no trace and is not passed on. The
server's own answers to the answered requests are dropped (`stdio.StdioTransport`), and it makes no tools for a dropped
list (`shaping.Shaping.answered`).

Only requests of exactly the known form are answered here. The server answers all others, and also everything after a
line that is not understood here. A snapshot from another version of this package or of the SDK is not used.

To remove this: delete `sleep` and `plain`, this module, its snapshot, their tests, their use in `__main__`, and `answered`
in `server.shaping`. Nothing else imports them.
"""

from __future__ import annotations

# Each import delays the first answer, so pathlib, typing and dataclasses are not used: they take 2 to 9 ms each.
import json
import os
import select
import signal
import sys
import threading

from flux2_mcp import __version__

SNAPSHOT = os.path.join(os.path.dirname(__file__), "early.jsonl")
MAX_LINE_BYTES = 16_384
"""A longer line is not answered here; lines of real hosts have up to 700 bytes."""
MAX_DEPTH = 64
"""The maximum number of objects and lists in a line, far below the depth limit of any JSON reader."""
MAX_UNREAD_BYTES = 2**20
"""At most this much input is read before the server runs; the rest stays in the pipe."""
MAX_UNSENT_BYTES = 2**20
"""If a host reads so much less than it asks, nothing more is answered here."""
CHUNK_BYTES = 65_536
SWITCH_SECONDS = 0.0005
"""The maximum time that importing Python code makes this thread wait; Python's default is 5 ms."""

VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT = "io.modelcontextprotocol/clientInfo"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
PROGRESS = "progressToken"

INITIALIZED = "notifications/initialized"
RESOURCES = "resources/list"
"""It has the newest tasks, too, so its answer is not that of the snapshot alone."""

# The fields that the SDK accepts (mcp_types 2.3: Implementation, ClientCapabilities).
_INFO = frozenset({"name", "title", "version", "description", "websiteUrl"})
_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
_CAPABLE = frozenset({"roots", "sampling", "elicitation", "experimental", "extensions", "tasks"})


class Snapshot:
    """The SDK's replies, as JSON, by request.

    Args:
        clients: Rows of a part of a client's name, in lower case, and the shape of this client's replies; the first
            matching row is used.
        replies: By era, method, protocol version and shape.
    """

    def __init__(self, clients: list[list[str]], replies: dict[str, bytes]) -> None:
        self._clients = clients
        self._replies = replies

    @classmethod
    def read(cls, file: str = SNAPSHOT) -> Snapshot | None:
        """Return the snapshot; None if there is none from this version of the package and of the SDK."""
        try:
            with open(file, "rb") as lines:
                head = json.loads(next(lines))
                results = [line.rstrip(b"\n") for line in lines]
        except (OSError, StopIteration):
            return None
        made_by = dict(head["made_by"])
        if made_by.pop("flux2_mcp") != __version__ or not all(_installed(*each) for each in made_by.items()):
            return None
        return cls(head["clients"], {question: results[number] for question, number in head["replies"].items()})

    def shape(self, name: str) -> str:
        """Return the shape of the replies to a client of this name."""
        return next(shape for part, shape in self._clients if part in name.lower())

    def reply(self, *question: object) -> bytes | None:
        """Return the `result` for an era, a method, a protocol version and a shape, or None."""
        return self._replies.get(" ".join(map(str, question)))


def _installed(name: str, version: str) -> bool:
    # importlib.metadata would find the same, but its import takes longer than this whole module.
    return any(os.path.isdir(os.path.join(folder, f"{name}-{version}.dist-info")) for folder in sys.path)


class Opening:
    """Follows one conversation from its first line, and answers the requests that it knows.

    Args:
        snapshot: The answers.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._unknown = False
        self._modern: bool | None = None
        self._initialized = False
        self._negotiated: tuple[object, str | None] | None = None
        self._seen: set[int | str] = set()
        self.given: dict[int | str, str] = {}
        """The ids of the answered requests that the server sees, too, with their methods."""
        self.questions: set[int | str] = set()
        """The ids of requests for the list of resources that were not answered yet."""
        self.question: tuple[int | str, bytes] | None = None
        """The last line, if it is one of them: its id, and the snapshot's answer, which has no tasks."""
        self.settled = True
        """Whether every message so far was answered here, is one of `questions`, or asks for nothing."""
        self.traceless = False
        """Whether the last line was answered here, and the server has no use for it."""

    def answer(self, line: bytes) -> bytes | None:
        """Return the answer to a line, with a newline; None if the server answers it, or if it needs no answer."""
        self.traceless, self.question = False, None
        if self._unknown or (message := _message(line)) is None:
            self.leave()
            return None
        ident, method, params = message
        if ident is None:
            if method != INITIALIZED or params or self._negotiated is None:
                self.settled = False
            return None
        if ident in self._seen:  # the two answers would have one id. 2026-07-28 allows this, but only after the answer
            self.leave()
            return None
        return self._to_request(ident, method, params)

    def _to_request(self, ident: int | str, method: str, params: dict[str, object]) -> bytes | None:
        result = self._result(method, params)
        self.traceless = method == "ping" and result is not None
        if not self.traceless:
            self._seen.add(ident)
        if result is None:
            self.settled = False
            return None
        if method == RESOURCES:
            self.questions.add(ident)
            self.question = ident, result
            return None
        if not self.traceless:
            self.given[ident] = method
        return _answer(ident, result)

    def told(self, ident: int | str, result: bytes) -> bytes:
        """Return the answer to one of `questions`, with a newline; the question is over."""
        self.questions.remove(ident)
        self.given[ident] = RESOURCES
        return _answer(ident, result)

    def leave(self) -> None:
        """Leave everything from here on to the server."""
        self._unknown, self.settled = True, False

    def _result(self, method: str, params: dict[str, object]) -> bytes | None:
        meta = params.get("_meta", {})
        if not isinstance(meta, dict):
            self._unknown = True
            return None
        if self._modern is None:  # the first request decides for the whole session (mcp 2.3, `serve_dual_era_loop`)
            self._modern = method != "initialize" and VERSION in meta
        if self._modern:
            return self._modern_result(method, params, meta)
        if method == "initialize":
            return self._initialize(params)
        if (
            self._negotiated
            and params.keys() <= {"_meta"}
            and meta.keys() <= {PROGRESS}
            and _plain(meta.get(PROGRESS, 0))
        ):
            return self._snapshot.reply("legacy", method, *self._negotiated)
        return None

    def _initialize(self, params: dict[str, object]) -> bytes | None:
        first, self._initialized, self._negotiated = not self._initialized, True, None
        if not first or params.keys() != {"protocolVersion", "capabilities", "clientInfo"}:
            return None
        version, shape = params["protocolVersion"], self._shape(params["clientInfo"], params["capabilities"])
        reply = self._snapshot.reply("legacy", "initialize", version, shape)
        if reply is not None:
            self._negotiated = version, shape
        return reply

    def _modern_result(self, method: str, params: dict[str, object], meta: dict[str, object]) -> bytes | None:
        if params.keys() != {"_meta"} or not meta.keys() <= {VERSION, CLIENT, CAPABILITIES, LOG_LEVEL, PROGRESS}:
            return None
        level = meta.get(LOG_LEVEL, "info")
        if not (isinstance(level, str) and level in _LEVELS and _plain(meta.get(PROGRESS, 0))):
            return None
        shape = self._shape(meta.get(CLIENT, {"name": "", "version": ""}), meta.get(CAPABILITIES))
        return self._snapshot.reply("modern", method, meta.get(VERSION), shape)

    def _shape(self, info: object, capabilities: object) -> str | None:
        """Return the shape of this client's replies; None if its description of itself has an unknown form."""
        if not isinstance(info, dict) or not {"name", "version"} <= info.keys() <= _INFO:
            return None
        if not all(isinstance(value, str) for value in info.values()):
            return None
        if not isinstance(capabilities, dict) or not capabilities.keys() <= _CAPABLE:
            return None
        for name, value in capabilities.items():
            kind = bool if name == "roots" else dict
            if not isinstance(value, dict) or not all(isinstance(detail, kind) for detail in value.values()):
                return None
        return self._snapshot.shape(info["name"])


def _answer(ident: int | str, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (json.dumps(ident).encode(), result)


def _message(line: bytes) -> tuple[int | str | None, str, dict[str, object]] | None:
    """Return the id, method and parameters of a request; the id of a notification is None. None for any other line."""
    if len(line) > MAX_LINE_BYTES or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
        return None
    if b"\\u" in line:  # it may be half a surrogate pair, which the server handles
        return None
    try:
        message = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_strange)
    except ValueError:
        return None
    if not isinstance(message, dict) or not {"jsonrpc", "method"} <= message.keys() <= {
        "jsonrpc",
        "method",
        "id",
        "params",
    }:
        return None
    ident, method, params = message.get("id"), message["method"], message.get("params", {})
    if message["jsonrpc"] != "2.0" or not isinstance(method, str) or not isinstance(params, dict):
        return None
    return (ident, method, params) if "id" not in message or _plain(ident) else None


def _plain(ident: object) -> bool:
    """Whether every JSON writer writes this value in the same way."""
    return type(ident) is int or (isinstance(ident, str) and ident.isascii() and ident.isprintable())


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _strange(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


class EarlyAnswers:
    """Reads the input in a thread until the server takes over.

    Args:
        snapshot: The answers.
        source: The descriptor of the input, to which the host writes.
        sink: The descriptor of the output, from which the host reads.
    """

    def __init__(self, snapshot: Snapshot, source: int, sink: int) -> None:
        self._opening = Opening(snapshot)
        self._source = source
        self._sink = sink
        self._unread = bytearray()
        self._seen = 0
        self._unsent = bytearray()
        self._open = True
        self._may_end = False
        self._lost = False
        self._waited = False
        self._asked: list[tuple[int | str, bytes]] = []
        self._told: list[tuple[int | str, bytes]] = []
        self._news = threading.Lock()  # as a semaphore, cheaper than an Event: released where there is news
        self._news.acquire()
        self._bell, self._ringing = os.pipe()
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="flux2-early", daemon=True)
        self._thread.start()

    def may_end(self) -> None:
        """Allow the process to exit with 0 from now on, if the input has ended and nothing is left to answer."""
        self._may_end = True
        self._end_if_done()

    @property
    def needs_server(self) -> bool:
        """Whether something has come that is not answered here, or the host is lost."""
        return not self._opening.settled or self._lost or len(self._unread) >= MAX_UNREAD_BYTES

    @property
    def has_ended(self) -> bool:
        """Whether the input has ended."""
        return not self._open

    def wait(self, seconds: float) -> list[tuple[int | str, bytes]]:
        """Wait until `needs_server`, `has_ended` or a new question, but no longer than this.

        Returns:
            The new questions, as `Opening.question`. Each is returned once.
        """
        if not self._news.acquire(timeout=seconds):
            return []
        self._end_if_done()
        return [self._asked.pop(0) for _ in range(len(self._asked))]

    def main_thread_ends(self, *, it: bool) -> None:
        """From now on, only the main thread ends the process, in `wait`; or, with False, either does."""
        self._waited = it
        self._end_if_done()

    def interrupt(self) -> None:
        """End the present or the next `wait`, as if there were news."""
        self._tell_news()

    def _tell_news(self) -> None:
        try:  # noqa: SIM105  # without another import
            self._news.release()
        except RuntimeError:  # it is not locked: nobody has read what was told before
            pass

    def tell(self, ident: int | str, result: bytes) -> None:
        """Answer one of the questions that `wait` returned."""
        self._told.append((ident, result))
        os.write(self._ringing, b".")

    def hand_over(self) -> tuple[bytes, bytes, dict[int | str, str]]:
        """Stop. Return the input, the unwritten output, and the ids of the answered requests with their methods."""
        os.close(self._ringing)
        self._thread.join()
        os.close(self._bell)
        sys.setswitchinterval(self._interval)
        return bytes(self._unread), bytes(self._unsent), self._opening.given

    def _run(self) -> None:
        # Signals are the main thread's. If it waits, it also ends the process, so that of a signal and the end of input
        # the one that came first decides the code.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGIO})
        try:
            while self._turn():
                if self._asked or self.needs_server or self.has_ended:
                    self._tell_news()
        except OSError:
            self._lost = True  # the host is gone; the server will notice this, too
            self._tell_news()

    def _turn(self) -> bool:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if self._open and len(self._unread) < MAX_UNREAD_BYTES:
            poll.register(self._source, select.POLLIN)
        if self._unsent:
            poll.register(self._sink, select.POLLOUT)
        ready = dict(poll.poll())
        if self._bell in ready:
            if not os.read(self._bell, select.PIPE_BUF):
                return False
            while self._told:
                self._unsent += self._opening.told(*self._told.pop(0))
        if self._sink in ready:
            del self._unsent[: os.write(self._sink, self._unsent[: select.PIPE_BUF])]
        if self._source in ready:
            chunk = os.read(self._source, CHUNK_BYTES)
            self._open = bool(chunk)
            self._unread += chunk
            self._answer()
        self._end_if_done()
        return True

    def _answer(self) -> None:
        while (end := self._unread.find(b"\n", self._seen)) >= 0:
            line = bytes(self._unread[self._seen : end])
            if len(self._unsent) > MAX_UNSENT_BYTES:
                self._opening.leave()
            if not line.strip():
                self._seen = end + 1
                continue
            self._unsent += self._opening.answer(line) or b""
            if self._opening.question is not None:
                self._asked.append(self._opening.question)
            if self._opening.traceless:
                del self._unread[self._seen : end + 1]
            else:
                self._seen = end + 1

    def _end_if_done(self) -> None:
        rest = self._unsent or self._seen < len(self._unread) or not self._opening.settled or self._opening.questions
        if not self._may_end or self._open or rest:
            return
        if not self._waited or threading.current_thread() is not self._thread:
            os._exit(0)  # nothing is open that has to be closed
