"""What a load balancer asks: `/healthz`, whether the process lives, and `/readyz`, whether calls should be sent to it.

Both answer everybody, so they say which part is wrong and nothing of how it is set up.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flux2_mcp.engine.health import OK, Health, serves
from flux2_mcp.server.team.provider import SigningKeys
from flux2_mcp.server.team.traffic import RETRY_SECONDS, Traffic

ALIVE, READY = "/healthz", "/readyz"
PATHS = (ALIVE, READY)
NO_KEYS = "no keys known"


class HealthRoutes:
    """The two routes.

    Args:
        health: The checks of the service.
        keys: The keys with which tokens are checked; None: the team has no provider.
        traffic: Whether the server stops.
    """

    def __init__(self, health: Health, keys: SigningKeys | None, traffic: Traffic) -> None:
        self._health = health
        self._keys = keys
        self._traffic = traffic

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(ALIVE, self._alive, methods=["GET"]), Route(READY, self._ready, methods=["GET"])]

    async def _alive(self, _: Request) -> Response:
        return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})

    async def _ready(self, _: Request) -> Response:
        if self._traffic.stopping:
            found = {"server": "is stopping"}
        else:
            found = dict(await self._health.check())
            if self._keys is not None:
                found["sign_in"] = OK if await self._keys.known() else NO_KEYS
        ready = serves(found)
        headers = {"Cache-Control": "no-store"} | ({} if ready else {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse({"ready": ready, "checks": found}, 200 if ready else 503, headers)
