"""The error tree. Everything this package raises on purpose is a `Flux2Error`.

    Flux2Error                      what happened, what it cost, what to do next
    ├── InvalidRequestError         refused here by name, nothing was sent
    ├── BudgetError                 over a cap, or a price nobody knows; nothing was sent
    ├── SettingsError               an environment variable or key file that can't be used
    ├── LoginError                  a login in the browser that was refused, or whose code is worth nothing
    ├── ApiError                    RunAPI answered with an error (status, request id)
    │   ├── AuthenticationError         401, 403
    │   ├── InsufficientCreditsError    402
    │   ├── RejectedError               400, 413, 415, 422 and what else is ours to mend
    │   ├── NotFoundError               404, 410
    │   ├── ConflictError               409
    │   ├── RateLimitedError            429
    │   └── ServiceError                5xx, 408, and pages that are not RunAPI's
    ├── TransportError              no answer: connection, time, or a broken body
    ├── WireError                   an answer that makes no sense
    ├── TaskFailedError             the task itself failed; never charged
    ├── DeliveryError               a result that could not be fetched or is not an image
    │   └── StorageError                a result that came, and could not be written here
    ├── JournalError                the journal can't be read or written
    ├── HostFileError               an agent host's file that can't be edited safely, and was left as it was
    └── SandboxError                the embedded RunAPI could not start

Foreign exceptions stop at the seam that met them (`raise ... from`). Messages are written for a model and a person:
they hold no key and no prompt, and a path only where it is the user's own to mend. Where one names an argument, a tool or
what its reader does next, it is a `Wording`, which the command line says in its own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

NOTHING_SENT = "Nothing was sent and nothing was charged."
NOTHING_CHARGED = "Nothing was charged."


MAX_SHOWN_CHARS = 64
"""Characters of what a caller said that a message repeats."""
MAX_PROBLEMS = 16
"""Fields that one message names."""


def shortened(text: str, most: int = MAX_SHOWN_CHARS) -> str:
    """A text that came from outside, as messages and lists repeat it: what is longer than `most` characters is cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Name(str):
    """What the tools call an argument, a tool or a step; another face may call it otherwise."""

    __slots__ = ()

    def by(self, names: Mapping[str, str]) -> str:
        """What a face with these names calls it; a name that begins a sentence stays one that does."""
        lower = f"{self[:1].lower()}{self[1:]}"
        said = names.get(lower, lower)
        return said if lower == self else f"{said[:1].upper()}{said[1:]}"


class Wording(str):
    """A text of ours, in the tools' words, that another face can say with names of its own.

    `template` is for `str.format`: {name:save_to} stands for a `Name`, everything else for a value. No name is looked for in
    what a value holds, so RunAPI's text and a user's stay as they are; only a value that is a `Name` or a `Wording` itself is
    said in the same words. What is put together with an f-string has the tools' words for good: see `together`.
    """

    __slots__ = ("_template", "_values")
    _template: str
    _values: Mapping[str, object]

    def __new__(cls, template: str, **values: object) -> Self:
        """The text as the tools say it."""
        wording = super().__new__(cls, template.format(name=_Names({}), **values))
        wording._template, wording._values = template, values
        return wording

    def by(self, names: Mapping[str, str]) -> str:
        """The text as a face says it that has these names."""
        values = {key: reworded(value, names) for key, value in self._values.items()}
        return self._template.format(name=_Names(names), **values)


class _Names:
    """What {name:...} stands for in a template."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __format__(self, name: str) -> str:
        return Name(name).by(self._names)


T = TypeVar("T")


def reworded(value: T, names: Mapping[str, str]) -> T | str:
    """A `Name` or a `Wording` with these names; anything else as it is."""
    return value.by(names) if isinstance(value, Name | Wording) else value


def together(texts: Iterable[str | None], separator: str = " ") -> str:
    """The texts that there are, one after the other; each keeps its names."""
    values = {f"text_{number}": text for number, text in enumerate(filter(None, texts))}
    return Wording(separator.join(f"{{{key}}}" for key in values), **values)


class Flux2Error(Exception):
    """Base of all errors.

    Args:
        message: What happened, one or more sentences.
        cost: What it cost, a sentence; by default the class's own.
        next_step: What to do next, a sentence; by default the class's own.
        reason: What happened, in a few words for a log line: no path of the user's, as messages have. By default the code.

    Class attributes: `code` names the error for programs; `retryable` says whether the same call may succeed later;
    `exit_code` is the command line's (the vendor's CLI uses the same numbers: `api/runapi.md`, exit codes).
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that can't be sent: its name and one sentence that says what is wrong and what is allowed."""

    field: str
    text: str


