"""Under which name the journal files a key's tasks. Loaded by the server that sleeps, too, so it imports almost nothing."""

from __future__ import annotations

from importlib import import_module

SANDBOX = "sandbox"


def account_name(service: str, key: str | None) -> str:
    """Return a name for a service and a key that does not reveal the key.

    Args:
        service: RunAPI's host and port, in the one spelling (`urls.one_spelling`).
        key: None, without a key.
    """
    return f"{service}:{_sha256((key or '').encode())[:12]}"


def _sha256(data: bytes) -> str:
    # hashlib loads OpenSSL, 4 MiB; Python's own `random` takes the hashes from these modules, too.
    for module in ("_sha2", "_sha256", "hashlib"):
        try:
            return str(import_module(module).sha256(data).hexdigest())
        except ImportError:
            continue
    raise AssertionError  # hashlib is always there
