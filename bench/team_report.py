"""What came of killing a team's servers: its verdict, its lines, and its part of `docs/reliability.md`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.team_callers import CAPS


@dataclass(frozen=True, slots=True)
class Takeovers:
    """How many, and how long they took: seconds."""

    count: int
    median: float
    worst: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Takeovers:
        if not seconds:
            return cls(0, 0.0, 0.0)
        return cls(len(seconds), round(statistics.median(seconds), 1), round(max(seconds), 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Amounts are USD. `tries` counts why a call was made again. `wrong` has a line for each promise that was broken."""

    date: str
    machine: str
    command: str
    replicas: int
    kills: int
    stops: int
    store_stops: int
    seconds: float
    calls: int
    refused: Mapping[str, int]
    tasks: int
    made: int
    creates: int
    delivered: int
    linked: int
    unaudited: int
    charged: str
    cap: str
    most: str
    person_cap: str
    most_of_person: str
    looks: int
    takeovers: Takeovers
    takeovers_while_away: Takeovers
    failed_starts: int
    tries: Mapping[str, int]
    wrong: Sequence[str]

    @property
    def reached(self) -> bool:
        """Whether each of the caps has refused something."""
        return self.refused.keys() == set(CAPS)


def read(told: Mapping[str, Any]) -> Report:
    """The report from its JSON."""
    named = ("takeovers", "takeovers_while_away")
    return Report(**{**told, **{name: Takeovers(**told[name]) for name in named}})


def rows(report: Report) -> Iterator[tuple[str, str]]:
    """What was measured, and how much it was."""
    refused = ", ".join(f"{number} by `{cap}`" for cap, number in sorted(report.refused.items()))
    took, away = report.takeovers, report.takeovers_while_away
    yield (
        "replicas killed, immediate stops of PostgreSQL, stops of the store",
        f"{report.kills}, {report.stops}, {report.store_stops}",
    )
    yield "calls that were answered", f"{report.calls}; refused {refused or 'none'}"
    yield "calls made again, because no answer came that counts", f"{sum(report.tries.values())}"
    yield "tasks asked for, in the journal, with an entry in the audit", f"{report.tasks}"
    yield "refusals whose entry in the audit went with the database", f"{report.unaudited}"
    yield "tasks that RunAPI made; creates that it received", f"{report.made}; {report.creates}"
    yield (
        "images delivered, each in the store with its SHA-256; fetched by a link",
        f"{report.delivered}; {report.linked}",
    )
    yield "charged", f"${report.charged}"
    yield (
        f"the most that was counted against ${report.cap} of all, ${report.person_cap} of each person",
        f"${report.most}, ${report.most_of_person} ({report.looks} looks)",
    )
    yield "from a kill to another server's lease, s", f"median {took.median}, worst {took.worst} ({took.count} tasks)"
    yield (
        "the same, PostgreSQL having been away meanwhile",
        f"median {away.median}, worst {away.worst} ({away.count} tasks)",
    )
    yield "lost, made twice, paid twice, images missing or broken", "0" if not report.wrong else "; ".join(report.wrong)


_BEFORE = """ This run is from before the
entry of a refusal was synced to disk: some went with the database. Now it is there before the refusal is told ([team.md](team.md#who-did-what))."""
"""Of a run in which entries were missing; in a later one that is wrong."""


def page(report: Report) -> str:
    """Its part of `docs/reliability.md`."""
    lines = "\n".join(f"| {what} | {measured} |" for what, measured in rows(report))
    return f"""
## Servers of a team

One run of `{report.command}` on {report.date}
({report.machine}), a machine shared with other work; it took {report.seconds:.0f} s. {report.replicas} replicas of `flux2-mcp serve --http` with
personal tokens, one PostgreSQL, one object store over HTTP, and the sandbox at RunAPI's own pace. Each replica that starts is as on a
new machine, so no table of processes tells of a kill. A stop of the store: by turns it is gone, or says nothing. Not measured: the live service, a network between the parts, PostgreSQL with a replica.

| what | measured |
| --- | --- |
{lines}

RunAPI received more creates than it made tasks: after a kill in the middle of a create, it is sent again under its key. A server that
starts while the database is away ends, and is started again: {report.failed_starts} times.{_BEFORE if report.unaudited else ""}

The verdict: **{"wrong: " + "; ".join(report.wrong) if report.wrong else "nothing was wrong"}**.
"""
