"""A sandbox folder under a clock of the test's own, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import Action
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.sandbox.tasks import SandboxTask, TaskOrder

NOON = 1_800_000_000.0 // 86_400 * 86_400 + 43_200
"""Some noon in UTC."""


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(folder: Path, clock: Clock | None = None, **options: float | None) -> Iterator[SandboxState]:
    state = SandboxState(folder / "sandbox", clock=clock or Clock(), **options)  # type: ignore[arg-type]  # numbers all of them
    try:
        yield state
    finally:
        state.close()


def order(
    prompt: str = "a cat", *, variant: str = "pro", resolution: str | None = None, key: str | None = None
) -> TaskOrder:
    model = catalog.find(variant, Action.TEXT_TO_IMAGE)
    body = {"model": model.id, "prompt": prompt, "aspect_ratio": "1:1"}
    if resolution is not None:
        body["output_resolution"] = resolution
    return TaskOrder(action=model.action, model=model, body=body, idempotency_key=key, client_request_id=None)


def make(state: SandboxState, wanted: TaskOrder | None = None) -> SandboxTask:
    task, fault = tasks.create(state, wanted or order(), state.clock())
    assert fault is None
    return task
