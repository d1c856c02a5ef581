"""What the parts of the journal need of a database. Both databases read the SQL that stands in this package.

Rules for that SQL
- Parameters are `?` or `:name`. A condition on a value that may be NULL is built in Python, or uses `coalesce`.
- `CASE` in place of `iif`, `ON CONFLICT` in place of `INSERT OR`, `LIKE` in place of `instr`.
- `INDEXED BY` and `typeof(...) = '...'` are for SQLite: another database has a planner with statistics, and columns with
  types. It reads the text without them.
- What needs more than that is not shared: leases, lists and sums of history stand in each database's own package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from flux2_mcp.journal.records import TaskRecord

T = TypeVar("T")

Value: TypeAlias = str | int | float | None
Parameters: TypeAlias = Sequence[Value] | Mapping[str, Value]

HOME = "home"
"""What must stand still while caps, joins, places, names and accounts are decided: see `Store.write`."""
PACE = "pace"
"""The same for the turns of one account."""
NOTHING = ""
"""For a write that is right whatever others write: one statement, or one whose task is named."""


class Row(Protocol):
    """A row: its values by the names of its columns, or by their places."""

    def __getitem__(self, key: int | str, /) -> Any:  # noqa: ANN401  # whatever the column holds
        """The value of a column."""
        ...


Read: TypeAlias = Callable[..., Sequence[Row]]
"""A function that returns all rows of one query, as `Database.read` does."""


class Database(Protocol):
    """A connection, within one call of `Store.run` or `Store.write`."""

    def read(self, sql: str, parameters: Parameters = ()) -> Sequence[Row]:
        """All rows of one query."""
        ...

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement. Returns the number of changed rows."""
        ...

    def together(self, questions: Sequence[tuple[str, Parameters]]) -> Sequence[Sequence[Row]]:
        """Run statements that do not depend on each other, and return the rows of each. They are one way to a server."""
        ...

    def later(self, sql: str, parameters: Parameters = ()) -> None:
        """Run one statement before the next one, at the latest at the end: nobody asks what comes of it."""
        ...


class Store(Protocol):
    """What the journal's parts share: the database, and the names of this process and its account."""

    name: str
    """A name made from the service and the key, which does not hold the key."""
    owner: str
    """The name of this process."""
    is_partial: bool
    """True if a part of a lost file could not be read."""
    clock: Callable[[], float] | None
    """The clock of `now`, where this process has it; None if it is the database's own."""

    @property
    def lease_seconds(self) -> float:
        """How long a lease of this process lasts without renewal; at most `contract.LEASE_SECONDS`."""
        ...

    @property
    def account(self) -> str:
        """The name under which the key's tasks are recorded. Within a call, that of the call's beginning."""
        ...

    def now(self, database: Database) -> float:
        """The time for leases and turns, in seconds. It is read within a transaction, after what it waits for."""
        ...

    def warn_unreadable(self, records: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """Return the same records, after a warning in the log for each that can't be read."""
        ...

    def note_newest(self) -> None:
        """Note elsewhere that a task was written, if this database may forget it."""
        ...

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` on this key's tasks, in a thread."""
        ...

    async def write(
        self,
        work: Callable[[Database], T],
        *,
        durable: bool = True,
        alone: str = HOME,
        task: str | None = None,
        tell: bool | None = None,
        after: Callable[[], None] | None = None,
        whole: bool = False,
    ) -> T:
        """Run `work` as `run` does, in one transaction.

        Args:
            work: Reads and writes.
            durable: Whether the transaction is on disk when this returns.
            alone: `HOME`, `PACE` or `NOTHING`: no two transactions of the same kind run at once. SQLite has one
                writer at a time anyway.
            task: The key of a task whose row nobody else changes meanwhile.
            tell: Whether other processes are told (`Leases.version`); by default, if it is durable.
            after: Runs when the transaction has ended.
            whole: `work` asks once (`read`, `execute` or `together`), tells nobody, and it harms nothing if that is done for
                the account that the key had before. Then all of the transaction is one way to a server.
        """
        ...
