"""RunAPI over HTTP: its calls, its login, the file of its key.

Import `client` at first use: its first client brings httpx with it.

Face: `causes`, `client`, `exchange`, `key_file`, `login.callback`, `login.pkce`, `login.redeem`, `responses`, `retry`, `wire`.
"""

from __future__ import annotations
