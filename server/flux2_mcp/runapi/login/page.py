"""The page that the browser shows after the login. It is self-contained: no script, nothing to load, no framing."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from http import HTTPStatus
from importlib import resources
from string import Template
from typing import Literal

from msgspec import Struct

from flux2_mcp.domain.budget import dollars
from flux2_mcp.errors import Flux2Error
from flux2_mcp.runapi.login.redeem import LoginResult
from flux2_mcp.system.logs import masked
from flux2_mcp.system.one_shot_http import LocalReply

Kind = Literal["good", "bad", "lost"]
DRAWINGS: dict[Kind, str] = {
    "good": "M19 31.5l7.5 7.5L42 23",
    "bad": "M22 22l16 16M38 22L22 38",
    "lost": "M24 24.5c0-8 12-8 12 0c0 5-6 5-6 10M30 41v.01",
}


class LoginPage(Struct, frozen=True, kw_only=True):
    """A page's content, all of it plain text. `facts` are names and values; `status` is the HTTP status."""

    status: HTTPStatus
    kind: Kind
    title: str
    text: str
    next_step: str
    facts: tuple[tuple[str, str], ...] = ()


LOGIN_LOST = LoginPage(
    status=HTTPStatus.NOT_FOUND,
    kind="lost",
    title="There is nothing here",
    text="flux2-mcp waits on this address for a login to come back, and for nothing else.",
    next_step="This page can be closed.",
)
NOT_OUR_LOGIN = LoginPage(
    status=HTTPStatus.BAD_REQUEST,
    kind="lost",
    title="This is not the login that is waited for",
    text="What came here does not belong to the login that the terminal began. Nothing was changed, and it goes on waiting.",
    next_step="Open the address that the terminal shows.",
)
LOGIN_USED = LoginPage(
    status=HTTPStatus.CONFLICT,
    kind="lost",
    title="This login was answered already",
    text="An answer is taken once. What became of it stands in the terminal.",
    next_step="This page can be closed.",
)


def ended(result: LoginResult | Exception) -> LoginPage:
    """The page for the outcome of a login."""
    return _done(result) if isinstance(result, LoginResult) else _failed(result)


def _done(found: LoginResult) -> LoginPage:
    facts = (
        ("Account", found.email),
        ("Key", " ".join(filter(None, (found.name, masked(found.key))))),
        ("Balance", dollars(found.balance.balance_usd)),
    )
    return LoginPage(
        status=HTTPStatus.OK,
        kind="good",
        title="You are logged in",
        text="The key is saved on this computer, and it works.",
        next_step="Close this page and go back to the terminal.",
        facts=tuple((name, value) for name, value in facts if value),
    )


def _failed(error: Exception) -> LoginPage:
    told = (
        error
        if isinstance(error, Flux2Error)
        else Flux2Error("The login failed for a reason that flux2-mcp does not know.")
    )
    return LoginPage(
        status=HTTPStatus.OK, kind="bad", title="The login did not work", text=told.message, next_step=told.next_step
    )


def reply(page: LoginPage) -> LocalReply:
    """The page as an HTTP answer. All of its text is escaped, and the policy allows only the page's style sheet."""
    template, policy = _document()
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in page.facts)
    body = template.substitute(
        kind=page.kind,
        drawing=DRAWINGS[page.kind],
        title=html.escape(page.title),
        text=html.escape(page.text),
        next_step=html.escape(page.next_step),
        facts=f"<dl>{facts}</dl>\n" if facts else "",
    )
    headers = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    )
    return LocalReply(page.status, headers, body.encode())


@cache
def _document() -> tuple[Template, str]:
    """The template, and the policy that allows only its style sheet, by hash."""
    text = resources.files("flux2_mcp.runapi.login").joinpath("page.html").read_text(encoding="utf-8")
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Template(text), "; ".join(f"{name} {value}" for name, value in rules.items())
