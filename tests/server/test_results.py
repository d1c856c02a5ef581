from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State, TaskStatus
from flux2_mcp.domain.models import SourceImage, StoredImage
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import DeliveryError, Flux2Error, NotFoundError, ServiceError, TaskFailedError
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import (
    JOINED_NOTICE,
    SANDBOX_NOTICE,
    GenerationResult,
    GenerationStatus,
    ImageResult,
    NextAction,
    TaskResult,
)
from tests.support.rows import rows

AT = datetime(2026, 11, 20, 10, 0, 0, 999_999, tzinfo=UTC)
URL = "https://cdn.example.com/1.png?signature=x"
IMAGE = StoredImage(
    path="/home/ada/images/2026-11-20-a-cat-1.png",
    mime_type="image/png",
    width=1024,
    height=1024,
    size_bytes=123_456,
    sha256="0" * 64,
)
OPEN = TaskRecord(
    key="key-1",
    task_id=None,
    account="runapi.ai:1",
    state=State.INTENT,
    request=catalog.request(prompt="a cat"),
    workspace="/work",
    client="claude-code",
    session="s",
    push_url=None,
    save=None,
    quoted_usd=Decimal("0.05"),
    charged_usd=None,
    error=None,
    image_urls=(),
    images=(),
    created_at=AT,
    submitted_at=None,
    completed_at=None,
    delivered_at=None,
    started=True,
    owner="p",
)
SUBMITTED = replace(OPEN, task_id="task-1", state=State.SUBMITTED, submitted_at=AT)
COMPLETED = replace(
    SUBMITTED,
    state=State.COMPLETED,
    completed_at=AT + timedelta(seconds=4),
    charged_usd=Decimal("0.045"),
    image_urls=(URL,),
)
DELIVERED = replace(COMPLETED, state=State.DELIVERED, delivered_at=AT + timedelta(seconds=5), images=(IMAGE,))
FAILED = replace(SUBMITTED, state=State.FAILED, completed_at=AT, error="The prompt was refused by moderation.")
REJECTED = replace(OPEN, state=State.REJECTED, error="Insufficient credits")
LOST = replace(OPEN, state=State.UNKNOWN, error="RunAPI never answered; whether it was charged is not known.")


def told(
    *entries: TaskRecord, sandbox: bool = False, joined: bool = False, notice: str | None = None
) -> GenerationResult:
    tasks = tuple(TaskReport(entry) for entry in entries)
    return task_results.generation(Outcome(tasks=tasks, sandbox=sandbox, joined=joined, notice=notice))


# --- one task ---


def test_a_delivered_task_is_told_with_its_file_its_url_and_what_it_cost() -> None:
    assert task_results.task(TaskReport(DELIVERED)) == TaskResult(
        task_id="task-1",
        status="completed",
        prompt="a cat",
        variant="pro",
        model="flux-2-pro-text-to-image",
        action="text_to_image",
        images=[
            ImageResult(
                url=URL,
                expires_at="2026-11-27T10:00:04Z",
                path=IMAGE.path,
                mime_type="image/png",
                width=1024,
                height=1024,
                size_bytes=123_456,
                matches_request=True,
            )
        ],
        quoted_usd=0.05,
        charged_usd=0.045,
        sources=[],
        created_at="2026-11-20T10:00:00Z",
        completed_at="2026-11-20T10:00:04Z",
        error=None,
    )


def test_a_task_that_runapi_has_not_answered_is_known_by_our_own_key() -> None:
    assert task_results.task(TaskReport(OPEN)) == TaskResult(
        task_id="key-1",
        status="submitting",
        prompt="a cat",
        variant="pro",
        model="flux-2-pro-text-to-image",
        action="text_to_image",
        images=[],
        quoted_usd=0.05,
        charged_usd=None,
        sources=[],
        created_at="2026-11-20T10:00:00Z",
        completed_at=None,
        error=None,
    )


def test_a_completed_image_that_is_not_on_disk_yet_is_told_by_its_url_alone() -> None:
    assert task_results.task(TaskReport(COMPLETED)).images == [ImageResult(url=URL, expires_at="2026-11-27T10:00:04Z")]


def test_of_several_images_each_keeps_its_own_file() -> None:
    second = replace(IMAGE, path="/home/ada/images/2.jpg", mime_type="image/jpeg")
    entry = replace(DELIVERED, image_urls=(URL, f"{URL}2"), images=(IMAGE, second))
    assert [(image.url, image.path) for image in task_results.task(TaskReport(entry)).images] == [
        (URL, IMAGE.path),
        (f"{URL}2", "/home/ada/images/2.jpg"),
    ]


