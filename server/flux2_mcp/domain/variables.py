"""The only list of the environment variables that the server reads. `settings` defines their values."""

from __future__ import annotations

from msgspec import Struct


class Variable(Struct, frozen=True):
    """One variable. `meaning` and `default` are Markdown, for people. A default that is a value is in backticks.

    `team`: only a server for a team reads it (`serve --http`), so no agent host's entry has it.
    """

    name: str
    meaning: str
    default: str = "none"
    team: bool = False


VARIABLES = (
    Variable("RUNAPI_API_KEY", "the key; else `api_key` in `~/.config/runapi/config.json`; else `RUNAPI_KEY`"),
    Variable("RUNAPI_KEY", "the key under an older name: read last"),
    Variable("RUNAPI_BASE_URL", "where RunAPI stands; https, or http on loopback", "`https://runapi.ai`"),
    Variable("FLUX2_MODE", "`auto` (live with a key, else the sandbox), `live`, `sandbox`", "`auto`"),
    Variable("FLUX2_HOME", "folder of the journal and the images", "the platform's user data folder"),
    Variable(
        "FLUX2_WORKSPACE",
        "folder that `save_to` and relative paths are in, where the host names none",
        "the working directory",
    ),
    Variable("FLUX2_ALLOWED_DIRS", "more folders whose images may be sent as sources, separated as in PATH"),
    Variable("FLUX2_WAIT_SECONDS", "how long `generate` and `check_task` wait by default", "by host, else 45"),
    Variable("FLUX2_MAX_COST_USD", "the most one call may cost"),
    Variable("FLUX2_SESSION_BUDGET_USD", "the most one server process may spend"),
    Variable("FLUX2_DAILY_BUDGET_USD", "the most all processes may spend in any 24 hours"),
    Variable("FLUX2_CONFIRM_USD", "a call that costs more asks the user first; `off`: no call asks", "`0.50`"),
    Variable("FLUX2_RATE", "requests a second to RunAPI, all processes together", "`12`"),
    Variable("FLUX2_MAX_IN_FLIGHT", "tasks under way at once, all processes together", "`32`"),
    Variable(
        "FLUX2_CALLBACK_URL",
        "a public address that leads to `FLUX2_CALLBACK_PORT`: RunAPI calls it when a task ends",
    ),
    Variable("FLUX2_CALLBACK_PORT", "port on 127.0.0.1 that listens for those calls"),
    Variable(
        "FLUX2_SANDBOX_SPEED",
        "how many times faster than life the embedded sandbox's tasks run; from 100 on its pictures are plain",
        "`1`",
    ),
    Variable("FLUX2_LOG", "`debug`, `info`, `warning`, `error`; logs go to stderr", "`warning`"),
    Variable("FLUX2_EARLY", "`0`: the first answers wait for the whole server", "`1`"),
    Variable(
        "FLUX2_LISTEN",
        "`1`: RunAPI is asked for its calls, with the key of a login; no public address is needed. So is it after `flux2-mcp login --listen`",
        "`0`",
    ),
    Variable("FLUX2_SLEEP", "`0`: the whole server loads at its start, also if nobody asks for an image", "`1`"),
    Variable(
        "FLUX2_JOURNAL_URL",
        "`postgresql://...`: the journal stands in this database, for servers on several machines; takes `pip install 'flux2-mcp[team]'`",
        "a file in `FLUX2_HOME`",
    ),
    Variable(
        "FLUX2_IMAGES_URL",
        "`s3://bucket/prefix`, `gs://...`, `az://...` or a folder that is there: the images of servers on several machines stand"
        " there, too; takes `pip install 'flux2-mcp[team]'`",
        "in `FLUX2_HOME` alone",
    ),
    Variable(
        "FLUX2_OIDC_ISSUER",
        "the issuer of the team's OpenID provider, letter by letter as its tokens have it; https, or http on loopback",
        team=True,
    ),
    Variable("FLUX2_OIDC_AUDIENCE", "what `aud` of a token must be", "the address of the server: `URL/mcp`", team=True),
    Variable("FLUX2_OIDC_SCOPES", "scopes that a token must have, separated by blanks", team=True),
    Variable("FLUX2_OIDC_GROUP", "only members of this group get in", "everyone with a token", team=True),
    Variable("FLUX2_OIDC_ADMIN_GROUP", "members of this group are admins", "nobody is", team=True),
    Variable("FLUX2_OIDC_GROUPS_CLAIM", "the claim of a token that lists its person's groups", "`groups`", team=True),
    Variable("FLUX2_PERSON_DAILY_BUDGET_USD", "the most that each person may spend in any 24 hours", team=True),
    Variable("FLUX2_PERSON_MONTHLY_BUDGET_USD", "the most that each person may spend in any 30 days", team=True),
    Variable("FLUX2_MONTHLY_BUDGET_USD", "the most that all may spend in any 30 days", team=True),
    Variable(
        "FLUX2_TRUSTED_PROXIES",
        "addresses or networks, separated by commas or blanks, whose `X-Forwarded-*` is believed",
        team=True,
    ),
    Variable(
        "FLUX2_SEAL_KEY",
        "a secret of at least 32 characters, the same on every server behind one address: it seals what a question to a user"
        " brings back. During a change, the new one and the old one, separated by a blank",
        "made at each start",
        team=True,
    ),
    Variable(
        "FLUX2_LOGIN_DAYS",
        "how many days a token from `flux2-mcp login --team URL` is in force, 0 to 365; with 0, nobody gets one",
        "30",
        team=True,
    ),
)
"""Hosts' entries list the variables in this order. It must stay: an installed entry is compared with a new one."""