class InvalidRequestError(Flux2Error):
    """Arguments outside the contract, refused before anything is sent.

    Args:
        problems: One for each field; at least one.
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


class BudgetError(Flux2Error):
    """The call would cost more than a cap allows, or nobody can say what it would cost. Caps fail closed."""

    code = "budget"
    exit_code = 4
    default_cost = NOTHING_SENT


class SettingsError(Flux2Error):
    """The environment or the key file holds something that can't be used.

    Args:
        message: As in `Flux2Error`.
        setting: The variable; None where it is a file.
        says: What it holds, where that may be shown.
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
    """The browser came back without leave, or with a code that brings no key."""

    code = "login"
    exit_code = 2
    default_next = "Start again with flux2-mcp login: an address serves one login, and a code opens once."


class ApiError(Flux2Error):
    """RunAPI answered with an error.

    Args:
        message: RunAPI's own words, shortened, or a stock phrase for the status.
        status: HTTP status code.
        request_id: RunAPI's `X-Request-Id`, where it gave one.
        retry_after: Seconds until RunAPI wants to be asked again, where it said so.
        unanswered: True where an earlier try of the same call went unanswered, so that it may have been done.
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
        cost: str | None = None,
        next_step: str | None = None,
    ) -> None:
        wait = Wording("Wait {seconds:.0f} s and {name:call again}.", seconds=retry_after) if retry_after else None
        super().__init__(message, cost=cost, next_step=next_step or wait)
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.unanswered = unanswered


class AuthenticationError(ApiError):
    """The key is missing, wrong or not allowed (401, 403)."""

    code = "authentication"
    exit_code = 2
    default_next = Wording(
        "Run flux2-mcp login, or set RUNAPI_API_KEY to a valid key (runapi.ai), then {name:start the server again}."
    )


class InsufficientCreditsError(ApiError):
    """The account can't pay for this (402)."""

    code = "insufficient_credits"
    exit_code = 3
    default_next = Wording(
        "Top up the RunAPI account, or choose a cheaper variant or resolution ({name:check_pricing})."
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


class TransportError(Flux2Error):
    """No answer came: no connection, no time left, or the body broke off.

    Args:
        message: As in `Flux2Error`.
        sent: False where no connection was made, so that certainly nothing reached the other side.
        setting: The variable that mends it, where one does: of a proxy, or of the certificates.
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
    """An answer that is not what `api/runapi.md` says, and can't be read liberally either."""

    code = "wire"
    exit_code = 5


class TaskFailedError(Flux2Error):
    """The task failed. RunAPI does not charge failed tasks (`api/runapi.md`, tasks)."""

    code = "task_failed"
    exit_code = 7
    default_cost = "Failed tasks are not charged."
    default_next = "Read the reason, change the prompt or the variant, and generate again."


class DeliveryError(Flux2Error):
    """A finished image could not be brought to disk. It stays paid for and can be fetched again until it expires."""

    code = "delivery"
    retryable = True
    exit_code = 5
    default_cost = "The task itself is done and charged; fetching it again costs nothing."
    default_next = "Call check_task with the task's id: it fetches the image again."


class StorageError(DeliveryError):
    """A finished image could not be written on this machine, which its user can mend."""

    code = "storage"
    default_next = "Make room in FLUX2_HOME, or make it writable; then call check_task with the task's id."


class JournalError(Flux2Error):
    """The journal under FLUX2_HOME can't be read or written, so nothing is sent that could be lost."""

    code = "journal"
    exit_code = 1
    default_cost = "What was sent before stays written down, and is paid once."
    default_next = Wording("Make FLUX2_HOME a writable folder with free space, then {name:call again}.")


@contextmanager
def before_sending() -> Iterator[None]:
    """A journal that fails within this has cost nothing, and the error says so."""
    try:
        yield
    except JournalError as exc:
        raise JournalError(
            exc.message, cost=NOTHING_SENT, next_step=exc.next_step, reason=exc.reason
        ) from exc.__cause__


class HostFileError(Flux2Error):
    """An agent host's configuration file that can't be edited safely. It was left as it was.

    Args:
        why: One sentence without its full stop; no content of the file.
        line: Where, counted from 1.
        path: Which file; told by `at`, where the text was read from one.
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
        """The same, naming the file."""
        return HostFileError(self.why, line=self.line, path=path, next_step=self.next_step)


class SandboxError(Flux2Error):
    """The embedded sandbox could not start."""

    code = "sandbox"
    exit_code = 1
    default_cost = NOTHING_SENT
