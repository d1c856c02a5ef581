"""What RunAPI's newer packages expect: hybrid tasks, money as billing, other words, replays, a code beside the error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.sandboxed import TEXT, Api, outcome, running


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def test_a_hybrid_create_answers_202_and_its_result_comes_from_its_location_alone(api: Api) -> None:
    created = api.create("[sandbox:hybrid][sandbox:stuck] a cat")
    ident = created.json()["id"]
    assert outcome(created) == (202, {"id": ident, "status": "pending", "error": None, "response": None})
    told = {name: created.headers[name] for name in ("Location", "Retry-After", "X-RunAPI-Task-Id")}
    assert told == {"Location": f"/api/v1/tasks/{ident}", "Retry-After": "1", "X-RunAPI-Task-Id": ident}
    there = api.http.get(told["Location"])
    assert (there.status_code, there.headers["Retry-After"], there.json()["response"]) == (200, "1", None)
    assert api.http.get(f"{TEXT}/{ident}").status_code == 404
    assert api.anyone.get(told["Location"]).status_code == 401


def test_an_envelope_holds_what_the_endpoint_would_have_said(api: Api) -> None:
    done = api.create("[sandbox:hybrid][sandbox:instant] a cat")
    envelope = api.http.get(done.headers["Location"]).json()
    stored = envelope["response"]
    assert (envelope["status"], envelope["error"], stored["status"]) == ("completed", None, 200)
    assert (stored["body"]["id"], stored["body"]["usage"]) == (envelope["id"], {"cost": 0.05, "generated_images": 1})
    assert api.anyone.get(stored["body"]["images"][0]["url"]).status_code == 200
    failed = api.create("[sandbox:hybrid][sandbox:instant][sandbox:moderation] a cat").json()
    assert (failed["status"], failed["response"]["status"]) == ("failed", 422)
    assert failed["error"] == failed["response"]["body"]["error"]


def test_a_task_stays_hybrid_for_every_server_on_the_folder(api: Api) -> None:
    created = api.create("[sandbox:stuck] a cat")
    with running(api.sandbox.state.results.parent.parent, hybrid=True) as other:
        assert other.http.get(f"{TEXT}/{created.json()['id']}").status_code == 200
        theirs = other.create("[sandbox:stuck] a cat")
    assert theirs.status_code == 202
    assert api.http.get(theirs.headers["Location"]).status_code == 200


def test_a_replay_is_told_once_the_key_is_known(api: Api) -> None:
    with pytest.raises(Exception, match="disconnected"):
        api.create("[sandbox:replayed][sandbox:instant] a cat", "k")
    again = api.create("[sandbox:replayed][sandbox:instant] a cat", "k").json()
    assert (again["task_replayed"], len([task for task in api.sandbox.tasks() if task.id == again["id"]])) == (True, 1)
    assert "task_replayed" not in api.create("[sandbox:instant] a cat", "plain").json()


def test_money_is_told_as_reservation_and_settlement(api: Api) -> None:
    opened = api.create("[sandbox:billing][sandbox:stuck] a cat").json()
    assert opened["billing"] == {"reservation": {"amount_cents": 5}}
    done = api.create("[sandbox:billing][sandbox:instant] a cat").json()
    settlement = {"charged_amount_cents": 5, "amount_micro_cents": 5_000_000}
    assert ("usage" in done, done["billing"]) == (False, opened["billing"] | {"settlement": settlement})


def test_a_refunded_task_leaves_the_balance_as_it_was(api: Api) -> None:
    before = api.http.get("/api/v1/me/balance").json()
    done = api.create("[sandbox:refunded][sandbox:instant] a cat").json()
    assert (done["status"], sorted(done["billing"]["refund"])) == ("completed", ["refunded_at"])
    assert api.http.get("/api/v1/me/balance").json() == before


def test_other_words_are_those_of_the_newer_packages(api: Api) -> None:
    states = [
        api.create(f"[sandbox:other_words]{more} a cat").json()["status"]
        for more in ("[sandbox:stuck]", "[sandbox:instant]", "[sandbox:instant][sandbox:moderation]")
    ]
    assert states == ["queued", "finished", "timeout"]


def test_a_refused_callback_has_its_code_beside_the_text_each_time(api: Api) -> None:
    for _ in range(2):
        refused = api.create("[sandbox:callback_refused] a cat")
        assert (refused.status_code, refused.json()["code"]) == (400, "callback_api_key_unusable")
