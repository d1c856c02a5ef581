"""The command line names its options and commands in our texts, and leaves alone what others wrote."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import flux2_mcp
from flux2_mcp.cli.output import own_words
from flux2_mcp.engine.steps import UNANSWERED, explained
from flux2_mcp.errors import InvalidRequestError, Name, Problem, SettingsError, Wording, together
from flux2_mcp.server.results import tasks as task_results

ROOT = Path(flux2_mcp.__file__).parent
FACES = ("server", "cli", "api", "sandbox")
SAID = ("call again", "start the server again", "check_pricing", "list_variants", "max_cost_usd")


def test_a_text_of_ours_is_said_with_the_names_of_the_command_line_and_stays_the_tools_elsewhere() -> None:
    text = Wording("{name:Call again} with {name:max_cost_usd}; {name:check_pricing} tells. It said {what}.", what="no")
    assert text == "Call again with max_cost_usd; check_pricing tells. It said no."
    assert own_words(text) == "Run this again with --max-cost; flux2-mcp pricing tells. It said no."


def test_texts_put_together_keep_their_names() -> None:
    inner = Wording("{name:save_to} is {odd}.", odd="{name:overwrite}")
    text = Wording("{first} And {rest}", first=inner, rest=together([None, "save_to.", inner]))
    assert text == "save_to is {name:overwrite}. And save_to. save_to is {name:overwrite}."
    assert own_words(text) == "--save-to is {name:overwrite}. And save_to. --save-to is {name:overwrite}."
    assert own_words("call again with save_to") == "call again with save_to"


def test_the_fields_of_a_refused_request_are_options_and_what_was_given_stays() -> None:
    error = InvalidRequestError(
        Problem("save_to", Wording("{file} exists; give {name:overwrite: true}.", file="save_to.png")),
        Problem("count", "is 9, call again"),
    )
    assert error.message == "save_to: save_to.png exists; give overwrite: true.\ncount: is 9, call again"
    assert own_words(error.message) == "--save-to: save_to.png exists; give --overwrite.\ncount: is 9, call again"
    assert own_words(Name("Aspect_ratio")) == "--aspect-ratio"


def test_what_a_setting_says_is_no_name() -> None:
    error = SettingsError("FLUX2_MODE must be sandbox or live.", setting="FLUX2_MODE", says="call again")
    assert own_words(error.next_step) == 'It says "call again". Mend that setting, then run this again.'


def test_advice_that_the_journal_kept_as_text_is_said_in_the_command_lines_words() -> None:
    kept = str(explained(UNANSWERED))
    assert kept == UNANSWERED
    assert "at the balance (flux2-mcp pricing), whether it was made" in own_words(explained(kept))
    foreign = "RunAPI says: call again (check_pricing)."
    assert own_words(explained(foreign)) == foreign


def test_results_keep_the_names_in_their_texts_and_give_plain_text_as_json() -> None:
    notice = Wording("Then {name:call again}.")
    result = task_results.GenerationResult(
        status="none", sandbox=False, notice=notice, tasks=[], quoted_usd=None, charged_usd=None, next_action=None
    )
    assert own_words(result.notice or "") == "Then run this again."
    assert result.model_dump(mode="json")["notice"] == "Then call again."
    assert '"notice":"Then call again."' in result.model_dump_json()


def test_below_the_faces_no_text_names_a_tool_or_a_step_that_the_command_line_could_not_rename() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] in FACES:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
                plain = re.sub(r"\{name:[^}]*\}", "", node.value).lower()
                found += [f"{path.name}:{node.lineno}: {name}" for name in SAID if name in plain and " " in plain]
    assert found == []
