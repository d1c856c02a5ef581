"""What the suite said, held against what `scenarios.toml` expects. Pure.

Every check of every scenario succeeds, or is named in the table with the reason why it can't. So four things are wrong:
a check that fails and is not named, one that is named and succeeds, one that is named and is gone, and a scenario that
the table does not have (or has, and the suite does not).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FINE = frozenset({"SUCCESS", "INFO"})
"""What a check may say without being named. A warning, and a check that was skipped, have their reasons, too."""

EVERY = "*"
"""In the place of a check: every one of the scenario's that does not succeed, and there is one."""

Table = Mapping[str, Mapping[str, str]]
"""Scenario -> check -> the reason why it does not succeed."""


@dataclass(frozen=True)
class Check:
    """One check as the suite reports it. Several may have one id."""

    id: str
    status: str
    message: str = ""

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Check:
        return cls(found["id"], found["status"], str(found.get("errorMessage") or ""))


def problems(table: Table, listed: Iterable[str], results: Mapping[str, Iterable[Check]]) -> list[str]:
    """One line for everything that is not as the table says.

    Args:
        table: What is expected.
        listed: The scenarios that the suite says it has.
        results: What each scenario's checks said.
    """
    known = set(listed)
    found = [f"{name}: new in the suite; the table does not have it" for name in sorted(known - set(table))]
    found += [f"{name}: in the table, and the suite has no such scenario" for name in sorted(set(table) - known)]
    for name in sorted(known & set(table)):
        checks = list(results.get(name, ()))
        if not checks:
            found.append(f"{name}: was not run")
        failed = {check.id: check for check in checks if check.status not in FINE}
        expected = set(table[name])
        if EVERY not in expected:
            found += [
                f"{name}: {one}: {failed[one].status}: {failed[one].message}" for one in sorted(set(failed) - expected)
            ]
        stale = expected - set(failed) - ({EVERY} if failed else set())
        found += [f"{name}: {one}: named with a reason, and succeeds" for one in sorted(stale)]
    return found


def figures(results: Mapping[str, Iterable[Check]]) -> str:
    """How many scenarios and checks succeed, in a sentence."""
    checks = {name: list(each) for name, each in results.items()}
    whole = sum(all(check.status in FINE for check in each) for each in checks.values())
    every = [check for each in checks.values() for check in each]
    fine = sum(check.status in FINE for check in every)
    return f"{whole} of {len(checks)} scenarios succeed in every check, and {fine} of {len(every)} checks altogether"
