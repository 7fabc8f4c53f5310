"""The table of hazards: names, levels and sentences. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

MANY_ROWS = 10_000
MANY_LOCKS = 200


class Level(IntEnum):
    """How much a finding matters."""

    NOTE = 1
    WARN = 2
    FAIL = 3


class Hazard(NamedTuple):
    """A kind of finding: its sentence about a table or column, and what to do instead."""

    name: str
    level: Level
    weight: int
    """Of a byte of the table, against the limit above which it fails; 0: size does not matter."""
    sentence: str
    remedy: str
    otherwise: str = ""
    """Where some have no recipe: which, and what harms least."""

    @property
    def can_fail(self) -> bool:
        """Whether a file can fail for it, if only on a large table."""
        return self.weight > 0 or self.level is Level.FAIL


_READ_ALL = "All rows of {table} are read while nobody can {what} it"
_DEPLOY_FIRST = "Deploy code that does not use it first; in a later deploy accept this."
_QUIET = (
    "run it in a quiet hour with a low MIGRATION_LOCK_TIMEOUT, and accept this with the reason."
)
_BY_HAND = (
    "No recipe for a table without a primary key or a UNIQUE of NOT NULL columns, for a statement "
    "with FROM, USING, WITH or RETURNING, and where the key is changed: write the batches by hand, "
    "with a condition that leaves changed rows out."
)
_ROWS_CHANGED = "All rows of {table} are read, and maybe changed, in one transaction"
HAZARDS = {
    one.name: one
    for one in (
        Hazard(
            "required-column", Level.FAIL, 0,
            "{subject}, and INSERTs of the running code do not name it.",
            "Give it a constant default; or add it nullable, fill it, and set NOT NULL as for "
            "not-null-scan.",
        ),
        Hazard(
            "data-loss", Level.FAIL, 0,
            "All rows of {table} are deleted; nothing brings them back.",
            "No recipe: rename the table and create an empty one of its name, so that the rows are "
            "there until a later deploy drops them; or accept this with the reason.",
        ),
        Hazard(
            "rewrite", Level.WARN, 16,
            "Every row of {table} is written anew while nobody can {what} it.",
            "For a new type, identity or stored column: add a column without it, fill it by a "
            "no-transaction file, and exchange the two.",
            "No recipe for SET LOGGED, SET UNLOGGED, another access method, VACUUM FULL, CLUSTER, "
            "several columns with USING in one statement, a column of an exclusion constraint, a "
            "generated one, an indexed one of a partitioned table, and a table without a key: "
            f"{_QUIET}",
        ),
        Hazard(
            "not-null-scan", Level.WARN, 1, f"{_READ_ALL}.",
            "Validate the constraint in a file of its own.",
        ),
        Hazard(
            "constraint-scan", Level.WARN, 1, f"{_READ_ALL}.",
            "Add the constraint NOT VALID, and validate it in a file of its own.",
        ),
        Hazard(
            "scan-under-lock", Level.WARN, 1, f"{_READ_ALL}.",
            "For a domain: add its CHECK NOT VALID, and validate one on each column instead.",
            "No recipe for NOT NULL of a domain and VALIDATE of its constraint, which lock against "
            f"writes in every version: {_QUIET}",
        ),
        Hazard(
            "index-blocks-writes", Level.WARN, 4,
            "Nobody can write {table} while the index {subject} is built.",
            "Build it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "constraint-builds-index", Level.WARN, 4,
            "Nobody can read or write {table} while the index of {subject} is built.",
            "Build a unique index concurrently, then make it the constraint's.",
        ),
        Hazard(
            "exclusion", Level.WARN, 4,
            "Nobody can read or write {table} while the index of {subject} is built.",
            "No recipe: its index cannot be built concurrently. If all its operators are =, add a "
            "UNIQUE instead; else create a table that has it and move the rows in batches, or "
            f"{_QUIET}",
        ),
        Hazard(
            "index-rebuilt", Level.WARN, 4,
            "The index {subject} is built again while nobody can read or write {table}.",
            "Create the new index concurrently, drop the old one, then make the change.",
            "No recipe for an index of an expression or several columns: create it concurrently "
            "for a second column that has the change, and exchange the two.",
        ),
        Hazard(
            "index-drop", Level.WARN, 0,
            "Dropping {subject} locks {table} against reads, behind every query that runs.",
            "Drop it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "detach-locks-parent", Level.WARN, 0,
            "Detaching {subject} locks {table} against reads, behind every query that runs.",
            "Detach it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "partition-locks-parent", Level.NOTE, 0,
            "Creating {subject} as a partition locks {table} against reads for a moment.",
            "Create it as a table and attach it.",
        ),
        Hazard(
            "backfill", Level.WARN, 8, f"{_ROWS_CHANGED}.",
            "Change them in batches that are committed one by one, in a no-transaction file.",
            _BY_HAND,
        ),
        Hazard(
            "backfill-under-lock", Level.WARN, 16,
            f"{_ROWS_CHANGED}, while others wait for {{subject}}.",
            "Put it into a file of its own, in batches that are committed one by one.", _BY_HAND,
        ),
        Hazard(
            "work-under-lock", Level.WARN, 1,
            "Reads of {subject} wait while this statement works on {table}.",
            "No recipe but the order: put the quick change of {subject} last, or into a file of "
            "its own.",
        ),
        Hazard(
            "several-scans", Level.NOTE, 0,
            "Several statements read all of {table} under one lock.",
            "Combine them: one ALTER TABLE can have several actions.",
        ),
        Hazard(
            "many-locks", Level.WARN, 0,
            f"More than {MANY_LOCKS} tables are locked at once: the server's lock table is finite.",
            "Use one file for each batch of tables.",
        ),
        Hazard(
            "drop", Level.WARN, 0,
            "{table} is gone: the running code may still use it.", _DEPLOY_FIRST,
        ),
        Hazard(
            "drop-column", Level.WARN, 0,
            "{subject} is gone: the running code may still use it.", _DEPLOY_FIRST,
        ),
        Hazard(
            "rename", Level.WARN, 0,
            "{subject}: the running code uses the old name.",
            "A table: create a view of the old name in the same file. A column: add one, write "
            "both, and drop the old one in a later deploy.",
        ),
        Hazard(
            "default-dropped", Level.WARN, 0,
            "{subject} is NOT NULL and loses its default: INSERTs of the running code may not "
            "name it.",
            "Drop the default in a later deploy than the code that names the column.",
        ),
        Hazard(
            "security", Level.WARN, 0,
            "Row security of {table} is weaker or different: {subject}.",
            "Accept this if it is intended.",
        ),
        Hazard(
            "fk-without-index", Level.NOTE, 0,
            "{subject} has no index: a DELETE in the referenced table reads all of {table}.",
            "Create an index on the referencing columns concurrently.",
        ),
        Hazard(
            "nullable", Level.NOTE, 0,
            "{subject} may be NULL from now on: the running code may not expect it.",
            "Deploy code that reads NULL first.",
        ),
        Hazard(
            "type-change", Level.NOTE, 0, "{subject}; no row is written anew.",
            "Check that the running code reads and writes the new type.",
        ),
        Hazard(
            "narrower-type", Level.FAIL, 0,
            "{subject}: the running code may write what no longer fits.",
            "Keep the type, and limit the values by a constraint.",
        ),
        Hazard(
            "new-rule-on-old-writes", Level.NOTE, 0,
            "{subject} holds for new rows of {table} at once, NOT VALID or not: what the running "
            "code writes must satisfy it.",
            "Deploy code that does so first.",
        ),
        Hazard(
            "view-columns", Level.WARN, 0,
            "{table} is without {subject}: the running code may still read it.",
            "Create a view of another name, and drop this one in a later deploy.",
        ),
        Hazard(
            "enum-value-removed", Level.FAIL, 0,
            "{subject} is gone: the running code may still write it.",
            "Keep the value, and forbid it by a constraint on each column of the type.",
        ),
        Hazard(
            "function-signature", Level.WARN, 0,
            "{subject}: the running code may still call it.",
            "Create the new function beside it; drop this one in a later deploy.",
        ),
        Hazard(
            "trigger-disabled", Level.FAIL, 0,
            "{subject} on {table} is disabled: what it checks and writes is left out.",
            "No recipe: enable it again in the same file; to leave it out for your own rows only, "
            "have the trigger test a setting that the file sets; or accept this with the reason.",
        ),
        Hazard(
            "privileges", Level.WARN, 0,
            "{subject}: the running code may rely on that.",
            "Accept this if it is intended.",
        ),
        Hazard(
            "extension", Level.WARN, 0,
            "The extension {subject}: what it does may be different.",
            "Accept this if it is intended.",
        ),
        Hazard(
            "replica-identity", Level.WARN, 0,
            "{table} is published, and its rows are identified by {subject}: subscribers may stop.",
            "Set the replica identity that the subscribers expect.",
        ),
        Hazard(
            "drop-locks-referenced", Level.NOTE, 0,
            "Dropping {subject} locks {table} against reads for a moment.",
            "Drop the foreign key in a file of its own first.",
        ),
        Hazard(
            "many-tables-locked", Level.NOTE, 0,
            "{table} and {subject} are locked against reads: sessions that use them in another "
            "order deadlock.",
            "Change one table in a file.",
        ),
        Hazard(
            "index-replaced", Level.WARN, 0,
            "The index {subject} is dropped before the one that replaces it is there: queries of "
            "{table} go without meanwhile.",
            "Create the new index first.",
        ),
        Hazard(
            "cic-corruption", Level.FAIL, 0,
            "PostgreSQL before 14.4 may leave rows of {table} out of {subject} if they are written "
            "while it is built concurrently.",
            "No recipe: upgrade the server first, which takes a restart; or build the index "
            "without CONCURRENTLY in a quiet hour.",
        ),
        Hazard(
            "lock-timeout", Level.NOTE, 0,
            "The file sets its own lock_timeout: {subject}. While it waits for a lock, all others "
            "wait behind it.",
            "Leave it to MIGRATION_LOCK_TIMEOUT.",
        ),
        Hazard(
            "query-breaks", Level.FAIL, 0,
            "{subject}.",
            "No recipe: deploy code that does not send it first; in a later deploy accept this.",
        ),
        Hazard(
            "result-shape", Level.WARN, 0,
            "{subject}: sessions that have prepared it fail with 0A000, cached plan must not "
            "change result type.",
            "Name the columns in the statement; or recycle the pool after the deploy, and prepare "
            "nothing behind a transaction pooler (psycopg: prepare_threshold=None).",
        ),
        Hazard(
            "accepts-nothing", Level.WARN, 0,
            "The file accepts {subject}, and does nothing of the kind.",
            "Remove the line.",
        ),
        Hazard("type", Level.NOTE, 0, "{subject}.", "Use the other type."),
    )
}  # fmt: skip
