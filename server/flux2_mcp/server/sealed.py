"""Names the sealed answer that a call brings back, so that a user's yes pays once.

In protocol 2026-07-28 a question to the user goes out with a sealed state (`requestState`), and the client sends the answer with
that state. The SDK accepts the same state again for ten minutes: the client may not have got our reply. So we name it, and the
journal notes which tasks it led to: see `contract.Tasks.intend`.

The name is a digest of the state as it was sent. Each seal has a random part of its own, and whatever is not spelled as it was
sealed is refused: so there is one name for each question that was asked, on every server and after a restart.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

_STATE: ContextVar[str | None] = ContextVar("_STATE", default=None)


async def noted(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware: note the sealed state of a message. It must run before the SDK opens the seal."""
    state = (ctx.params or {}).get("requestState")
    token = _STATE.set(state if isinstance(state, str) else None)
    try:
        return await call_next(ctx)
    finally:
        _STATE.reset(token)


def consent() -> str | None:
    """Return the name of the sealed answer that came with the call that is being served; None if none came.

    Whoever reads it is called by the SDK after it has opened the seal, so the answer is one to a question of ours.
    """
    state = _STATE.get()
    return None if state is None else hashlib.sha256(state.encode(errors="surrogatepass")).hexdigest()
