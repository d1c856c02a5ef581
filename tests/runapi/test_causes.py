"""Causes of no connection that no test can bring about on loopback; the others are in `tests/contract/test_ways_out.py`."""

from __future__ import annotations

from flux2_mcp.runapi.causes import Peer, of
from flux2_mcp.runapi.proxies import Proxy

NAME = "api.runapi.example"


def test_a_connection_that_takes_too_long_or_has_no_network_is_told_apart() -> None:
    direct = Peer(host=NAME, port=None, proxy=None, base_url=True)
    behind = Peer(host=NAME, port=None, proxy=Proxy("http://p.example:3128", "ALL_PROXY"), base_url=True)
    late = of(TimeoutError(), direct, in_time=False)
    assert late.words == f"no connection in time with {NAME}"
    assert "HTTPS_PROXY must name it" in late.cure
    assert of(TimeoutError(), behind, in_time=False).words == (
        "no connection in time with p.example:3128, the proxy that ALL_PROXY names"
    )
    assert (
        of(OSError(101, "Network is unreachable"), direct).words == f"no connection, since no network leads to {NAME}"
    )
    assert of(OSError(), direct).words == f"no connection, since {NAME} hung up"
    image = Peer(host="cdn.example.com", port=None, proxy=None, base_url=False)
    assert "RUNAPI_BASE_URL" not in of(ConnectionRefusedError(), image).cure
