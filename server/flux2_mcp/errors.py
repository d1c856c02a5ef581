"""The error tree. Every error that this package raises on purpose is a `Flux2Error`.

    Flux2Error                      what happened, what it cost, what to do next
    ├── InvalidRequestError         wrong arguments, refused before anything was sent
    │   └── ManifestError               wrong lines in flux2.toml or flux2.lock
    ├── BudgetError                 over a cap, or an unknown price; nothing was sent
    ├── SettingsError               an unusable environment variable or key file
    ├── LoginError                  a login in the browser that was refused, or its code is not valid
    ├── ApiError                    RunAPI answered with an error (status, request id)
    │   ├── AuthenticationError         401, 403
    │   ├── InsufficientCreditsError    402
    │   │   └── TeamCapError                402 of a team's server, which did not ask RunAPI
    │   ├── RejectedError               400, 413, 415, 422 and other errors of the request
    │   ├── NotFoundError               404, 410
    │   ├── ConflictError               409
    │   ├── RateLimitedError            429
    │   └── ServiceError                5xx, 408, and pages that are not RunAPI's
    ├── ProviderError               the team's OpenID provider gave no usable answer
    ├── TransportError              no answer: no connection, a time-out, or a broken body
    ├── WireError                   an answer that does not follow the contract
    ├── TaskFailedError             the task itself failed; never charged
    ├── DeliveryError               a result that could not be fetched or is not an image
    │   └── StorageError                a result that was fetched, but could not be written here
    ├── JournalError                the journal can't be read or written
    ├── HostFileError               an agent host's file that can't be edited safely, and was not changed
    └── SandboxError                the embedded RunAPI could not start

Foreign exceptions are translated at the seam where they occur (`raise ... from`). Messages are written for a model and
for a person. They contain no key and no prompt, and a path only if the user can repair the file. A message that names
an argument, a tool or the next step is a `Wording`, which the command line prints with its own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self, TypeVar

from msgspec import Struct

NOTHING_SENT = "Nothing was sent and nothing was charged."
NOTHING_CHARGED = "Nothing was charged."
LOGIN = "flux2-mcp login"
GET_A_KEY = f"{LOGIN}, or RUNAPI_API_KEY with a key from runapi.ai"
"""How to get a key; it ends a sentence or stands after a colon. `LOGIN` alone stands where a person has a terminal and one line."""


MAX_SHOWN_CHARS = 64
"""The maximum number of characters of a caller's text that a message repeats."""
MAX_PROBLEMS = 16
"""The maximum number of fields that one message names."""


def shortened(text: str, most: int = MAX_SHOWN_CHARS) -> str:
    """Cut a text from outside to `most` characters, for messages and lists."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def meant(text: str, allowed: Iterable[str]) -> str:
    """Return the allowed value that a wrong one is near to, in brackets as a question; "" if none is near.

    A value with digits is near only to one with the same digits: 5:4 is not 3:4. A long text is near to none: to compare
    it would take seconds.
    """
    from difflib import get_close_matches

    if len(text) > MAX_SHOWN_CHARS:
        return ""
    by_bare = {_bare(value): value for value in allowed}
    words = (_bare(text), *(word for word in re.split(r"[\W_]+", text.casefold()) if word.isalpha()))
    near = [word for word in words if word in by_bare]
    if not near and not re.search(r"\d", text):
        near = get_close_matches(_bare(text), by_bare, n=1)
    return f" (did you mean {by_bare[near[0]]}?)" if near else ""


def _bare(text: str) -> str:
    """Return the letters and digits of a text; an x between digits counts as a colon."""
    return re.sub(r"[\W_]|(?<=\d)x(?=\d)", "", text.casefold())


class Name(str):
    """The tools' name of an argument, a tool or a step; another face may have another name for it."""

    __slots__ = ()

    def by(self, names: Mapping[str, str]) -> str:
        """Return the name in a face with these names. A name with a capital first letter keeps the capital."""
        lower = f"{self[:1].lower()}{self[1:]}"
        name = names.get(lower, lower)
        return name if lower == self else f"{name[:1].upper()}{name[1:]}"


