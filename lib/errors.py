"""Every error that a user can meet; each class knows its exit code, HTTP status, public code and
public words, and whether the same again may succeed.

OnwardError
├── ConfigError            2  an environment variable or the URL is wrong
├── FilesError             2  the migration files are wrong
│   ├── DuplicateNumbers   2  two files have one number
│   └── RepositoryError    2  Git cannot answer: no repository, no such branch, too short a history
├── HistoryConflict        3  files and history disagree, or the table is not ours
│   ├── BaseConflict       3  a file does not fit the branch that it is to be merged into
│   ├── NotEmpty           3  the database has tables and no history
│   ├── SchemaDrift        3  the schema is not as the migrations left it
│   └── UntrustedHistory   3  the history belongs to a role that must not decide what runs
├── WrongEnvironment       3  this database is not this environment's to change
├── LockBusy               4  another run, or another session's lock, is in the way
│   └── TableBusy          4  a table is locked, or there was a deadlock: worth another try
├── DatabaseUnavailable    5  unreachable
│   ├── HostUnreachable    5  nothing answers there, so no other database there can be reached
│   │   └── HostUnknown    5  the host's name leads nowhere
│   ├── AccessRefused      5  the server answers: no such database, or this role is not let in
│   │   └── PasswordRefused 5 the server does not accept the password
│   └── DatabaseUnsuitable 5  reachable, but read-only, without privilege, schema or extension
│       └── HistoryHidden  5  row security hides rows of the history
├── MigrationFailed        1  a migration failed and was rolled back
│   └── PartlyApplied      7  a no-transaction migration failed midway
├── NotProved              1  two databases that should be alike are not
├── OutcomeUnknown         6  COMMIT was sent and its answer never came
├── Interrupted      130/143  a signal ended the run
└── RunFailed                 any of these, with what the run had applied before it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lib.restore_point import WayBack


class ServerError(NamedTuple):
    """What Postgres said. `message` and `detail` may carry row data: for the terminal, never for
    HTTP or logs.
    """

    sqlstate: str | None
    message: str
    detail: str | None = None
    hint: str | None = None
    context: str | None = None
    constraint: str | None = None
    position: int | None = None
    """1-based, in characters of the text that was sent."""


class Diagnostic(NamedTuple):
    """Where and why a migration failed. `line` and `column` are 1-based; None where the server gave
    no position.
    """

    version: str
    path: str
    server: ServerError
    line: int | None = None
    column: int | None = None
    excerpt: str = ""
    statement: str = ""
    """The failing statement in words, such as "statement 3 of 5, which begins on line 12"."""


class MigrationResult(NamedTuple):
    """A migration that is applied and recorded: COMMIT has answered."""

    version: str
    name: str
    milliseconds: int | None
    """None for a checkpoint that was only recorded."""


class OnwardError(Exception):
    """An error for the user: what is wrong, and in `next_step` what to do about it."""

    exit_code = 70
    http_status = 500
    code = "internal"
    public_message = "Internal error."
    """What HTTP says. Fixed words, since `message` may hold a host, a name or a row."""
    retry = False
    """Whether the same again may succeed, without anybody changing anything."""

    def __init__(self, message: str, *, next_step: str = "", changed_nothing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.changed_nothing = changed_nothing
        """Whether to tell the user that what is refused here has changed nothing."""
        self.blockers: Sequence[str] = ()
        """The sessions that were in the way. Their queries are for the terminal, never for HTTP or
        logs.
        """

    @property
    def cause(self) -> OnwardError:
        """What went wrong: this error itself, or what ended the run."""
        return self


class ConfigError(OnwardError):
    """The environment says something impossible; nothing was connected to."""

    exit_code, http_status, code = 2, 503, "not_configured"
    public_message = "The server is not configured for this. Its log names the variable."


class FilesError(OnwardError):
    """The files are wrong; nothing was written."""

    exit_code, http_status, code = 2, 503, "invalid_files"
    public_message = "The migration files of this deployment are invalid. Its log names the files."


class DuplicateNumbers(FilesError):
    """Files share a number, and are sound otherwise; nothing was written."""

    def __init__(
        self, message: str, *, next_step: str, duplicates: Sequence[Sequence[str]]
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.duplicates = duplicates
        """The versions that share a number, for each such number."""


class RepositoryError(FilesError):
    """Git cannot say what was asked of it; nothing was written."""


class HistoryConflict(OnwardError):
    """Files and history disagree; nothing was written."""

    exit_code, http_status, code = 3, 409, "history_conflict"
    public_message = "The migration files do not match the database's history. Nothing was run."


class BaseConflict(HistoryConflict):
    """A file does not fit the branch that it is to be merged into; nothing was written."""

    def __init__(self, path: str, problem: str, *, next_step: str) -> None:
        super().__init__(f"{path}: {problem}", next_step=next_step)
        self.path = path


class NotEmpty(HistoryConflict):
    """The database has tables but no history, so which files its schema has already is unknown;
    nothing was written.
    """

    code = "not_empty"
    public_message = "The database has tables but no migration history. Nothing was run."


class SchemaDrift(HistoryConflict):
    """The schema is not as the migrations left it, or a command on that does not apply; nothing was
    written.
    """

    code = "schema_drift"
    public_message = "The schema is not as the migrations left it. Nothing was run."


class UntrustedHistory(HistoryConflict):
    """The history's owner is a role that could not otherwise decide what this role runs; nothing
    was written.
    """

    code = "untrusted_history"
    public_message = "The owner of the migration history is not a trusted role. Nothing was run."


class WrongEnvironment(OnwardError):
    """This environment may not change this database; nothing was written."""

    exit_code, http_status, code = 3, 409, "wrong_environment"
    public_message = "This environment may not change this database. Nothing was run."


class LockBusy(OnwardError):
    """Somebody else holds the lock that is needed; what this transaction did is rolled back."""

    exit_code, http_status, code = 4, 409, "busy"
    retry = True
    public_message = "Another run is active, or another session holds a lock. Try again."


class TableBusy(LockBusy):
    """Other sessions hold a lock on a table, or there was a deadlock. A retry may succeed."""

    def after(self, attempts: int) -> TableBusy:
        """The same error, met in so many attempts."""
        times = f"; tried {attempts} times" if attempts > 1 else ""
        error = TableBusy(f"{self.message}{times}", next_step=self.next_step)
        error.blockers = self.blockers
        return error


class DatabaseUnavailable(OnwardError):
    """No session could be had, or it was lost before anything was sent to be kept."""

    exit_code, http_status, code = 5, 503, "database_unavailable"
    public_message = "The database is unavailable."
    retry = True


class HostUnreachable(DatabaseUnavailable):
    """Nothing answers at the host: what else is there cannot be reached either."""


class HostUnknown(HostUnreachable):
    """The host's name leads nowhere."""

    retry = False


