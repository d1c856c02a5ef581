"""S3 over HTTP on loopback: the server of moto, which is not ours, in a process of its own. What it stores is in its memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property

import httpx2
import obstore
from obstore.store import S3Store

from flux2_mcp.images.store import MARK

BUCKET, PREFIX = "pictures", "team/one"
SECRET = "a-secret-that-opens-this-store"
START_SECONDS = 60.0


class S3Server:
    """A server with one bucket. It may be stopped, killed and started again, on the same port."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"s3://{BUCKET}/{PREFIX}"
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and make the bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        clean = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean)
        deadline = time.monotonic() + START_SECONDS
        with httpx2.Client(
            timeout=START_SECONDS, verify=False, trust_env=False
        ) as client:  # there is no TLS: to load certificates for each try costs 50 ms
            while time.monotonic() < deadline:
                with suppress(httpx2.HTTPError):
                    if client.put(f"{self.endpoint}/{BUCKET}").status_code == 200:
                        return
                time.sleep(0.05)
        raise AssertionError(self.endpoint)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @cached_property
    def raw(self) -> S3Store:
        """The bucket below its prefix, past our code."""
        named = {
            "endpoint": self.endpoint,
            "access_key_id": self.env["AWS_ACCESS_KEY_ID"],
            "secret_access_key": SECRET,
            "region": "us-east-1",
        }
        return S3Store(BUCKET, prefix=PREFIX, client_options={"allow_http": True}, **named)  # type: ignore[arg-type]  # fields of its configuration

    def put(self, name: str, data: bytes) -> None:
        """Write over what is there."""
        obstore.put(self.raw, name, data)

    def get(self, name: str) -> bytes:
        return bytes(obstore.get(self.raw, name).bytes())

    def names(self) -> list[str]:
        """The names of all images."""
        return [name for name in self.everything() if name != MARK]

    def clear(self) -> None:
        """Remove all images."""
        obstore.delete(self.raw, self.names())

    def lose(self) -> None:
        """Remove all that is there, as where another disk is mounted."""
        obstore.delete(self.raw, self.everything())

    def everything(self) -> list[str]:
        return sorted(each["path"] for page in obstore.list(self.raw) for each in page)


@contextmanager
def running() -> Iterator[S3Server]:
    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.stop()
