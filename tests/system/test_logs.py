from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest

from flux2_mcp.system.logs import Outage, fields, hide, to_stderr

SCRIPT = (
    "import logging; from flux2_mcp.system.logs import fields, to_stderr; log = logging.getLogger('flux2_mcp.tests');"
)
LINE = re.compile(r'(?:[a-z_]+=(?:"(?:[^"\\]|\\.)*"|[^\s"=]+)(?: |$))+')


def logged(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT + code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def pairs(line: str) -> dict[str, str]:
    assert LINE.fullmatch(line), line
    found = re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)', line)
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found}


def test_a_record_is_one_line_of_pairs() -> None:
    (line,) = logged(
        "to_stderr('info');"
        "log.info('taken over', extra=fields(task='27c0', state='a b', from_='x', after=1.23456, none=None, odd='q\"=\\n'))"
    )
    found = pairs(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "info",
        "logger": "flux2_mcp.tests",
        "event": "taken over",
        "task": "27c0",
        "state": "a b",
        "from": "x",
        "after": "1.235",
        "odd": 'q"=\n',
    }


FAILED = (
    "\ndef fail(): raise ValueError('a prompt stands here')"
    "\ntry: fail()"
    "\nexcept ValueError: log.warning('trouble', exc_info=True)"
)


@pytest.mark.parametrize("level", ["info", "warning"])
def test_an_exception_is_named_with_its_place_and_never_with_its_own_text(level: str) -> None:
    (line,) = logged(f"to_stderr('{level}')" + FAILED)
    found = pairs(line)
    assert (found["event"], found["error"], found["at"]) == ("trouble", "ValueError", "<string>:2")
    assert "a prompt stands here" not in line


def test_at_debug_its_whole_trace_is_in_the_line() -> None:
    (line,) = logged("to_stderr('debug')" + FAILED)
    trace = pairs(line)["trace"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ValueError: a prompt stands here")


def test_the_place_of_an_exception_is_the_innermost_line_of_ours() -> None:
    (line,) = logged(
        "to_stderr('info')\nfrom flux2_mcp.domain import times\nfrom datetime import datetime, UTC"
        "\ntry: times.since(None, datetime.now(UTC))"
        "\nexcept Exception: log.error('trouble', exc_info=True)"
    )
    assert re.fullmatch(r"times\.py:\d+", pairs(line)["at"])


def test_what_is_below_the_level_is_not_written_and_other_libraries_only_from_warning_up() -> None:
    code = "to_stderr('{}'); log.debug('a'); log.info('b'); logging.getLogger('httpx2').info('a signed URL')"
    assert [pairs(line)["event"] for line in logged(code.format("info"))] == ["b"]
    assert [pairs(line)["event"] for line in logged(code.format("debug"))] == ["a", "b"]
    assert logged(code.format("warning")) == []


def test_people_read_plain_lines_with_the_same_pairs_behind() -> None:
    code = "to_stderr('info', people=True); log.info('taken over', extra=fields(task='27c0')); log.info('no more')"
    assert logged(code) == ["INFO flux2_mcp.tests taken over task=27c0", "INFO flux2_mcp.tests no more"]


def test_a_later_call_replaces_an_earlier() -> None:
    assert len(logged("to_stderr('info', people=True); to_stderr('info'); log.info('once')")) == 1


def test_fields_leave_out_what_is_not_known() -> None:
    assert fields(task="a", took=None) == {"fields": {"task": "a"}}
    record = logging.LogRecord("a", logging.INFO, "", 0, "b", None, None)
    assert not hasattr(record, "fields")  # a name that logging itself does not use


@pytest.mark.parametrize("people", [False, True])
def test_a_key_in_use_stands_in_no_line_and_in_no_trace(capsys: pytest.CaptureFixture[str], people: bool) -> None:
    key = "runapi-0123456789"
    hide(key)
    to_stderr("debug", people=people)
    log = logging.getLogger("flux2_mcp.tests")
    try:
        int(f"Bearer {key}")
    except ValueError:
        log.exception("refused %s", key, extra=fields(header=f"Bearer {key}"))
    said = capsys.readouterr().err
    assert "ValueError: invalid literal" in said
    assert key not in said


def test_what_fails_again_and_again_is_said_once_and_its_end_with_how_long_it_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    outage = Outage(logging.getLogger("flux2_mcp.test"), "not done", "done again", lambda: now)
    outage.works()
    for now in (101.0, 103.0, 105.0):
        outage.fails(f"refused at {now}")
    now = 161.5
    outage.works()
    outage.works()
    outage.fails("away")
    assert [(record.getMessage(), vars(record)["fields"]) for record in caplog.records] == [
        ("not done", {"reason": "refused at 101.0"}),
        ("done again", {"after": 60.5}),
        ("not done", {"reason": "away"}),
    ]
