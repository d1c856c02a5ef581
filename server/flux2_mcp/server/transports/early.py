"""Answers a host's first requests while the SDK is still importing: after a late answer, the first turn has no tools.

The first requests of a host never change: `initialize` or `server/discover`, then `tools/list`. A thread reads the real
input from the start and answers these requests from `early.jsonl`, a snapshot of the SDK's own replies. All input is
passed on unchanged, so the server sees the whole conversation. The server's own answers to these requests are dropped
(`stdio.StdioTransport`), and it makes no tools for a dropped list (`shaping.Shaping.answered`).

Only requests of exactly the known form are answered here. The server answers all others, and also everything after a
line that is not understood here. A snapshot from another version of this package or of the SDK is not used.

To remove this: delete this module, its snapshot, its tests, its use in `__main__`, and `answered` in `server.shaping`.
Nothing else imports it.
"""

from __future__ import annotations

# Each import delays the first answer, so pathlib, typing and dataclasses are not used: they take 2 to 9 ms each.
import json
import os
import select
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
CHUNK_BYTES = 65_536
SWITCH_SECONDS = 0.0005
"""The maximum time that importing Python code makes this thread wait; Python's default is 5 ms."""

VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT = "io.modelcontextprotocol/clientInfo"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"

# The fields that the SDK accepts (mcp_types 2.3: Implementation, ClientCapabilities).
_INFO = frozenset({"name", "title", "version", "description", "websiteUrl"})
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
        """The ids of the answered requests, with their methods."""
        self.settled = True
        """Whether every message so far was answered here, or needs no answer."""

    def answer(self, line: bytes) -> bytes | None:
        """Return the answer to a line, with a newline; None if the server answers it, or if it needs no answer."""
        if self._unknown or (message := _message(line)) is None:
            self._unknown, self.settled = True, False
            return None
        ident, method, params = message
        if ident is None:
            return None
        if ident in self._seen:  # the two answers would have one id. 2026-07-28 allows this, but only after the answer
            self._unknown, self.settled = True, False
            return None
        self._seen.add(ident)
        result = self._result(method, params)
        if result is None:
            self.settled = False
            return None
        self.given[ident] = method
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (json.dumps(ident).encode(), result)

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
        token = meta.get("progressToken", 0)
        if self._negotiated and params.keys() <= {"_meta"} and meta.keys() <= {"progressToken"} and _plain(token):
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
        if params.keys() != {"_meta"} or not meta.keys() <= {VERSION, CLIENT, CAPABILITIES}:
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
        self._stop, self._stopping = os.pipe()
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="flux2-early", daemon=True)
        self._thread.start()

    def may_end(self) -> None:
        """Allow the process to exit with 0 from now on, if the input has ended and nothing is left to answer."""
        self._may_end = True
        self._end_if_done()

    def hand_over(self) -> tuple[bytes, bytes, dict[int | str, str]]:
        """Stop. Return the input, the unwritten output, and the ids of the answered requests with their methods."""
        os.close(self._stopping)
        self._thread.join()
        os.close(self._stop)
        sys.setswitchinterval(self._interval)
        return bytes(self._unread), bytes(self._unsent), self._opening.given

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except OSError:
            pass  # the host is gone; the server will notice this, too

    def _turn(self) -> bool:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        if self._open and len(self._unread) < MAX_UNREAD_BYTES:
            poll.register(self._source, select.POLLIN)
        if self._unsent:
            poll.register(self._sink, select.POLLOUT)
        ready = dict(poll.poll())
        if self._stop in ready:
            return False
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
            line, self._seen = bytes(self._unread[self._seen : end]), end + 1
            if line.strip():
                self._unsent += self._opening.answer(line) or b""

    def _end_if_done(self) -> None:
        rest = self._unsent or self._seen < len(self._unread) or not self._opening.settled
        if self._may_end and not self._open and not rest:
            os._exit(0)  # from either thread; nothing is open that has to be closed
