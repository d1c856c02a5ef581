"""Example programs: a quickstart in each language, a webhook receiver, a polling loop. Pure: from catalogue to text.

The programs are in `code/`, with placeholders (`@NAME@`) for facts from the catalogue and the client. The tests run
them exactly as they are served. They print, because they are the user's own programs: the server never runs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, Final

from msgspec import Struct

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.models import MAKING, Action
from flux2_mcp.runapi import retry
from flux2_mcp.server.docs import schemas, uris
from flux2_mcp.settings import BASE_URL

_KEY = re.compile(r'^( *)"(\w+)":', re.MULTILINE)


def _json(body: Mapping[str, Any], indent: int) -> str:
    return json.dumps(body, indent=indent, ensure_ascii=False)


def _python(body: Mapping[str, Any]) -> str:
    return re.sub(r"(?<=[\w\"\]])\n", ",\n", _json(body, 4))


def _bare_keys(body: Mapping[str, Any]) -> str:
    return _KEY.sub(r"\1\2:", _json(body, 2))


def _php(body: Mapping[str, Any]) -> str:
    text = _KEY.sub(r"\1'\2' =>", _json(body, 4)).replace("$", r"\$")
    return f"[{text[1:-1]}]"


def _shell(body: Mapping[str, Any]) -> str:
    return _json(body, 2).replace("'", r"'\''")


class Language(Struct, frozen=True):
    """One language of the quickstarts.

    `literal` writes a JSON object in the language; `separator` is put between the statuses. `fence` is the language's
    name in Markdown, `file` the file name of the program, `run` the command that runs it.
    """

    title: str
    fence: str
    file: str
    run: str
    literal: Callable[[Mapping[str, Any]], str]
    separator: str = ", "


LANGUAGES: Final[Mapping[str, Language]] = {
    "curl": Language("curl", "bash", "flux2.sh", "bash flux2.sh", _shell, separator=" | "),
    "python": Language("Python", "python", "flux2.py", "python3 flux2.py", _python),
    "typescript": Language("TypeScript", "typescript", "flux2.mts", "node flux2.mts", _bare_keys),
    "php": Language("PHP", "php", "flux2.php", "php flux2.php", _php),
    "ruby": Language("Ruby", "ruby", "flux2.rb", "ruby flux2.rb", _bare_keys),
}


def default_model(models: Mapping[str, Model] | None = None) -> Model:
    """Return the model that the examples use, from these models or from the catalogue."""
    known = catalog.models() if models is None else models
    wanted = (catalog.DEFAULT_VARIANT, Action.TEXT_TO_IMAGE)
    return next(model for model in known.values() if (model.variant, model.action) == wanted)


def quickstart(language: str, model: Model) -> str:
    """Write a program that makes one image and saves it, with notes, as Markdown."""
    known = LANGUAGES[language]
    body = known.literal(schemas.example(model))
    program = _program(f"quickstart.{language}", ACTION=model.action, BODY=body, STATUSES=_statuses(known.separator))
    days = catalog.document()["result_url_lifetime_days"]
    source = (
        "\nSource images are public URLs: put your own in place of the example's. Local files are uploaded first, see"
        f" {uris.API}.\n"
        if model.action is Action.REMIX_IMAGE
        else ""
    )
    return f"""# {known.title} quickstart: {model.id}

Save as `{known.file}`, set `RUNAPI_API_KEY`, then run `{known.run} "PROMPT"`. It prints the name of the file it saved.

{_fenced(known.fence, program)}{source}
What it does, and your application must do too:

- **One idempotency key for one image**, made before the first call. Whatever goes wrong, sending the same body with the
  same key brings the same task, paid once. In an application, store the key with the order and pass it as
  `IDEMPOTENCY_KEY`.
- **Tries again** after {_statuses(", ")} and when no answer comes, waiting as long as `Retry-After` says, else longer
  each time. Every other status is final: {uris.ERRORS}.
- **Asks until the task has ended**, every 2 seconds or when `Retry-After` says. `completed` and `failed` are ends;
  anything else, known or not, is not. Without a process that waits: {uris.WEBHOOK}; many tasks at once: {uris.POLLING}.
- **Saves the image at once**, since its URL dies within {days} days, and sends that URL no key.
- **Keeps the key on the server**: never in a browser or an app that you hand out.

The body's schema: {uris.request_schema(model.id)}. Without spending: {uris.SANDBOX}.
"""


def webhook() -> str:
    """Write a receiver of callbacks, as Markdown."""
    actions = ", ".join(f'"{action}"' for action in MAKING)
    return f"""# Webhooks

With `callback_url` in a create call, RunAPI POSTs the task there when it ends, as JSON ({uris.TASK_SCHEMA}), so that
nobody has to ask. Save as `webhook.py`, set `RUNAPI_API_KEY` and `WEBHOOK_SECRET`, run `python3 webhook.py`. It prints
its address, and the name of each file that it saves.

{_fenced("python", _program("webhook.python", ACTIONS=actions, STATUSES=_statuses(", ")))}
- **A callback is a hint to look.** No published signature proves who sent it, so nothing in it is believed but the id,
  and that only to ask RunAPI about it with the key. A secret in the path keeps strangers from ringing.
- **Answer at once**, work afterwards: a caller that waits too long calls again. The same task may be announced twice.
- **It may be lost.** Ask about tasks that stay silent ({uris.POLLING}), with a longer pause.
- **The address must be public https.** The sandbox calls `http://127.0.0.1` too: {uris.SANDBOX}.
- The task id answers only on the endpoint that made it, which is why the path names the action.
"""


def polling() -> str:
    """Write a loop that waits for many tasks, as Markdown."""
    return f"""# Polling

Every quickstart waits for one task. This waits for many in one loop, and for those that an earlier process created:
save as `poll.py`, set `RUNAPI_API_KEY`, run `python3 poll.py {Action.TEXT_TO_IMAGE}/ID ...`.

{_fenced("python", _program("poll.python", STATUSES=_statuses(", ")))}
- **Store action and id** when the create call answers; with them any process can go on. Where no answer came, store the
  idempotency key and the body: sending both again brings the id.
- **`Retry-After` goes before your own pause**, on answers that succeed as well.
- **An error of a poll says nothing about the task**: it runs on and is charged if it completes. There is no cancel.
- **Only `completed` is success.** Save its images at once ({uris.API}).
- Spread the questions: limits are per key. A webhook saves most of them: {uris.WEBHOOK}.
"""


def _program(file: str, **values: str) -> str:
    text = resources.files("flux2_mcp.server.docs").joinpath("code", file).read_text(encoding="utf-8")
    values |= {"BASE_URL": BASE_URL, "DAYS": str(catalog.document()["result_url_lifetime_days"])}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _statuses(separator: str) -> str:
    return separator.join(str(status) for status in sorted(retry.RETRIED_STATUSES))


def _fenced(fence: str, program: str) -> str:
    return f"```{fence}\n{program}```\n"
