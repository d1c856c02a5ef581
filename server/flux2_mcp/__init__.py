"""flux2-mcp: FLUX.2 images for coding agents and for Python programs, over the RunAPI HTTP API.

The names of `__all__` are the Python API (docs/python.md). Each is loaded at its first use: an import of this package
costs next to nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing is not imported here: a host waits for every import
if TYPE_CHECKING:
    from flux2_mcp.api.client import AsyncFlux2Client
    from flux2_mcp.api.errors import ClosedError, TaskFailedError, TaskTimeoutError
    from flux2_mcp.api.results import Image, Price, Quote, Task
    from flux2_mcp.api.sync import Flux2Client
    from flux2_mcp.domain.models import Balance
    from flux2_mcp.errors import (
        ApiError,
        AuthenticationError,
        BudgetError,
        ConflictError,
        DeliveryError,
        Flux2Error,
        InsufficientCreditsError,
        InvalidRequestError,
        JournalError,
        NotFoundError,
        RateLimitedError,
        RejectedError,
        SandboxError,
        ServiceError,
        SettingsError,
        StorageError,
        TransportError,
        WireError,
    )

__all__ = [
    "ApiError",
    "AsyncFlux2Client",
    "AuthenticationError",
    "Balance",
    "BudgetError",
    "ClosedError",
    "ConflictError",
    "DeliveryError",
    "Flux2Client",
    "Flux2Error",
    "Image",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "JournalError",
    "NotFoundError",
    "Price",
    "Quote",
    "RateLimitedError",
    "RejectedError",
    "SandboxError",
    "ServiceError",
    "SettingsError",
    "StorageError",
    "Task",
    "TaskFailedError",
    "TaskTimeoutError",
    "TransportError",
    "WireError",
]
_HOMES = {
    "AsyncFlux2Client": "api.client",
    "Flux2Client": "api.sync",
    "Balance": "domain.models",
    **dict.fromkeys(("ClosedError", "TaskFailedError", "TaskTimeoutError"), "api.errors"),
    **dict.fromkeys(("Image", "Price", "Quote", "Task"), "api.results"),
}
"""The modules of these names; all others are in `errors`."""

if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
