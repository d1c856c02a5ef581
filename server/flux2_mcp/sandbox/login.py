"""The browser login (PKCE): a page with an Allow button, a redirect to the caller's loopback port, the code exchange.

The pages work without script, escape every text, and forbid framing. A code is valid for 5 minutes and for one
exchange.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode

from starlette.responses import JSONResponse, RedirectResponse, Response

from flux2_mcp.sandbox.api import EMAIL
from flux2_mcp.sandbox.http import HttpError, SandboxCall
from flux2_mcp.sandbox.state import SandboxState

PAGE_SECONDS = 600.0
"""How long a page's button is valid, in seconds."""
CODE_SECONDS = 300.0

_FIELDS: dict[str, re.Pattern[str]] = {
    "state": re.compile(r"[\x21-\x7e]{1,512}"),
    "code_challenge": re.compile(r"[A-Za-z0-9_-]{43}"),
    "code_challenge_method": re.compile(r"S256"),
    "redirect_port": re.compile(r"[0-9]{1,5}"),
    "display_code": re.compile(r"[A-Z0-9]{4}-[A-Z0-9]{4}"),
    "hostname": re.compile(r"[^\x00-\x1f\x7f]{0,255}"),
    "version": re.compile(r"[\x21-\x7e]{0,64}"),
}
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_HIGHEST_PORT = 65_535
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 12vh auto; padding: 0 1.5rem; }
h1 { font-size: 1.35rem; }
.code { font: 600 2rem ui-monospace, monospace; letter-spacing: .12em; }
button { font: inherit; padding: .55rem 1.6rem; margin-right: .6rem; border-radius: .5rem; border: 1px solid; cursor: pointer; }
.allow { background: #1a7f5a; color: #fff; border-color: #1a7f5a; }
"""


def authorize(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /cli/authorize`: the page with the question; 400 with a page if the query is not that of a login."""
    given = {name: call.query.get(name, "") for name in _FIELDS}
    wrong = [name for name, pattern in _FIELDS.items() if not pattern.fullmatch(given[name])]
    port = int(given["redirect_port"]) if "redirect_port" not in wrong else 0
    if wrong or not 0 < port <= _HIGHEST_PORT:
        return _page(
            "This login can't go on", f"<p>Not valid: {', '.join(wrong or ['redirect_port'])}.</p>", status=400
        )
    page_id = secrets.token_urlsafe(24)
    state.database.execute(
        "INSERT INTO login (id, state, challenge, redirect_port, hostname, asked_at) VALUES (?, ?, ?, ?, ?, ?)",
        (page_id, given["state"], given["code_challenge"], port, given["hostname"], state.clock()),
    )
    host = html.escape(given["hostname"]) or "this machine"
    body = f"""
<p>The command line on <strong>{host}</strong> asks for the key of this <strong>sandbox</strong>. It shows the same code:</p>
<p class="code">{html.escape(given["display_code"])}</p>
<form method="post" action="/cli/authorize">
<input type="hidden" name="id" value="{page_id}">
<button class="allow" name="answer" value="allow">Allow</button><button name="answer" value="deny">Deny</button>
</form>"""
    return _page("Log in to the RunAPI sandbox", body, redirect_port=port)


def decide(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /cli/authorize`: the button, once for each page. It redirects only to the caller's port on 127.0.0.1."""
    form = parse_qs(call.body.decode("utf-8", "replace"))
    page_id, reply = (form.get(name, [""])[0] for name in ("id", "answer"))
    now = state.clock()
    code = secrets.token_urlsafe(32)
    sql = "UPDATE login SET allowed_at = ?, code = ? WHERE id = ? AND allowed_at IS NULL AND asked_at > ?"
    answered = state.database.execute(sql, (now, code if reply == "allow" else None, page_id, now - PAGE_SECONDS))
    rows = state.database.read("SELECT state, redirect_port FROM login WHERE id = ?", (page_id,))
    if not (answered and rows):
        return _page("This page is too old", "<p>Start the login again from the command line.</p>", status=400)
    denied = {"error": "access_denied", "error_description": "The login was denied."}
    query = urlencode(({"code": code} if reply == "allow" else denied) | {"state": rows[0]["state"]})
    return RedirectResponse(f"http://127.0.0.1:{rows[0]['redirect_port']}/callback?{query}", 303, _NO_STORE)


def exchange(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/cli/exchange`: the key for a code, its verifier and its port. The first attempt spends the code."""
    body = call.json()
    code, verifier = (str(body.get(name, "")) for name in ("code", "code_verifier"))
    if not (code.isascii() and _VERIFIER.fullmatch(verifier)):
        raise _refused()
    with state.database.write():
        rows = state.database.read("SELECT * FROM login WHERE code = ?", (code,))
        state.database.execute("UPDATE login SET code = NULL WHERE code = ?", (code,))
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    for row in rows:
        fresh = state.clock() < row["allowed_at"] + CODE_SECONDS
        same_port = str(body.get("redirect_port")) == str(row["redirect_port"])
        if fresh and same_port and hmac.compare_digest(digest, row["challenge"]):
            host = call.headers.get("x-cli-hostname") or row["hostname"]
            name = f"Sandbox key for {host}" if host else "Sandbox key"
            shown = {"key": state.api_key, "name": name, "token_type": "Bearer", "user": {"email": EMAIL}}
            return JSONResponse(shown, 201, _NO_STORE)
    raise _refused()


def _refused() -> HttpError:
    return HttpError(
        400, "invalid_grant", "The code, its verifier or its port is not valid, or the code is spent or too old."
    )


_NO_STORE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def _page(title: str, body: str, *, status: int = 200, redirect_port: int | None = None) -> Response:
    nonce = secrets.token_urlsafe(12)
    # Browsers apply form-action to the redirect after a form, too.
    targets = "'none'" if redirect_port is None else f"'self' http://127.0.0.1:{redirect_port}"
    policy = {
        "default-src": "'none'",
        "style-src": f"'nonce-{nonce}'",
        "form-action": targets,
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    headers: Mapping[str, str] = _NO_STORE | {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "DENY",
    }
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style nonce="{nonce}">{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
    return Response(text, status, headers, "text/html")
