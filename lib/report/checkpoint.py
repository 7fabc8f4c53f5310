"""What `checkpoint` has written, as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it loads the driver
    from lib.checkpoint import Written

_COLUMNS_SHOWN = 5


def checkpoint_text(written: Written) -> str:
    """What the file stands for and how it was tried."""
    first, last = written.stands_for[0].number, written.stands_for[-1].number
    lines = [
        f"✅ Wrote {written.path}: it makes what {first:03} to {last:03} make",
        f"   {written.objects} objects and {written.rows} rows, compared on PostgreSQL "
        f"{written.postgres}",
    ]
    return "\n".join([*lines, *_frozen(written.frozen)])


def _frozen(columns: Sequence[str] | None) -> Iterator[str]:
    if columns is None:
        yield (
            "⚠️  The files run only once on a server, as those do that create a role. The "
            "checkpoint creates no role: on another server, create it first"
        )
        yield (
            "⚠️  For the same reason it is not known which columns have values that were made just "
            "now, such as now(). They are the same in every new database"
        )
    elif columns:
        more = len(columns) - _COLUMNS_SHOWN
        yield (
            "⚠️  These columns have values that were made just now, and are the same in every new "
            f"database: {', '.join(columns[:_COLUMNS_SHOWN])}"
            f"{f' and {more} more' if more > 0 else ''}"
        )


def checkpoint_dict(written: Written) -> dict[str, Any]:
    """The same as a JSON document."""
    return {
        "success": True,
        "version": written.path.stem,
        "file": str(written.path),
        "standsFor": [one.version for one in written.stands_for],
        "objects": written.objects,
        "rows": written.rows,
        "pgMajor": written.postgres,
        "frozenColumns": None if written.frozen is None else list(written.frozen),
    }
