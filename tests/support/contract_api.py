"""RunAPI as its published contract has it, and nothing more: what is not in the contract is refused.

It shares no code with the sandbox. Its pictures are small: a red disc on white. It cuts the disc out, and enlarges.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from io import BytesIO
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageDraw

KEY = "runapi_contract_0123456789"
NEXT_KEY = "runapi_contract_9876543210"
"""A later key of the same account."""
CATALOGUE = json.loads(files("flux2_mcp.domain").joinpath("catalog.json").read_text("utf-8"))
SMALL_PX = 720
"""The side of a square that is as small as may be for a picture of `1k`."""


def _endpoints() -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    lines = [{"service": CATALOGUE["service"], "actions": CATALOGUE["actions"]}, *CATALOGUE["lines"]]
    return {
        (line["service"].replace("-", "_"), action): (line["service"], spec["fields_by_model"])
        for line in lines
        for action, spec in line["actions"].items()
    }


ENDPOINTS = _endpoints()


@dataclass
class Made:
    """A task, and how often it was polled."""

    id: str
    place: tuple[str, str]
    body: dict[str, Any]
    polls: int = 0
    picture: bytes | None = None
    error: str | None = None


@dataclass
class ContractApi:
    """What was made, and what goes wrong: `failing` models or tasks fail, `cents` are the charges by model.

    The next `busy_uploads` uploads get a 503; `no_uploads` refuses all. Of tasks in `gone`, the image can't be fetched.
    `schedules` are the prices that the live schedule has, by model; others are not priced. `side_px` is that of a square
    picture of 1k.
    """

    url: str = ""
    tasks: dict[str, Made] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    creates: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)
    opaque: bool = False
    cents: dict[str, int] = field(default_factory=dict)
    schedules: dict[str, int] = field(default_factory=dict)
    polls_needed: int = 1
    gone: set[str] = field(default_factory=set)
    busy_uploads: int = 0
    no_uploads: bool = False
    side_px: int = 1024
    lock: Lock = field(default_factory=Lock)

    def made(self, model: str) -> list[Made]:
        """The tasks of a model, oldest first."""
        return [task for task in self.tasks.values() if task.body["model"] == model]


def _wrong(fields: dict[str, Any], body: dict[str, Any]) -> str | None:
    for name, value in body.items():
        spec = fields.get(name)
        if spec is None:
            return f"{name} is not a field"
        kinds = {"string": str, "integer": int, "boolean": bool, "array": list}
        if type(value) is not kinds[spec["type"]]:
            return f"{name} is of another kind"
        if "enum" in spec and value not in spec["enum"]:
            return f"{name} is not allowed"
        size = len(value) if isinstance(value, str | list) else 0
        if size > spec.get("max", spec.get("max_items", 10**9)) or size < spec.get("min", spec.get("min_items", 0)):
            return f"{name} has another size"
    missing = [name for name, spec in fields.items() if spec.get("required") and name not in body]
    return f"{missing[0]} is missing" if missing else None


def _png(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


@cache
def _drawn(ratio: str, side: int) -> bytes:
    across, down = map(int, ratio.replace("auto", "1:1").split(":"))
    area = side**2
    size = (round((area * across / down) ** 0.5), round((area * down / across) ** 0.5))
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill="red")
    return _png(picture)


@cache
def _finished(action: str, factor: int, source: bytes, *, opaque: bool) -> bytes:
    picture: Image.Image = Image.open(BytesIO(source))
    if action == "upscale_image":
        return _png(picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST))
    if not opaque:
        picture = picture.convert("RGB")
        red = picture.getchannel("G").point([255 if value < 128 else 0 for value in range(256)])
        picture.putalpha(red)
    return _png(picture)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    api: ContractApi

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def reply(self, status: int, body: object, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def sent(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        data = self.sent()
        with self.api.lock:
            self.api.files[self.path.rpartition("/")[2]] = data
        assert "Authorization" not in self.headers
        self.reply(200, b"", "text/plain")

    def do_POST(self) -> None:
        data = json.loads(self.sent())
        if self.headers.get("Authorization") not in {f"Bearer {KEY}", f"Bearer {NEXT_KEY}"}:
            self.reply(401, {"error": "Unknown key"})
            return
        with self.api.lock:
            self.reply(*self.posted(data))

    def posted(self, data: dict[str, Any]) -> tuple[int, object]:
        _, _, _, *place = self.path.split("/")
        if place == ["files", "prepare"]:
            if self.api.busy_uploads:
                self.api.busy_uploads -= 1
                return 503, {"error": "Busy"}
            if self.api.no_uploads:
                return 422, {"error": "No such file type."}
            name = f"file{len(self.api.files)}"
            self.api.files[name] = b""
            return 200, {"upload_url": f"{self.api.url}/store/{name}", "headers": {"X-Store": "1"}, "signed_id": name}
        if place == ["files", "confirm"]:
            url = f"{self.api.url}/store/{data['signed_id']}"
            return 200, {"file_name": "x.png", "url": url, "size_bytes": 1, "mime_type": "image/png"}
        if len(place) != 2 or (place[0], place[1]) not in ENDPOINTS:
            return 404, {"error": "Not found"}
        return self.create((place[0], place[1]), data)

    def create(self, place: tuple[str, str], data: dict[str, Any]) -> tuple[int, object]:
        _, models = ENDPOINTS[place]
        if data.get("model") not in models:
            return 422, {"error": "No such model"}
        if (wrong := _wrong(models[data["model"]], data)) is not None:
            return 422, {"error": wrong}
        key = self.headers["Idempotency-Key"]
        self.api.creates[key] += 1
        ident = self.api.keys.setdefault(key, f"task-{len(self.api.tasks) + 1}")
        if ident not in self.api.tasks:
            self.api.tasks[ident] = Made(ident, place, data)
        elif self.api.tasks[ident].body != data:
            return 409, {"error": "Another request has this key"}
        return 200, {"id": ident}

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        with self.api.lock:
            if parts[0] == "store":
                self.reply(200, self.api.files[parts[1]], "image/png")
            elif parts[0] == "results" and parts[1] not in self.api.gone:
                self.reply(200, self.api.tasks[parts[1]].picture or b"", "image/png")
            elif url.path == "/api/v1/price_schedules":
                self.reply(200, self.prices(parse_qs(url.query)["service"][0]))
            elif url.path == "/api/v1/me":
                self.reply(200, {"name": "Owner", "account": {"id": "account-1"}})
            elif url.path == "/api/v1/me/balance":
                self.reply(200, {"balance_cents": 1000})
            elif len(parts) == 5 and (task := self.api.tasks.get(parts[4])) and task.place == (parts[2], parts[3]):
                self.reply(200, self.polled(task))
            else:
                self.reply(404, {"error": "Not found"})

    def prices(self, service: str) -> dict[str, Any]:
        found = [
            {"service": service, "action": place[1], "model": model, "currency": "USD", "unit_price_cents": cents}
            for place, (of_service, models) in ENDPOINTS.items()
            for model in models
            if of_service == service and (cents := self.api.schedules.get(model)) is not None
        ]
        return {"as_of": "2026-11-28T00:00:00Z", "price_schedules": found}

    def polled(self, task: Made) -> dict[str, Any]:
        task.polls += 1
        if task.polls <= self.api.polls_needed:
            return {"id": task.id, "status": "processing"}
        model = task.body["model"]
        if self.api.failing & {model, task.id}:
            return {"id": task.id, "status": "failed", "error": "The model could not do it."}
        if task.picture is None:
            body = task.body
            task.picture = (
                _drawn(
                    body.get("aspect_ratio", "1:1"),
                    self.api.side_px * (1 if body.get("output_resolution", "1k") == "1k" else 2),
                )
                if "source_image_url" not in body
                else _finished(
                    task.place[1],
                    body.get("upscale_factor", 2),
                    self.source(body["source_image_url"]),
                    opaque=self.api.opaque,
                )
            )
        usage = {"usage": {"cost": self.api.cents[model] / 100}} if model in self.api.cents else {}
        return {
            "id": task.id,
            "status": "completed",
            "images": [{"url": f"{self.api.url}/results/{task.id}"}],
            **usage,
        }

    def source(self, url: str) -> bytes:
        assert url.startswith(self.api.url), url
        kind, name = urlsplit(url).path.strip("/").split("/")
        return self.api.files[name] if kind == "store" else self.api.tasks[name].picture or b""


@contextmanager
def contract_api() -> Iterator[ContractApi]:
    """Serve it on loopback."""
    api = ContractApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ApiHandler", (Handler,), {"api": api}))
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
