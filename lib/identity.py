"""Which environment a database belongs to, as the marks in its history say. Pure.

A row with an environment and an identity is a mark: that environment migrated the database of that
identity. A copy of a database has another identity, so the marks that came with it show that it is
a copy.
"""

from lib.history import History


def last_migrated_as(history: History) -> str | None:
    """The environment that last migrated this very database; None if the history does not say."""
    environments = [by for by, identity in _marks(history) if identity == history.identity]
    return environments[-1] if environments else None


def last_migrated_anywhere(history: History) -> str | None:
    """The environment of the newest mark, whichever database it names; None without a mark."""
    marks = _marks(history)
    return marks[-1][0] if marks else None


def is_copied(history: History) -> bool:
    """Whether the history's marks name another database than this one."""
    return any(_form(identity) == _form(history.identity) for _, identity in _marks(history))


def _marks(history: History) -> list[tuple[str, str]]:
    """The environment and the identity of each mark, the newest last."""
    rows = sorted(history.rows, key=lambda row: row.id)
    return [(row.environment, row.identity) for row in rows if row.environment and row.identity]


def _form(identity: str) -> tuple[bool, bool]:
    """What an identity is made of: a system identifier or a host, with or without an endpoint.

    Identities of two forms may be the same database's, as another role or host name sees it.
    """
    first, _, rest = identity.partition("/")
    return first.isdigit(), "/ep-" in rest
