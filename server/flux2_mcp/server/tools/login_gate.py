"""Sends a user without a key to RunAPI's login page, if the client can. No form and no chat ever contains a secret."""

from __future__ import annotations

import anyio
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import ElicitRequest, ElicitRequestURLParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from flux2_mcp.server.session import LoginOffer
from flux2_mcp.server.tools.context import ToolContext, session_of

REQUEST = "login"
WAIT_SECONDS = 40.0
"""The maximum wait of a call for a login that the user has accepted: shorter than the limit of any client."""


async def login_request(context: ToolContext) -> InputRequiredResult | None:
    """Return the request for a login before a call that spends; None if no login is needed or the client can't open it.

    Raises:
        UrlElicitationRequiredError: The same request, for protocols up to 2025-11-25, which use an error for it.
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
        return None  # the call goes on: with a key now, or to the error about the missing key
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
