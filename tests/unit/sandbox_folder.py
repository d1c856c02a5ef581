"""A sandbox folder under a clock of the test's own, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flux2_mcp import catalog
from flux2_mcp.models import Action
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import State
from flux2_mcp.sandbox.tasks import Order, Task

NOON = 1_800_000_000.0 // 86_400 * 86_400 + 43_200
"""Some noon in UTC."""


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(folder: Path, clock: Clock | None = None, **options: float | None) -> Iterator[State]:
    state = State(folder / "sandbox", clock=clock or Clock(), **options)  # type: ignore[arg-type]  # numbers all of them
    try:
        yield state
    finally:
        state.close()


def order(
    prompt: str = "a cat", *, variant: str = "pro", resolution: str | None = None, key: str | None = None
) -> Order:
    model = catalog.find(variant, Action.TEXT_TO_IMAGE)
    body = {"model": model.id, "prompt": prompt, "aspect_ratio": "1:1"}
    if resolution is not None:
        body["output_resolution"] = resolution
    return Order(action=model.action, model=model, body=body, idempotency_key=key, client_request_id=None)


def make(state: State, wanted: Order | None = None) -> Task:
    task, fault = tasks.create(state, wanted or order(), state.clock())
    assert fault is None
    return task