class Wording(str):
    """A text of ours with the tools' names, which another face can print with its own names.

    `template` is for `str.format`: {name:save_to} stands for a `Name`, every other field for a value. Names inside a
    value are not replaced, so texts of RunAPI and of users do not change, unless the value itself is a `Name` or a
    `Wording`.
    An f-string makes a plain string, which keeps the tools' names: use `together` instead.
    """

    __slots__ = ("_template", "_values")
    _template: str
    _values: Mapping[str, object]

    def __new__(cls, template: str, **values: object) -> Self:
        """Make the text with the tools' names."""
        wording = super().__new__(cls, template.format(name=_Names({}), **values))
        wording._template, wording._values = template, values
        return wording

    def by(self, names: Mapping[str, str]) -> str:
        """Return the text with these names."""
        values = {key: reworded(value, names) for key, value in self._values.items()}
        return self._template.format(name=_Names(names), **values)


class _Names:
    """Formats {name:...} in a template."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __format__(self, name: str) -> str:
        return Name(name).by(self._names)


T = TypeVar("T")


def reworded(value: T, names: Mapping[str, str]) -> T | str:
    """Return a `Name` or a `Wording` with these names; return any other value unchanged."""
    return value.by(names) if isinstance(value, Name | Wording) else value


def together(texts: Iterable[str | None], separator: str = " ") -> str:
    """Join the texts that are not empty. The result is a `Wording`, in which each text keeps its names."""
    values = {f"text_{number}": text for number, text in enumerate(filter(None, texts))}
    return Wording(separator.join(f"{{{key}}}" for key in values), **values)


class Flux2Error(Exception):
    """Base of all errors.

    Args:
        message: What happened, one or more sentences.
        cost: What it cost, a sentence; by default that of the class.
        next_step: What to do next, a sentence; by default that of the class.
        reason: What happened, in a few words for a log line, without the user's paths; by default the code.

    Class attributes: `code` names the error for programs; `retryable` says whether the same call may succeed later;
    `exit_code` is for the command line (the vendor's CLI uses the same numbers: `api/runapi.md`, exit codes).
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    default_cost: ClassVar[str] = NOTHING_CHARGED
    default_next: ClassVar[str] = "Report this with the text above if it comes again."

    def __init__(
        self, message: str, *, cost: str | None = None, next_step: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.cost = self.default_cost if cost is None else cost
        self.next_step = self.default_next if next_step is None else next_step


class Problem(Struct, frozen=True):
    """One wrong field: its name, and one sentence that says what is wrong and what is allowed."""

    field: str
    text: str


class InvalidRequestError(Flux2Error):
    """Arguments that break the contract, refused before anything is sent.

    Args:
        problems: One for each wrong field; at least one.
    """

    code = "invalid_request"
    exit_code = 4
    default_cost = NOTHING_SENT
    default_next = Wording("Mend the arguments named above and {name:call again}.")

    def __init__(self, *problems: Problem) -> None:
        lines = [Wording("{field}: {text}", field=Name(each.field), text=each.text) for each in problems[:MAX_PROBLEMS]]
        more = len(problems) - len(lines)
        super().__init__(together([*lines, f"And {more} more." if more else None], "\n"))
        self.problems = problems


class ManifestError(InvalidRequestError):
    """A project's flux2.toml or flux2.lock that can't be used. Each problem's field names the file, line and column.

    Args:
        problems: As in `InvalidRequestError`.
    """

    code = "manifest"
    default_next = Wording("Mend the lines named above and {name:call again}.")


class BudgetError(Flux2Error):
    """The call would cost more than a cap allows, or its price is unknown. Caps fail closed."""

    code = "budget"
    exit_code = 4
    default_cost = NOTHING_SENT


class SettingsError(Flux2Error):
    """The environment or the key file has an unusable value.

    Args:
        message: As in `Flux2Error`.
        setting: The variable; None for a file.
        says: Its value, if that may be shown.
        next_step: As in `Flux2Error`.
    """

    code = "settings"
    exit_code = 4
    default_cost = NOTHING_SENT
    default_next = Wording("Mend that setting, then {name:start the server again}.")

    def __init__(
        self, message: str, *, setting: str | None = None, says: str | None = None, next_step: str | None = None
    ) -> None:
        if next_step is None and says is not None:
            next_step = Wording('It says "{says}". {advice}', says=says, advice=self.default_next)
        super().__init__(message, next_step=next_step)
        self.setting = setting


class LoginError(Flux2Error):
    """The browser came back without the user's permission, or with a code that RunAPI does not exchange for a key."""

    code = "login"
    exit_code = 2
    default_next = "Start again with flux2-mcp login: an address serves one login, and a code opens once."


class ApiError(Flux2Error):
    """RunAPI answered with an error.

    Args:
        message: RunAPI's own words, shortened, or a stock phrase for the status.
        status: HTTP status code.
        request_id: RunAPI's `X-Request-Id`, if there was one.
        retry_after: The value of `Retry-After` in seconds, if there was one.
        unanswered: Whether an earlier try of the same call went unanswered, so that RunAPI may have done the call.
        field_errors: RunAPI's words for each field that it named; they are in `message`, too.
        cost: As in `Flux2Error`.
        next_step: As in `Flux2Error`.
    """

    code = "api"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        request_id: str | None = None,
        retry_after: float | None = None,
        unanswered: bool = False,
        field_errors: Mapping[str, Sequence[str]] | None = None,
        cost: str | None = None,
        next_step: str | None = None,
    ) -> None:
        wait = Wording("Wait {seconds:.0f} s and {name:call again}.", seconds=retry_after) if retry_after else None
        super().__init__(message, cost=cost, next_step=next_step or wait)
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.unanswered = unanswered
        self.field_errors: Mapping[str, Sequence[str]] = field_errors or {}


class AuthenticationError(ApiError):
    """The key is missing, wrong or not allowed (401, 403)."""

    code = "authentication"
    exit_code = 2
    default_next = Wording("Get a valid key: {key}. Then {name:start the server again}.", key=GET_A_KEY)


class InsufficientCreditsError(ApiError):
    """The account can't pay for this (402)."""

    code = "insufficient_credits"
    exit_code = 3
    default_next = Wording(
        "Top up the RunAPI account, or choose a cheaper variant or resolution ({name:check_pricing})."
    )


class TeamCapError(InsufficientCreditsError):
    """A cap of the team's server to which RUNAPI_BASE_URL leads refused the call (402). RunAPI was not asked."""

    code = "cap"
    default_next = Wording(
        "Wait until there is room in the cap again, or ask whoever runs the team's server to raise it."
    )


class RejectedError(ApiError):
    """RunAPI does not accept the request as it is (400, 413, 415, 422 and other 4xx)."""

    code = "rejected"
    exit_code = 4
    default_next = Wording("Change the request as the message says and {name:call again}.")


class NotFoundError(ApiError):
    """RunAPI knows no such thing (404), or no more (410)."""

    code = "not_found"
    exit_code = 4
    default_next = "Check the id: a task answers only to the key, and on the endpoint, that made it."


class ConflictError(ApiError):
    """The idempotency key was used for another request (409)."""

    code = "conflict"
    exit_code = 4
    default_next = Wording("Use a new {name:idempotency_key} for a new request, or leave it out.")


class RateLimitedError(ApiError):
    """Too many requests for this key (429)."""

    code = "rate_limited"
    retryable = True
    exit_code = 6
    default_next = Wording("Wait a little and {name:call again}.")


class ServiceError(ApiError):
    """RunAPI, or something between, is in trouble (5xx, 408, an HTML page)."""

    code = "service"
    retryable = True
    exit_code = 5
    default_next = Wording("{name:Call again} in a minute; the same call is not paid twice.")


class ProviderError(Flux2Error):
    """The team's OpenID provider gave no usable answer, so its keys are not known."""

    code = "provider"
    retryable = True
    exit_code = 5
    default_next = "Check FLUX2_OIDC_ISSUER, and that this machine reaches it."


class TransportError(Flux2Error):
    """No answer came: there was no connection, the time was over, or the body broke off.

    Args:
        message: As in `Flux2Error`.
        sent: False if no connection was made, so that certainly nothing reached the other side.
        setting: The variable that can correct this, if there is one: of a proxy, or of the certificates.
        next_step: As in `Flux2Error`.
    """

    code = "transport"
    retryable = True
    exit_code = 5
    default_next = Wording("Check the network and RUNAPI_BASE_URL, then {name:call again}.")

    def __init__(
        self, message: str, *, sent: bool = True, setting: str | None = None, next_step: str | None = None
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.sent = sent
        self.setting = setting


class WireError(Flux2Error):
    """An answer that does not follow `api/runapi.md`, and that a tolerant reader can't use either."""

    code = "wire"
    exit_code = 5


class TaskFailedError(Flux2Error):
    """The task failed. RunAPI does not charge failed tasks (`api/runapi.md`, tasks)."""

    code = "task_failed"
    exit_code = 7
    default_cost = "Failed tasks are not charged."
    default_next = (
        "Read the reason. If it names the prompt, as moderation does, change the prompt; otherwise try another variant."
        " Then generate again."
    )


class DeliveryError(Flux2Error):
    """A finished image could not be saved. It is paid for, and can be fetched again until it expires."""

    code = "delivery"
    retryable = True
    exit_code = 5
    default_cost = "The task itself is done and charged; fetching it again costs nothing."
    default_next = Wording("Call {name:check_task} with the task's id: it fetches the image again.")


class StorageError(DeliveryError):
    """A finished image could not be written on this machine; the user can correct the cause."""

    code = "storage"
    default_next = Wording(
        "Make room in FLUX2_HOME, or make it writable; then call {name:check_task} with the task's id."
    )


class JournalError(Flux2Error):
    """The journal under FLUX2_HOME can't be read or written, so no task is sent that could be lost."""

    code = "journal"
    exit_code = 1
    default_cost = "What was sent before stays written down, and is paid once."
    default_next = Wording("Make FLUX2_HOME a writable folder with free space, then {name:call again}.")


@contextmanager
def before_sending() -> Iterator[None]:
    """Change a JournalError inside this context so that it says: nothing was sent and nothing was charged."""
    try:
        yield
    except JournalError as exc:
        raise JournalError(
            exc.message, cost=NOTHING_SENT, next_step=exc.next_step, reason=exc.reason
        ) from exc.__cause__


class HostFileError(Flux2Error):
    """An agent host's configuration file can't be edited safely. It was not changed.

    Args:
        why: One sentence without its full stop; no content of the file.
        line: The line of the file, counted from 1.
        path: The file; `at` adds it if it is not known yet.
        next_step: As in `Flux2Error`.
    """

    code = "host_file"
    exit_code = 4
    default_cost = "The file was left as it was."
    default_next = "Mend the file at that line, then run the same command again."

    def __init__(
        self, why: str, *, line: int | None = None, path: str | None = None, next_step: str | None = None
    ) -> None:
        place = ", ".join(filter(None, [path, f"line {line}" if line else None]))
        super().__init__(f"{place}: {why}." if place else f"{why}.", next_step=next_step)
        self.why = why
        self.line = line

    def at(self, path: str) -> HostFileError:
        """Return the same error with the path of the file."""
        return HostFileError(self.why, line=self.line, path=path, next_step=self.next_step)


class SandboxError(Flux2Error):
    """The embedded sandbox could not start."""

    code = "sandbox"
    exit_code = 1
    default_cost = NOTHING_SENT
