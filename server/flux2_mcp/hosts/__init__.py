"""Agent hosts, as data: where each keeps its servers, in which form, and how this one is put there and taken out again.

What a host's client does with results is another matter: `server.clients`. `files`, `switches` and `plan` touch the disk.

Face: `command`, `editors.jsonc`, `entry`, `files`, `links`, `places`, `plan`, `switches`, `table`.
"""

from __future__ import annotations
