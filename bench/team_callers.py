"""A team's servers that are killed and come back, and people who call through whichever of them lives."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from tests.support.sandboxed import TLS
from tests.support.stdio import MODERN, dressed
from tests.support.team import Team
from tests.support.web import ACCEPT, messages

PUBLIC = "https://flux2.example.com"
API = "/api/v1/flux_2/text_to_image"
ELSEWHERE = (
    "import os; real = os.uname(); node = os.uname_result((real[0], {name!r}, *real[2:])); os.uname = lambda: node"
)
"""What a replica runs before: it is on a machine of its own then, and no table of processes tells of its end."""
START_SECONDS = 120.0
CALL_SECONDS = 60.0
OK, PAYMENT_REQUIRED = 200, 402
PATIENCE_SECONDS = 240.0
"""How long a person tries to get an answer to a call."""
PAUSE_SECONDS = 0.3
CAPS = ("FLUX2_PERSON_DAILY_BUDGET_USD", "FLUX2_DAILY_BUDGET_USD")


class Replicas:
    """So many servers. Each that starts is on a new machine: it has a name and an empty home of its own.

    Args:
        env: What they share.
        folder: For their homes.
        count: How many.
    """

    def __init__(self, env: Mapping[str, str], folder: Path, count: int) -> None:
        self._env = env
        self._folder = folder
        self._lock = threading.Lock()
        self._serving: dict[int, Team] = {}
        self._starts: list[threading.Thread] = []
        self._over = False
        self.said = list[str]()
        self.failed_starts = 0
        for number in range(count):
            self._begin(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self._starts:
            thread.join()
        for team in self._serving.values():
            self.said.append(team.stop())

    def bases(self) -> list[str]:
        """The addresses of those that serve."""
        with self._lock:
            return [team.base for team in self._serving.values()]

    def kill(self, dice: Random) -> tuple[int, float]:
        """Kill one that serves, and start another in its place. Gives the process id, and when it was killed."""
        with self._lock:
            number = dice.choice(sorted(self._serving))
            team = self._serving.pop(number)
        at = time.monotonic()
        team.process.kill()
        self.said.append(team.stop())
        self._begin(number)
        return team.process.pid, at

    def _begin(self, number: int) -> None:
        thread = threading.Thread(target=self._start, args=(number,))
        self._starts.append(thread)
        thread.start()

    def _start(self, number: int) -> None:
        """Start a server, again and again, as a service manager does: without its database it does not start."""
        name = f"machine-{number}-{time.monotonic_ns()}"
        home = self._folder / name
        home.mkdir()
        env = {**self._env, "HOME": str(home), "FLUX2_HOME": str(home / "home")}
        code = ELSEWHERE.format(name=name)
        deadline = time.monotonic() + START_SECONDS
        while not self._over and time.monotonic() < deadline:
            try:
                team = Team(env, None, "--public-url", PUBLIC, public=PUBLIC, code=code)
            except (AssertionError, OSError):  # it has ended already
                self.failed_starts += 1
                time.sleep(PAUSE_SECONDS)
                continue
            with self._lock:
                self._serving[number] = team
            return


class NotAnsweredError(Exception):
    """No replica gave an answer that counts in all that time."""


class Caller:
    """One person's calls, each to a replica that the dice choose, and to another one until it is answered.

    Args:
        replicas: Where to call.
        token: The person's.
        dice: Choose the replica.
        tries: Counts why a call was made again.
    """

    def __init__(self, replicas: Replicas, token: str, dice: Random, tries: Counter[str]) -> None:
        self._replicas = replicas
        self._dice = dice
        self._tries = tries
        headers = ACCEPT | {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(verify=TLS, timeout=CALL_SECONDS, headers=headers)

    def close(self) -> None:
        self._http.close()

    def create(self, body: Mapping[str, Any], key: str) -> tuple[list[str], str | None]:
        """A task over RunAPI's own HTTP. Gives its id; or none, and the cap that refused it."""
        answer = self._answered(
            lambda base: self._http.post(f"{base}{API}", json=dict(body), headers={"Idempotency-Key": key}),
            lambda response: response.status_code in {OK, PAYMENT_REQUIRED},
        )
        if answer.status_code == PAYMENT_REQUIRED:
            return [], _cap(answer.text)
        return [str(answer.json()["id"])], None

    def ended(self, task_id: str) -> str:
        """Poll a task over RunAPI's own HTTP until it has ended. Gives its status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            shown = self._answered(lambda base: self._http.get(f"{base}{API}/{task_id}"), _is_ok).json()
            if shown["status"] in {"completed", "failed"}:
                return str(shown["status"])
            time.sleep(2 * PAUSE_SECONDS)
        raise NotAnsweredError(task_id)

    def image(self, task_id: str) -> bytes:
        """The bytes of a finished task's image, by a link."""
        shown = self._answered(lambda base: self._http.get(f"{base}{API}/{task_id}"), _is_ok).json()
        link = urlsplit(shown["images"][0]["url"])
        return self._answered(lambda base: self._http.get(f"{base}{link.path}?{link.query}"), _is_ok).content

    def generate(self, key: str, **arguments: object) -> tuple[list[str], str | None]:
        """Tasks by the tool. Gives their ids; or none, and the cap that refused them."""
        result = self._tool("generate", idempotency_key=key, wait_seconds=0, preview=False, **arguments)
        ids = _ids(result)  # of tasks that have failed already, an error tells
        return (ids, None) if ids else ([], _cap(_text(result)))

    def check(self, task_ids: list[str]) -> None:
        """Wait by the tool until they all have ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = self._tool("check_task", task_ids=task_ids, wait_seconds=5)
            if all(task["status"] in {"completed", "failed"} for task in found["structuredContent"]["tasks"]):
                return
        raise NotAnsweredError(str(task_ids))

    def _tool(self, name: str, **arguments: object) -> dict[str, Any]:
        params = dressed(MODERN, {"name": name, "arguments": arguments}, {})
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        told = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
        answer = self._answered(
            lambda base: self._http.post(f"{base}/mcp", json=message, headers=told),
            lambda each: _result(each) is not None,
        )
        result = _result(answer)
        assert result is not None
        return result

    def _answered(
        self, send: Callable[[str], httpx2.Response], counts: Callable[[httpx2.Response], bool]
    ) -> httpx2.Response:
        deadline, why = time.monotonic() + PATIENCE_SECONDS, "no replica serves"
        while time.monotonic() < deadline:
            if bases := self._replicas.bases():
                why = "no connection, or it broke off"
                with suppress(httpx2.HTTPError):
                    answer = send(self._dice.choice(bases))
                    if counts(answer):
                        return answer
                    why = f"{answer.status_code} {_reason(answer)}"[:110]
            self._tries[why] += 1
            time.sleep(PAUSE_SECONDS)
        raise NotAnsweredError(why)


def _is_ok(response: httpx2.Response) -> bool:
    return response.status_code == OK


def _result(response: httpx2.Response) -> dict[str, Any] | None:
    """The result of a tool call; None if it is to be made again: it broke off, or its error is none of a cap."""
    if response.status_code != OK:
        return None
    found = [message["result"] for message in messages(response) if "result" in message]
    if not found:
        return None
    result = dict(found[-1])
    told = not result.get("isError") or _ids(result) or any(cap in _text(result) for cap in CAPS)
    return result if told else None


def _ids(result: Mapping[str, Any]) -> list[str]:
    return [task["task_id"] for task in (result.get("structuredContent") or {}).get("tasks", [])]


def _reason(response: httpx2.Response) -> str:
    """What a refusal says, in short."""
    with suppress(ValueError, KeyError, IndexError, TypeError):
        *_, message = messages(response)
        if "result" in message:
            return _text(message["result"])
        error = message["error"]
        return str(error["message"] if isinstance(error, dict) else message.get("error_description", error))
    return response.text


def _text(result: Mapping[str, Any]) -> str:
    return str(result["content"][0]["text"])


def _cap(text: str) -> str:
    return next((cap for cap in CAPS if cap in text), text[:110])
