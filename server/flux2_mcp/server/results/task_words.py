"""The results about tasks in words: what happened, where the files are, what they cost, what to do next."""

from __future__ import annotations

from decimal import Decimal

from flux2_mcp.domain import budget
from flux2_mcp.errors import shortened
from flux2_mcp.server.results import apply
from flux2_mcp.server.results.tasks import GenerationResult, StepResult, TaskResult

MAX_LINE_PROMPT_CHARS = 60
"""The maximum length of a prompt in a task's line."""
MAX_SHOWN_URL_CHARS = 2048
"""The maximum length of a URL in a text; signed URLs have about 1,500 characters. The structured result is not cut."""


def words(result: GenerationResult, *, previews: int = 0) -> str:
    """Describe the result in words: what happened, where the files are, what they cost, what to do next.

    Args:
        result: The result.
        previews: The number of attached small pictures. The text claims no more than these.
    """
    lines = [line for each in result.tasks for line in _task_lines(each, sandbox=result.sandbox)]
    if result.manifest is not None:
        lines.append(apply.apply_words(result.manifest))
    lines += _all_lines(result)
    if result.notice:
        lines.append(result.notice)
    return "\n".join([*lines, *guidance(result, previews=previews)])


def guidance(result: GenerationResult, *, previews: int = 0) -> list[str]:
    """Return what a model should and should not do now, in sentences; the data has no place for all of it."""
    lines = []
    if previews:
        lines.append(f"Small previews attached: {previews}. The files are larger and were not looked at.")
    elif any(image.path for each in result.tasks for image in each.images):
        lines.append("No picture is attached: describe the image only after opening its file.")
    if result.next_action is not None:
        ids = result.next_action.arguments["task_ids"]
        again = (
            ". Don't call generate again: the tasks run on and are paid once."
            if result.manifest is None
            else ", or generate with the same manifest again: it joins what runs, and pays nothing twice."
        )
        lines.append(f"Next: call check_task with task_ids {ids}{again}")
    if result.next_step is not None and (result.next_action is None or result.manifest is None):
        lines.append(f"Next: {result.next_step}")
    return lines


def _all_lines(result: GenerationResult) -> list[str]:
    """Describe all tasks together; in a list, these are all that match."""
    if not result.tasks:
        return []
    lines, matched = [], result.matched
    if matched is not None:
        each = ", ".join(f"{count} {status}" for status, count in matched.by_status.items())
        older = f' For older ones, call check_task with the same filters and before: "{matched.before}".'
        verb = "1 of them is" if matched.shown == 1 else f"{matched.shown} are"
        shown = f"; {verb} shown" if matched.shown < matched.count else ""
        lines.append(f"{_tasks(matched.count)} {each}{shown}.{older if matched.before else ''}")
    chains = [[step.quoted_usd for step in task.steps] + [task.quoted_usd] for task in result.tasks if task.steps]
    whole = all(usd is not None for chain in chains for usd in chain)
    quoted = "unknown" if result.quoted_usd is None else f"{'' if whole else 'at least '}{_dollars(result.quoted_usd)}"
    charged = cost(result.charged_usd, sandbox=result.sandbox, uncharged=uncharged(result))
    return [*lines, f"status: {result.status}; quoted {quoted}, {charged}"]


def _tasks(count: int) -> str:
    return "1 task matches:" if count == 1 else f"{count} tasks match:"


def uncharged(result: GenerationResult) -> int:
    """Return how many tasks the charge of all leaves out, because theirs is not known."""
    if result.matched is not None:
        return result.matched.uncharged
    return sum(each.charged_usd is None for task in result.tasks for each in (*(task.steps or ()), task))


def cost(charged_usd: float | None, *, sandbox: bool, unknown: str = "not known yet", uncharged: int = 0) -> str:
    """Return what was charged, in words; in the sandbox, where no money moves, what would be.

    Args:
        charged_usd: The charge, or the sum of all that are known.
        sandbox: Whether the sandbox drew the images.
        unknown: What to say if no charge is known.
        uncharged: The number of tasks that the sum leaves out.
    """
    if charged_usd is None:
        return f"{'charge' if sandbox else 'charged'} {unknown}"
    sum_of_known = (
        f"{'would charge' if sandbox else 'charged'} {'at least ' if uncharged else ''}{_dollars(charged_usd)}"
    )
    return f"{sum_of_known}; of {uncharged} the charge is {unknown}" if uncharged else sum_of_known


def _task_lines(result: TaskResult, *, sandbox: bool) -> list[str]:
    """Describe a task: a line with its time, price, prompt and files, and lines for what is out of the ordinary."""
    files = [place for image in result.images if (place := image.saved or image.path)]
    sizes = dict.fromkeys(f"({image.width}x{image.height})" for image in result.images if image.width)
    price = None
    if result.status != "failed":
        price = (
            cost(result.charged_usd, sandbox=sandbox)
            if result.charged_usd is not None or result.quoted_usd is None
            else f"quoted {_dollars(result.quoted_usd)}"
        )
    prompt = result.prompt and f'"{shortened(result.prompt, MAX_LINE_PROMPT_CHARS)}"'
    facts = (
        f"{result.task_id}: {result.status}",
        result.variant,
        result.completed_at or result.created_at,
        price,
        prompt,
    )
    head = [" ".join([*files, *sizes])] if files else []
    lines = [", ".join([*head, *filter(None, facts)])]
    for image in result.images:
        if image.url:
            lines.append(f"  url: {shortened(image.url, MAX_SHOWN_URL_CHARS)} (until {image.expires_at})")
        if image.mismatch:
            paid = "It would cost the same." if sandbox else "It is charged all the same."
            lines.append(f"  Not what was asked for: {image.mismatch} {paid}")
        if image.note:
            lines.append(f"  {image.note}")
    for step in result.steps or ():
        made = f" {step.path}" if step.path and result.status == "failed" else ""
        lines.append(f"  after {step.model}, {step.status},{_step_cost(step, sandbox=sandbox)}{made}")
        if step.error and step.error != result.error:
            lines.append(f"    {step.error}")
    if result.sources:
        lines.append("  sent: " + "; ".join(f"{source.source} ({source.sent})" for source in result.sources))
    if result.error:
        free = "" if sandbox or result.status != "failed" else " Not charged."
        stop = "" if not free or result.error.endswith((".", "!", "?")) else "."
        lines.append(f"  {result.error}{stop}{free}")
    return lines


def _step_cost(step: StepResult, *, sandbox: bool) -> str:
    said = "not charged" if step.status == "failed" else cost(step.charged_usd, sandbox=sandbox)
    return f" {said}: {step.task_id}"


def _dollars(amount: float) -> str:
    return budget.dollars(Decimal(str(amount)))