STATUSES: dict[State, TaskStatus] = {
    State.INTENT: "submitting",
    State.SUBMITTED: "pending",
    State.PROCESSING: "processing",
    State.COMPLETED: "completed",
    State.DELIVERED: "completed",
    State.UNDELIVERED: "completed",
    State.FAILED: "failed",
    State.REJECTED: "failed",
    State.UNKNOWN: "unknown",
}


@rows("state", State)
def test_every_state_has_a_status_and_only_finished_images_are_completed(state: State) -> None:
    assert task_results.task(TaskReport(replace(OPEN, state=state))).status == STATUSES[state]


@rows("status", sorted(set(STATUSES.values())))
def test_a_status_stands_for_all_its_states(status: TaskStatus) -> None:
    assert task_results.states(status) == tuple(state for state in State if STATUSES[state] == status)


TROUBLE = ServiceError("RunAPI is in trouble.", status=503)


@rows(
    ("entry", "error"),
    [
        (OPEN, "RunAPI is in trouble."),
        (SUBMITTED, "RunAPI is in trouble."),
        (COMPLETED, "RunAPI is in trouble."),
        (DELIVERED, None),
        (FAILED, "The prompt was refused by moderation."),
        (replace(COMPLETED, error="Fetched and lost."), "Fetched and lost."),
    ],
)
def test_what_stands_in_the_way_is_told_while_there_is_a_way_to_go(entry: TaskRecord, error: str | None) -> None:
    assert task_results.task(TaskReport(entry, TROUBLE)).error == error


def test_times_are_told_in_utc_to_the_second() -> None:
    assert task_results.stamp(AT) == "2026-11-20T10:00:00Z"
    assert task_results.stamp(AT.replace(microsecond=0)) == "2026-11-20T10:00:00Z"


@rows(("usd", "number"), [(None, None), ("0", 0.0), ("0.05", 0.05), ("0.045", 0.045), ("12", 12.0)])
def test_amounts_become_the_numbers_a_reader_would_write(usd: str | None, number: float | None) -> None:
    found = task_results.number(None if usd is None else Decimal(usd))
    assert found == number
    assert json.dumps(found) == json.dumps(number)


# --- a call ---


@rows(
    ("entries", "status"),
    [
        ([], "none"),
        ([OPEN], "processing"),
        ([SUBMITTED], "processing"),
        ([DELIVERED, SUBMITTED], "processing"),
        ([FAILED, OPEN, LOST], "processing"),
        ([DELIVERED], "completed"),
        ([DELIVERED, COMPLETED], "completed"),
        ([FAILED, REJECTED], "failed"),
        ([LOST], "unknown"),
        ([DELIVERED, FAILED], "partial"),
        ([DELIVERED, LOST], "partial"),
        ([DELIVERED, REJECTED, LOST], "partial"),
    ],
)
def test_a_calls_status_is_that_of_its_tasks_taken_together(
    entries: list[TaskRecord], status: GenerationStatus
) -> None:
    for order in itertools.permutations(entries):
        assert told(*order).status == status


def test_nothing_is_called_completed_while_any_task_is_not() -> None:
    for entry in (OPEN, SUBMITTED, FAILED, REJECTED, LOST):
        assert told(DELIVERED, entry).status != "completed"


def test_a_whole_result_names_the_tool_to_call_next_with_the_tasks_still_to_come() -> None:
    second = replace(OPEN, key="key-2", quoted_usd=Decimal("0.1"))
    result = told(DELIVERED, second, FAILED, replace(COMPLETED, task_id="task-3"))
    assert result == GenerationResult(
        status="processing",
        sandbox=False,
        notice=None,
        tasks=[
            *(
                task_results.task(TaskReport(DELIVERED)),
                task_results.task(TaskReport(second)),
                task_results.task(TaskReport(FAILED)),
            ),
            task_results.task(TaskReport(replace(COMPLETED, task_id="task-3"))),
        ],
        quoted_usd=0.25,
        charged_usd=0.09,
        next_action=NextAction(tool="check_task", arguments={"task_ids": ["key-2", "task-3"]}),
    )


@rows("entry", [DELIVERED, FAILED, REJECTED, LOST, replace(COMPLETED, state=State.UNDELIVERED)])
def test_where_nothing_is_to_come_nothing_is_to_be_called(entry: TaskRecord) -> None:
    assert told(entry).next_action is None


def test_sums_count_what_is_known_and_are_unknown_where_nothing_is() -> None:
    free = replace(OPEN, quoted_usd=None)
    assert (told(free).quoted_usd, told(free).charged_usd) == (None, None)
    both = told(free, COMPLETED)
    assert (both.quoted_usd, both.charged_usd) == (0.05, 0.045)
    assert told(replace(COMPLETED, charged_usd=Decimal(0))).charged_usd == 0.0
    assert told(*[replace(OPEN, quoted_usd=Decimal("0.1"))] * 3).quoted_usd == 0.3


