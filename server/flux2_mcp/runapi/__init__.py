"""RunAPI over HTTP: its calls, its login, the file with its key.

Import `client` at its first use. The first `RunApi` that is made imports httpx2.

Face: `causes`, `client`, `exchange`, `key_file`, `key_place`, `login.callback`, `login.pkce`, `login.provider`, `login.redeem`, `responses`, `retry`, `transport`, `wire`.
"""

from __future__ import annotations
