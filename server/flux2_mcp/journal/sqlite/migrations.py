"""The journal's schema as append-only steps, each with a name. Never edit or rename a released step: add another.

Early versions recorded the first five steps by their position instead of a name; so these five keep their positions.

Times are seconds since 1970 (UTC), except `lease_until`, `blocked_until`, `seen_at` and `turn.at`. These are on the
machine's monotonic clock, so that a change of the clock can't break them; `seen_at` shows that the monotonic clock
started anew. Money is millionths of a US dollar.
"""

from __future__ import annotations


def _valid(amount: str) -> str:
    return f"iif(typeof({amount}) = 'integer' AND {amount} BETWEEN 0 AND 1000000000000000, {amount}, NULL)"


def _count(row: str, sign: str) -> str:
    """Two statements that add a row of `task` to its total, or take it off. A script is split at the ends of its lines."""
    here = f"account IS {row}.account AND state IS {row}.state AND model IS {row}.model"
    quoted, charged = _valid(f"{row}.quoted"), _valid(f"{row}.charged")
    sums = {
        "tasks": "1",
        "quotes": f"({quoted} IS NOT NULL)",
        "quoted": f"coalesce({quoted}, 0)",
        "charges": f"({charged} IS NOT NULL)",
        "charged": f"coalesce({charged}, 0)",
    }
    sets = ", ".join(f"{name} = {name} {sign} {value}" for name, value in sums.items())
    return (
        f"INSERT INTO total SELECT {row}.account, {row}.state, {row}.model, 0, 0, 0, 0, 0"
        f" WHERE NOT EXISTS (SELECT 1 FROM total WHERE {here}); UPDATE total SET {sets} WHERE {here};"
    )


_TRIGGERS = f"""
CREATE TRIGGER task_counted AFTER INSERT ON task BEGIN {_count("NEW", "+")} END;
CREATE TRIGGER task_uncounted AFTER DELETE ON task BEGIN {_count("OLD", "-")} END;
CREATE TRIGGER task_recounted AFTER UPDATE OF account, state, model, quoted, charged ON task
  BEGIN {_count("OLD", "-")} {_count("NEW", "+")} END;
"""

_PAID = ", ".join(_valid(f"task.{name}") for name in ("charged", "reserved", "quoted"))
_SANDBOX = "task.account IS 'sandbox'"
_HOUR = (  # what has no valid time counts always: a condition on the time holds for a text, too
    "iif(typeof(task.created_at) IN ('real', 'integer'), CAST(task.created_at AS INTEGER) / 3600, 9223372036854775807)"
)
_USD = f"iif(task.state IN ('failed', 'rejected'), 0, coalesce({_PAID}, 0))"


def _spend(row: str, sign: str) -> str:
    """Two statements that add a row of `task` to the sums of its hour, or take it off: those of all, and its person's."""
    here = f"sandbox = ({_SANDBOX}) AND hour = {_HOUR}"
    text = (
        f"INSERT INTO spent SELECT {_SANDBOX}, whose, {_HOUR}, 0 FROM (SELECT '' AS whose UNION SELECT task.person) AS each"
        f" WHERE whose IS NOT NULL AND NOT EXISTS (SELECT 1 FROM spent WHERE {here} AND whose = each.whose);"
        f" UPDATE spent SET usd = usd {sign} {_USD} WHERE {here} AND whose IN ('', task.person);"
    )
    return text.replace("task.", f"{row}.")


def _spends(row: str) -> str:
    return f"(task.person, {_SANDBOX}, {_HOUR}, {_USD})".replace("task.", f"{row}.")


_SPENT_TRIGGERS = f"""
CREATE TRIGGER task_spent_more AFTER INSERT ON task BEGIN {_spend("NEW", "+")} END;
CREATE TRIGGER task_spent_less AFTER DELETE ON task BEGIN {_spend("OLD", "-")} END;
CREATE TRIGGER task_spent_anew AFTER UPDATE OF account, person, state, reserved, quoted, charged, created_at ON task
  WHEN {_spends("OLD")} IS NOT {_spends("NEW")} BEGIN {_spend("OLD", "-")} {_spend("NEW", "+")} END;
"""