@rows(
    ("sandbox", "joined", "notice", "expected"),
    [
        (False, False, None, None),
        (True, False, None, SANDBOX_NOTICE),
        (False, True, None, JOINED_NOTICE),
        (False, False, "The journal was broken.", "The journal was broken."),
        (True, True, "The journal was broken.", f"{SANDBOX_NOTICE} {JOINED_NOTICE} The journal was broken."),
    ],
)
def test_notices_say_what_is_out_of_the_ordinary(
    notice: str | None, expected: str | None, *, sandbox: bool, joined: bool
) -> None:
    result = told(DELIVERED, sandbox=sandbox, joined=joined, notice=notice)
    assert (result.notice, result.sandbox) == (expected, sandbox)
    assert expected is None or expected in task_words.words(result)


def test_no_model_can_take_a_sandbox_image_for_a_real_one() -> None:
    assert "SANDBOX" in SANDBOX_NOTICE
    assert "NOT FLUX.2 images" in SANDBOX_NOTICE
    for entry in (OPEN, DELIVERED, FAILED):
        assert SANDBOX_NOTICE in task_words.words(told(entry, sandbox=True))
        assert SANDBOX_NOTICE not in task_words.words(told(entry))
    assert SANDBOX_NOTICE in task_words.words(told(sandbox=True))


def test_nothing_is_called_charged_where_no_money_moved() -> None:
    for entry in (OPEN, SUBMITTED, COMPLETED, DELIVERED, FAILED, REJECTED):
        words = task_words.words(told(entry, sandbox=True))
        assert "charged" not in words
        assert "charge" in words
    assert "would charge $0.045" in task_words.words(told(DELIVERED, sandbox=True))


@pytest.mark.anyio
async def test_the_places_with_a_file_are_found(tmp_path: Path) -> None:
    file, copy = tmp_path / "kept.png", tmp_path / "copy.png"
    entry = replace(DELIVERED, images=(replace(IMAGE, path=str(file), saved=str(copy)),))
    for there in ((), (file,), (copy,), (file, copy)):
        for path in there:
            path.touch()
        assert await task_results.files_there([entry]) == set(map(str, there))
        for path in there:
            path.unlink()


def test_a_prompt_is_shown_in_one_line_and_shortened() -> None:
    entry = replace(DELIVERED, request=replace(DELIVERED.request, prompt="a  cat\n" + "x" * 500))
    prompt = task_results.task(TaskReport(entry)).prompt
    assert prompt is not None
    assert (len(prompt), prompt[:7]) == (160, "a cat x")
    assert len(task_words.words(told(entry)).splitlines()[0]) < 300


def test_a_price_that_the_sandbox_made_up_is_said_to_be() -> None:
    dear = replace(DELIVERED, request=catalog.request(prompt="a cat", variant="max", aspect_ratio="1:1"))
    assert "The sandbox made up the price of max" in task_words.words(told(dear, DELIVERED, sandbox=True))
    assert "made up" not in task_words.words(told(dear))
    assert "made up" not in task_words.words(told(DELIVERED, sandbox=True))


# --- the same in words ---


def test_a_delivered_image_in_words_begins_with_its_file() -> None:
    assert task_words.words(told(DELIVERED)) == (
        "/home/ada/images/2026-11-20-a-cat-1.png (1024x1024), task-1: completed, pro,"
        ' 2026-11-20T10:00:04Z, charged $0.045, "a cat"\n'
        f"  url: {URL} (until 2026-11-27T10:00:04Z)\n"
        "status: completed; quoted $0.05, charged $0.045\n"
        "No picture is attached: describe the image only after opening its file."
    )


def test_nobody_is_told_to_have_seen_more_pictures_than_came_with_the_words() -> None:
    words = task_words.words(told(DELIVERED, replace(DELIVERED, task_id="task-2")), previews=1)
    assert "Small previews attached: 1. The files are larger and were not looked at." in words
    assert "No picture is attached" not in words
    for entry in (OPEN, COMPLETED, FAILED):
        assert "picture" not in task_words.words(told(entry))


def test_an_open_task_in_words_says_what_to_call_and_what_not() -> None:
    assert task_words.words(told(SUBMITTED)) == (
        'task-1: pending, pro, 2026-11-20T10:00:00Z, quoted $0.05, "a cat"\n'
        "status: processing; quoted $0.05, charged not known yet\n"
        "Next: call check_task with task_ids ['task-1']. Don't call generate again: the tasks run on and are paid once."
    )


