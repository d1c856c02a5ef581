"""The server's instructions: what a model must know before its first call, in under 900 bytes."""

from __future__ import annotations

from flux2_mcp.server.docs import uris

INSTRUCTIONS = (
    "FLUX.2 images through RunAPI. Each image costs money (about $0.05 with variant pro at 1k; see check_pricing)."
    " generate writes every task down before it is paid for, waits for it, and saves the image to disk: give the user the"
    " file's path. If the status is processing, call check_task with the ids given; the task runs on and is paid once, so"
    " never call generate again to retry. check_task without ids lists what was made before. A task that failed was not"
    " charged. Results marked SANDBOX are drawn on this machine and are not FLUX.2 images: say so to the user."
    f" For more than three images, or a project's, write flux2.toml ({uris.MANIFEST_SCHEMA}); check_pricing and generate take"
    ' manifest: "flux2.toml".'
    f" To build FLUX.2 into an application, read {uris.API} before writing code; resources/list has the rest."
)
