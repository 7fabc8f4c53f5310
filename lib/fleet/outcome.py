"""What became of one tenant's database. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lib import errors

LOOKED = ("current", "ahead")
"""What only who has read the history can tell, and nobody has to do anything about."""
FINE = ("migrated", *LOOKED)
NOT_REACHED = "not_reached"
ANOTHER_BUNDLE = "another_bundle"
WRONG_ENVIRONMENT = "wrong_environment"


class Outcome(NamedTuple):
    """One of FINE, a state of the plan that is not, NOT_REACHED, or the public code of an error.

    It holds no message, host or row, so it may go anywhere.
    """

    tenant: str
    outcome: str
    version: str | None = None
    """The last applied migration; of an error, the migration that failed."""
    applied: int = 0
    milliseconds: int = 0
    sqlstate: str | None = None
    line: int | None = None
    retry: bool = False
    """Whether the same again may succeed, without anybody changing anything."""
    silent_host: bool = False
    """Whether nothing has answered at the tenant's servers."""

    @property
    def fine(self) -> bool:
        """Whether nobody has to do anything."""
        return self.outcome in FINE

    @property
    def document(self) -> dict[str, Any]:
        """The JSON form, without what is not known."""
        found = {
            "tenant": self.tenant,
            "outcome": self.outcome,
            "version": self.version,
            "applied": self.applied,
            "ms": self.milliseconds,
            "sqlstate": self.sqlstate,
            "line": self.line,
        }
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Outcome":
        """What `document` was made of, but for what only the engine needs."""
        return cls(
            tenant=document["tenant"],
            outcome=document["outcome"],
            version=document.get("version"),
            applied=document.get("applied", 0),
            milliseconds=document.get("ms", 0),
            sqlstate=document.get("sqlstate"),
            line=document.get("line"),
        )


def not_reached(tenant: str) -> Outcome:
    """The outcome of a tenant that nothing was begun for."""
    return Outcome(tenant, NOT_REACHED, retry=True)


def exit_codes() -> dict[str, int]:
    """The exit code of each outcome that is not fine."""
    states = {"pending": 8, NOT_REACHED: 8, "conflict": 3, ANOTHER_BUNDLE: 3}
    return errors.exit_codes() | states
