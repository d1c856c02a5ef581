"""Who lacks a key is sent to RunAPI's login page, where the client can do that. No secret ever stands in a form or in chat."""

from __future__ import annotations

import anyio
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import ElicitRequest, ElicitRequestURLParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from flux2_mcp.server.session import LoginOffer
from flux2_mcp.server.tools.context import ToolContext, session_of

REQUEST = "login"
WAIT_SECONDS = 40.0
"""How long a call waits for a login that its user has agreed to: less than any client does."""


async def login_request(context: ToolContext) -> InputRequiredResult | None:
    """What a client must do before a call that spends; None where nothing, or nothing that it can.

    Raises:
        UrlElicitationRequiredError: The same for protocols up to 2025-11-25, which have an error for it.
    """
    session = session_of(context)
    if not session.lacks_key or not _can_open(context):
        return None
    modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
    answer = (context.input_responses or {}).get(REQUEST) if modern else None
    if isinstance(answer, ElicitResult):
        offer = await _offered(context) if answer.action == "accept" else None
        if offer is not None:
            with anyio.move_on_after(WAIT_SECONDS):
                await offer.over.wait()
        return None  # with a key now, or the error that says how to get one
    offer = await _offered(context)
    if offer is None:
        return None
    message = (
        "There is no RunAPI key yet. Log in on RunAPI's page, and allow it only if the page shows the code"
        f" {offer.display_code}; then the image is made."
    )
    params = ElicitRequestURLParams(message=message, url=offer.url, elicitation_id=None if modern else offer.ident)
    if not modern:
        raise UrlElicitationRequiredError([params], message)
    return InputRequiredResult(input_requests={REQUEST: ElicitRequest(params=params)})


async def _offered(context: ToolContext) -> LoginOffer | None:
    try:
        return await session_of(context).offer()
    except OSError:
        return None


def _can_open(context: ToolContext) -> bool:
    capabilities = context.client_capabilities
    return (
        capabilities is not None and capabilities.elicitation is not None and capabilities.elicitation.url is not None
    )
