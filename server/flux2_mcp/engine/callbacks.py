"""RunAPI's callbacks: the URL of each task, and what receives them, which is loaded only if the settings ask for it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine

from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.engine.seam import Seam
from flux2_mcp.settings import Settings


def address(base_url: str, secret: str, key: str) -> str:
    """Return the callback URL for the task with this idempotency key. Every process with this secret gets the same."""
    token = hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()[:32]
    return f"{base_url.rstrip('/')}/{token}"


def authentic(target: str | None, push_url: str | None) -> bool:
    """Whether a call of `target` ends in the token of `push_url`. A task without such an address has no token."""
    called = token(target or "").encode(errors="replace")
    return push_url is None or hmac.compare_digest(called, token(push_url).encode())


def token(target: str) -> str:
    """Return the last part of a URL's path, which is the token of its task."""
    return target.partition("?")[0].rpartition("/")[2]


def receiver(settings: Settings, seam: Seam, runner: TaskRunner) -> Callable[[], Coroutine[None, None, None]] | None:
    """Return what runs as long as the service and wakes the runner at each callback. None: the settings name no way."""
    if (port := settings.callback_port) is not None and (url := settings.callback_url) is not None:
        from flux2_mcp.engine.callback_listener import CallbackListener

        return CallbackListener(
            port,
            url,
            seam.journal.callbacks,
            seam.journal.leases,
            runner.nudge,
            retry_seconds=seam.timing.callback_retry_seconds,
            sleep=seam.sleep,
        ).run
    if settings.listen:
        from flux2_mcp.engine.listen_session import ListenSession

        return ListenSession(
            seam.backend,
            seam.journal.callbacks,
            runner.without_callback,
            runner.nudge,
            first_seconds=seam.timing.listen_seconds,
            idle_seconds=seam.timing.listen_idle_seconds,
            sleep=seam.sleep,
        ).run
    return None