class AccessRefused(DatabaseUnavailable):
    """The server answers, and opens no session: there is no such database or role, or another
    reason that stays.
    """

    retry = False

    def __init__(self, message: str, *, next_step: str, sqlstate: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.sqlstate = sqlstate
        """The server's; None where it told none."""


class PasswordRefused(AccessRefused):
    """The server does not accept the password: another one may be needed, after a rotation for
    instance.
    """


class DatabaseUnsuitable(DatabaseUnavailable):
    """The database answers, but this role cannot migrate it, or its server lacks an extension."""

    retry = False


class HistoryHidden(DatabaseUnsuitable):
    """Row security hides rows of the history from this role; their files would run again."""

    code = "history_hidden"
    public_message = "Row security hides the migration history from this role."


class MigrationFailed(OnwardError):
    """A migration failed; its transaction is rolled back and it is not recorded."""

    exit_code, http_status, code = 1, 500, "migration_failed"
    public_message = "A migration failed and was rolled back."

    def __init__(self, failure: Diagnostic, *, state: str, next_step: str) -> None:
        super().__init__(f"{failure.version} failed", next_step=next_step)
        self.failure = failure
        self.state = state


class PartlyApplied(MigrationFailed):
    """A no-transaction migration failed: the statements before the failing one remain."""

    exit_code, code = 7, "partly_applied"
    public_message = (
        "A migration failed after some of its statements were committed. Check the database "
        "before you do anything else."
    )


class NotProved(OnwardError):
    """Two databases that should be alike are not, so nothing was written."""

    exit_code, code = 1, "not_proved"
    public_message = "Two databases that should be alike are not."


class OutcomeUnknown(OnwardError):
    """COMMIT was sent and the connection broke before its answer: applied or not, nobody here
    knows.
    """

    exit_code, code = 6, "outcome_unknown"
    retry = True
    public_message = (
        "The outcome of a COMMIT is unknown. Check the status before you do anything else."
    )


class Interrupted(OnwardError):
    """A signal ended the run; what was not committed is rolled back."""

    code = "interrupted"
    retry = True
    public_message = "The run was interrupted. What was not committed is rolled back."

    def __init__(self, message: str, *, exit_code: int, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.exit_code = exit_code

    def during(self, what: str) -> Interrupted:
        """The same error, with what it interrupted."""
        message = f"{self.message}; {what}"
        return Interrupted(message, exit_code=self.exit_code, next_step=self.next_step)


class RunFailed(OnwardError):
    """A run that had begun has ended with an error: how far it came, and the cause.

    It has what the cause's class knows: exit code, HTTP status, words.
    """

    def __init__(
        self,
        cause: OnwardError,
        *,
        applied: Sequence[MigrationResult],
        remaining: Sequence[str],
        taken_over: Sequence[str] = (),
        way_back: WayBack | None = None,
    ) -> None:
        super().__init__(cause.message, next_step=cause.next_step)
        self.exit_code, self.http_status = cause.exit_code, cause.http_status
        self.code, self.public_message = cause.code, cause.public_message
        self.retry = cause.retry
        self.applied, self.remaining, self.taken_over = applied, remaining, taken_over
        self.way_back = way_back
        self._cause = cause

    @property
    def cause(self) -> OnwardError:
        """What ended the run."""
        return self._cause


def exit_codes() -> dict[str, int]:
    """The exit code of each error by its public code."""
    return {error.code: error.exit_code for error in _classes(OnwardError)}


def _classes(error: type[OnwardError]) -> Iterator[type[OnwardError]]:
    """The subclasses before the class, so that the more general of two with one code counts."""
    for subclass in error.__subclasses__():
        yield from _classes(subclass)
    yield error


def raised_by(*checks: Callable[[], object]) -> Iterator[OnwardError]:
    """The errors that the checks raise, in order."""
    for check in checks:
        try:
            check()
        except OnwardError as error:
            yield error
