"""Agent hosts, as data: where each keeps its servers, in which form, and how this server is installed and removed.

What a host's client does with results is in `server.clients`. Only `files`, `switches` and `plan` read or write the
disk.

Face: `command`, `editors.jsonc`, `entry`, `files`, `links`, `places`, `plan`, `switches`, `table`.
"""

from __future__ import annotations