MIGRATIONS = (
    (
        "tasks_and_pace",
        """
CREATE TABLE task (
  n            INTEGER PRIMARY KEY,
  key          TEXT NOT NULL,
  task_id      TEXT,
  account      TEXT NOT NULL,
  state        TEXT NOT NULL,
  request      TEXT NOT NULL,
  digest       TEXT NOT NULL,
  model        TEXT NOT NULL,
  resolution   TEXT NOT NULL,
  workspace    TEXT,
  client       TEXT,
  session      TEXT,
  push_url     TEXT,
  nudged       INTEGER NOT NULL DEFAULT 0,
  quoted       INTEGER,
  reserved     INTEGER,
  charged      INTEGER,
  error        TEXT,
  urls         TEXT NOT NULL DEFAULT '[]',
  images       TEXT NOT NULL DEFAULT '[]',
  created_at   REAL NOT NULL,
  sent_at      REAL,
  submitted_at REAL,
  completed_at REAL,
  delivered_at REAL,
  told_at      REAL,
  owner        TEXT,
  lease_until  REAL,
  UNIQUE (account, key),
  UNIQUE (account, task_id)
);
CREATE INDEX task_recent ON task (account, created_at);
CREATE INDEX task_unfinished ON task (account, n) WHERE state IN ('intent', 'submitted', 'processing', 'completed');
CREATE INDEX task_digest ON task (account, digest, created_at);
CREATE INDEX task_durations ON task (account, model, resolution, completed_at) WHERE state IN ('completed', 'delivered');
CREATE INDEX task_push ON task (account, push_url) WHERE push_url IS NOT NULL;
CREATE TABLE pace (
  account       TEXT PRIMARY KEY,
  rate          REAL NOT NULL,
  blocked_until REAL NOT NULL,
  seen_at       REAL NOT NULL
);
CREATE TABLE turn (
  account TEXT NOT NULL,
  at      REAL NOT NULL
);
CREATE INDEX turn_latest ON turn (account, at)
""",
    ),
    (
        "save_to_and_uploads",
        """
ALTER TABLE task ADD COLUMN save_to TEXT;
ALTER TABLE task ADD COLUMN overwrite INTEGER NOT NULL DEFAULT 0;
CREATE TABLE upload (
  account    TEXT NOT NULL,
  identity   TEXT NOT NULL,
  file_name  TEXT NOT NULL,
  url        TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  mime_type  TEXT NOT NULL,
  expires_at REAL NOT NULL,
  PRIMARY KEY (account, identity)
)
""",
    ),
    (
        "newest_and_session_indices",
        """
CREATE INDEX task_newest ON task (account, n);
CREATE INDEX task_session ON task (account, session)
""",
    ),
    (
        "fences_placed_files_and_holders",
        """
ALTER TABLE task ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
CREATE TABLE placed (
  path   TEXT PRIMARY KEY,
  task   INTEGER NOT NULL,
  newest INTEGER NOT NULL
);
CREATE TABLE holder (
  account TEXT PRIMARY KEY,
  holder  TEXT NOT NULL,
  tasks   TEXT NOT NULL
)
""",
    ),
    # Money is counted over all accounts of a home, the sandbox's apart. `lost` names the files that could not be read
    # whole when this one replaced them. `missing` is the money in the unread part, as the user said (NULL: not yet).
    (
        "money_of_all_accounts",
        """
DROP INDEX task_session;
CREATE INDEX task_spent ON task (account = 'sandbox', created_at);
CREATE INDEX task_spent_session ON task (account = 'sandbox', session);
CREATE INDEX task_charged ON task (account = 'sandbox', model, resolution, completed_at) WHERE charged > 0;
CREATE TABLE lost (
  name     TEXT PRIMARY KEY,
  found_at REAL NOT NULL,
  missing  INTEGER
)
""",
    ),
    # `location`: where a hybrid task is polled, a path after the base URL. `replayed`: RunAPI knew the create's key.
    (
        "hybrid_tasks_and_replays",
        """
ALTER TABLE task ADD COLUMN location TEXT;
ALTER TABLE task ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0
""",
    ),
    # `follows`: the key of the task whose image is the source. `most`: the most that the call may cost, with all steps.
    (
        "steps_that_follow_others",
        """
ALTER TABLE task ADD COLUMN follows TEXT;
ALTER TABLE task ADD COLUMN most INTEGER;
CREATE INDEX task_follows ON task (account, follows) WHERE follows IS NOT NULL
""",
    ),
    # Sums over all tasks, so that a list of ten need not read a hundred thousand. SQLite keeps them right with each write, also
    # one of an earlier version. Columns take any value, as those of a broken record may have.
    (
        "totals",
        f"""
CREATE TABLE total (
  account, state, model,
  tasks   INTEGER NOT NULL,
  quotes  INTEGER NOT NULL,
  quoted  INTEGER NOT NULL,
  charges INTEGER NOT NULL,
  charged INTEGER NOT NULL
);
CREATE INDEX total_of ON total (account, state, model);
{_TRIGGERS}
INSERT INTO total
  SELECT account, state, model, count(*), count({_valid("quoted")}), coalesce(sum({_valid("quoted")}), 0),
         count({_valid("charged")}), coalesce(sum({_valid("charged")}), 0)
  FROM task GROUP BY account, state, model
""",
    ),
    # `person`: whose task it is, a digest; NULL: nobody's. The indices have no rows on a machine of one's own.
    (
        "people",
        """
ALTER TABLE task ADD COLUMN person TEXT;
CREATE INDEX task_of_person ON task (account, person, n) WHERE person IS NOT NULL;
CREATE INDEX task_spent_person ON task (account, person, created_at) WHERE person IS NOT NULL
""",
    ),
    # What a person spent is counted over all accounts of a home, too. `daily`, `monthly`: a person's own caps, in millionths of
    # USD; NULL: those of everybody.
    (
        "caps_of_people",
        """
DROP INDEX task_spent_person;
CREATE INDEX task_spent_by_person ON task (person, created_at) WHERE person IS NOT NULL;
CREATE TABLE person (
  person  TEXT PRIMARY KEY,
  issuer  TEXT NOT NULL,
  subject TEXT NOT NULL,
  name    TEXT,
  admin   INTEGER NOT NULL,
  seen_at REAL NOT NULL,
  daily   INTEGER CHECK (daily >= 0),
  monthly INTEGER CHECK (monthly >= 0)
)
""",
    ),
    # Personal tokens, by their SHA-256. Those with the same name are one person's.
    (
        "tokens",
        """
CREATE TABLE token (
  digest     TEXT PRIMARY KEY,
  name       TEXT NOT NULL,
  created_at REAL NOT NULL,
  expires_at REAL,
  revoked_at REAL
)
""",
    ),
    # Who did what. Rows are added and no more: the triggers refuse all else, also a row in the place of another. `whose`: of
    # whom the task or the caps are, if that is another person. A broken row is not copied out of a lost file (CHECK).
    (
        "audit",
        """
CREATE TABLE audit (
  n       INTEGER PRIMARY KEY,
  at      REAL NOT NULL CHECK (typeof(at) = 'real' AND at BETWEEN 0 AND 253402300799),
  person  TEXT,
  client  TEXT,
  address TEXT,
  whose   TEXT,
  what    TEXT NOT NULL,
  task    TEXT,
  usd     INTEGER CHECK (usd IS NULL OR (typeof(usd) = 'integer' AND usd >= 0)),
  outcome TEXT NOT NULL CHECK (outcome IN ('allowed', 'refused')),
  cap     TEXT
);
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_of_person ON audit (person, at);
CREATE INDEX audit_of_others ON audit (whose, at) WHERE whose IS NOT NULL;
CREATE INDEX audit_of_task ON audit (task, at) WHERE task IS NOT NULL;
CREATE INDEX audit_refused ON audit (at) WHERE outcome = 'refused';
CREATE TRIGGER audit_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE n = NEW.n)
  BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
""",
    ),
    # What all spent in each hour (`whose` is empty), and each person: so a cap need not read all tasks of a month. An hour is a
    # number of whole hours since 1970. Kept as `total` is.
    (
        "spent",
        f"""
CREATE TABLE spent (
  sandbox, whose, hour,
  usd INTEGER NOT NULL,
  PRIMARY KEY (sandbox, whose, hour)
) WITHOUT ROWID;
{_SPENT_TRIGGERS}
INSERT INTO spent
  SELECT {_SANDBOX}, whose, {_HOUR}, sum({_USD})
  FROM (SELECT '' AS whose, * FROM task UNION ALL SELECT person, * FROM task WHERE person <> '') AS task GROUP BY 1, 2, 3
""",
    ),
    # Whose token it is, where its person signed in for it.
    (
        "token_owner",
        """
ALTER TABLE token ADD COLUMN issuer TEXT;
ALTER TABLE token ADD COLUMN subject TEXT
""",
    ),
    # Which tasks a user's yes led to, so that one yes pays once: see `IntentResult.repeated`. `key` is that of a task, and
    # `place` its place in the call.
    (
        "consents",
        """
CREATE TABLE consent (
  consent TEXT NOT NULL,
  place   INTEGER NOT NULL,
  key     TEXT NOT NULL,
  PRIMARY KEY (consent, place)
) WITHOUT ROWID
""",
    ),
    # What servers have to agree on: see `team_contract.Facts`.
    (
        "facts",
        """
CREATE TABLE fact (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID
""",
    ),
)
