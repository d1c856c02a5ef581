from __future__ import annotations

import logging
from typing import Annotated, Any

import pytest
from mcp_types import TextContent
from pydantic import BaseModel, Field, ValidationError

from flux2_mcp import errors
from flux2_mcp.errors import (
    AuthenticationError,
    BudgetError,
    Flux2Error,
    InvalidRequestError,
    Problem,
    RateLimitedError,
    TaskFailedError,
    TransportError,
)
from flux2_mcp.server import boundary
from tests.support.rows import rows


class Arguments(BaseModel):
    """Every kind of argument that a tool of ours has."""

    prompt: str
    count: Annotated[int, Field(ge=1, le=8)] = 1
    wait_seconds: Annotated[float | None, Field(ge=0, le=900, allow_inf_nan=False)] = None
    more: Annotated[float, Field(gt=0)] = 1.0
    flag: bool | None = None
    ids: Annotated[list[str] | None, Field(max_length=2)] = None
    key: Annotated[str | None, Field(min_length=1, max_length=5)] = None


def problems(**arguments: Any) -> dict[str, str]:  # noqa: ANN401  # anything a model may send
    with pytest.raises(ValidationError) as caught:
        Arguments.model_validate(arguments)
    return {problem.field: problem.text for problem in boundary.from_validation(caught.value).problems}


@rows(
    ("arguments", "field", "text"),
    [
        ({}, "prompt", "is needed."),
        ({"prompt": 5}, "prompt", "must be a string."),
        ({"prompt": None}, "prompt", "must be a string."),
        ({"count": "many"}, "count", "must be a whole number."),
        ({"count": 1.5}, "count", "must be a whole number."),
        ({"count": None}, "count", "must be a whole number."),
        ({"count": 0}, "count", "must be at least 1."),
        ({"count": 9}, "count", "must be at most 8."),
        ({"wait_seconds": "long"}, "wait_seconds", "must be a number."),
        ({"wait_seconds": []}, "wait_seconds", "must be a number."),
        ({"wait_seconds": -0.5}, "wait_seconds", "must be at least 0."),
        ({"wait_seconds": 901}, "wait_seconds", "must be at most 900."),
        ({"wait_seconds": float("inf")}, "wait_seconds", "must be a finite number."),
        ({"more": 0}, "more", "must be more than 0."),
        ({"flag": "perhaps"}, "flag", "must be true or false."),
        ({"flag": []}, "flag", "must be true or false."),
        ({"ids": "one"}, "ids", "must be a list of strings."),
        ({"ids": ["1", "2", "3"]}, "ids", "must have at most so many items: 2."),
        ({"ids": ["1", 2]}, "ids.1", "must be a string."),
        ({"key": ""}, "key", "must have at least so many characters: 1."),
        ({"key": "123456"}, "key", "must have at most so many characters: 5."),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_in_words_of_ours(
    arguments: dict[str, Any], field: str, text: str
) -> None:
    given = arguments if field == "prompt" else {"prompt": "a cat", **arguments}
    assert problems(**given) == {field: text}


def test_every_wrong_argument_is_named_once_and_no_value_is_shown() -> None:
    found = problems(prompt=["my secret"], count="my secret", ids=["a", 1, 2], flag="my secret")
    assert list(found) == ["prompt", "count", "flag", "ids"]
    assert "secret" not in str(found)
    assert "pydantic" not in str(found)


def test_what_pydantic_may_find_wrong_that_we_have_no_words_for_is_still_told() -> None:
    class Odd(BaseModel):
        when: Annotated[str, Field(pattern="^x$")]

    with pytest.raises(ValidationError) as caught:
        Odd.model_validate({"when": "y"})
    assert boundary.from_validation(caught.value).problems == (Problem("when", "has the wrong form."),)


# --- arguments that the tool does not have ---

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}, "count": {"type": "integer"}}}


def test_an_argument_that_the_tool_does_not_have_is_refused_by_name() -> None:
    refused = boundary.unknown_arguments({"prompt": "a", "seed": 7, "width": 512}, SCHEMA)
    assert refused is not None
    assert refused.problems == (
        Problem("seed", "no such argument; this tool has: prompt, count."),
        Problem("width", "no such argument."),  # the list stands once
    )
    assert refused.cost == "Nothing was sent and nothing was charged."