@pytest.mark.parametrize("entry", [FAILED, REJECTED])
def test_a_failed_task_in_words_says_why_and_that_it_was_free(entry: TaskRecord) -> None:
    first, why, *_, last = task_words.words(told(entry)).split("\n")
    assert first.startswith(f"{entry.task_id or entry.key}: failed, ")
    assert why == f"  {(entry.error or '').rstrip('.')}. Not charged."
    assert last == f"Next: {TaskFailedError.default_next}"


def test_a_task_of_unknown_fate_is_not_called_free() -> None:
    words = task_words.words(told(LOST))
    assert "key-1: unknown" in words
    assert "whether it was charged is not known" in words
    assert "Not charged" not in words


def test_no_tasks_at_all_are_said() -> None:
    assert task_words.words(told()) == "There are no tasks yet."
    assert task_words.words(told(notice="The journal was broken.")) == "There are no tasks yet. The journal was broken."


@rows(
    "entries",
    [
        [DELIVERED, replace(DELIVERED, task_id="task-2", image_urls=(f"{URL}2",))],
        [COMPLETED, OPEN],
        [DELIVERED, FAILED, LOST],
        [replace(DELIVERED, image_urls=(URL, f"{URL}2"), images=(IMAGE, replace(IMAGE, path="/second.webp")))],
    ],
)
def test_whatever_matters_stands_in_both_the_data_and_the_words(entries: list[TaskRecord]) -> None:
    result = told(*entries, sandbox=True, joined=True, notice="The journal was broken.")
    words = task_words.words(result)
    for task in result.tasks:
        assert task.task_id in words
        assert task.error is None or task.error in words
        for image in task.images:
            assert str(image.url) in words
            assert image.path is None or image.path in words
            assert str(image.expires_at) in words
    assert str(result.notice) in words
    assert f"status: {result.status}" in words
    if result.next_action is not None:
        assert result.next_action.tool in words


@rows(
    "trouble",
    [None, TROUBLE, DeliveryError("The result's URL answered 404."), NotFoundError("No such task.", status=404)],
)
@rows("entry", [OPEN, SUBMITTED, COMPLETED, DELIVERED, FAILED, REJECTED, LOST])
def test_every_result_survives_json_as_it_is(entry: TaskRecord, trouble: Flux2Error | None) -> None:
    result = task_results.generation(Outcome(tasks=(TaskReport(entry, trouble),), sandbox=True))
    assert GenerationResult.model_validate_json(result.model_dump_json()) == result
    assert task_words.words(GenerationResult.model_validate(result.model_dump(mode="json"))) == task_words.words(result)


def test_a_long_url_is_whole_in_the_structured_result_and_cut_in_its_text() -> None:
    long = f"{URL}{'x' * 8000}"
    result = told(replace(DELIVERED, image_urls=(long,)))
    assert [image.url for image in result.tasks[0].images] == [long]
    assert len(task_words.words(result)) < 3000


def test_a_results_url_lives_seven_days_from_its_completion_wherever_the_clock_stands() -> None:
    far = AT.astimezone(timezone(timedelta(hours=5)))
    entry = replace(COMPLETED, completed_at=far.astimezone(UTC))
    assert task_results.task(TaskReport(entry)).images[0].expires_at == "2026-11-27T10:00:00Z"


def test_what_was_saved_stands_first_and_what_left_the_machine_is_said() -> None:
    saved = replace(IMAGE, saved="/home/ada/site/hero.png", note="hero.png had come to exist meanwhile.")
    sources = (
        SourceImage(given="photo.jpg", identity="sha256:1", uploaded_bytes=412_000, width=200, height=300),
        SourceImage(given="task:1", identity="task:1"),
    )
    entry = replace(DELIVERED, images=(saved,), request=replace(DELIVERED.request, sources=sources))
    outcome = Outcome(tasks=(TaskReport(entry),), sandbox=False)
    lines = task_words.words(task_results.generation(outcome)).splitlines()
    assert lines[0].startswith("/home/ada/site/hero.png (1024x1024), task-1: completed, ")
    assert lines[2:4] == [
        "  hero.png had come to exist meanwhile.",
        "  sent: photo.jpg (uploaded, pixels only, 200x300, 412 kB, for an hour); task:1 (its address)",
    ]
    asked = task_results.requests(outcome)[DELIVERED.task_id or ""]
    assert asked["source_images"] == ["photo.jpg", "task:1"]


def test_the_gallery_is_told_in_which_workspace_a_task_was_asked_for() -> None:
    outcome = Outcome(tasks=(TaskReport(replace(DELIVERED, workspace="/home/ada/site")),), sandbox=False)
    assert task_results.requests(outcome)[DELIVERED.task_id or ""]["workspace"] == "/home/ada/site"