def test_known_arguments_pass_and_a_tool_without_any_takes_none() -> None:
    assert boundary.unknown_arguments({"prompt": "a"}, SCHEMA) is None
    assert boundary.unknown_arguments({}, {}) is None
    assert boundary.unknown_arguments({"a": 1}, {}) is not None


def test_a_giant_name_is_shown_only_in_part() -> None:
    refused = boundary.unknown_arguments({"x" * 10_000: 1}, SCHEMA)
    assert refused is not None
    assert refused.problems[0].field == "x" * 63 + "…"


# --- errors as results ---


def text_of(error: BaseException) -> str:
    result = boundary.to_result(error)
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@rows(
    ("error", "text"),
    [
        (
            InvalidRequestError(Problem("prompt", "got 2 characters."), Problem("seed", "no such argument.")),
            (
                "prompt: got 2 characters.\nseed: no such argument.\nNothing was sent and nothing was charged.\n"
                "Next: Mend the arguments named above and call again."
            ),
        ),
        (
            BudgetError("The call would cost $0.14.", next_step="Raise it."),
            "The call would cost $0.14.\nNothing was sent and nothing was charged.\nNext: Raise it.",
        ),
        (
            AuthenticationError("Invalid key.", status=401, request_id="r1"),
            (
                "Invalid key.\nNothing was charged.\n"
                "Next: Get a valid key: flux2-mcp login, or RUNAPI_API_KEY with a key from runapi.ai. Then start the server again."
            ),
        ),
        (
            TaskFailedError("Moderated.", cost="Free.", next_step="Try another prompt."),
            "Moderated.\nFree.\nNext: Try another prompt.",
        ),
    ],
)
def test_an_error_says_what_happened_what_it_cost_and_what_to_do_next(error: Flux2Error, text: str) -> None:
    assert text_of(error) == text


def kinds() -> list[type[Flux2Error]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Flux2Error)]


def made(kind: type[Flux2Error]) -> Flux2Error:
    if issubclass(kind, InvalidRequestError):
        return kind(Problem("prompt", "is wrong."))
    if issubclass(kind, errors.ApiError):
        return kind("What happened.", status=500)
    return kind("What happened.")


@rows("kind", kinds())
def test_every_error_of_ours_can_be_told_and_has_a_code_and_an_exit_code(kind: type[Flux2Error]) -> None:
    error = made(kind)
    lines = text_of(error).split("\n")
    assert lines[0] == error.message
    assert lines[1].endswith(".")
    assert lines[2].startswith("Next: ")
    assert error.exit_code in {1, 2, 3, 4, 5, 6, 7}
    assert error.code


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(codes) == len(set(codes))


def test_only_what_may_pass_by_itself_is_worth_a_retry() -> None:
    assert {kind.__name__ for kind in kinds() if kind.retryable} == {
        *("RateLimitedError", "ServiceError", "TransportError", "DeliveryError", "StorageError", "ProviderError"),
    }
    assert RateLimitedError.exit_code == 6
    assert TransportError("No answer.").sent


@pytest.mark.parametrize(
    "error", [ValueError("sk-secret"), KeyError("prompt"), RuntimeError(), ExceptionGroup("g", [OSError()])]
)
def test_an_error_that_nobody_foresaw_shows_nothing_of_itself_and_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "flux2_mcp.server.boundary"):
        text = text_of(error)
    assert text == (
        "The server failed on something it did not expect.\nWhatever RunAPI took is in the journal.\n"
        "Next: Call check_task to see what was made; the server's log on stderr has the cause."
    )
    (record,) = caplog.records
    assert record.getMessage() == f"unexpected {type(error).__name__}"
    assert record.exc_info is not None


def test_an_error_of_ours_is_not_logged_as_unforeseen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flux2_mcp.server.boundary"):
        text_of(BudgetError("Too much."))
    assert caplog.records == []
