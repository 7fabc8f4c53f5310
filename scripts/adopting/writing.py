"""Writing all files of a plan, or none."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from scripts.adopting import AdoptError


class Change(NamedTuple):
    """What happens to one path of the repository; without content, the file is removed."""

    path: str
    action: str
    content: bytes | None = None
    mode: int = 0o644
    note: str = ""


WRITTEN = ("new", "merged", "replaced")
"""The actions that write a file; `removed` deletes one, all others leave it."""


def write(root: Path, changes: Iterable[Change]) -> None:
    """Make the changes. If one fails, or on Ctrl-C, all is as before. Raises AdoptError."""
    changes = list(changes)
    removed = [root / change.path for change in changes if change.action == "removed"]
    with _explained(root), ExitStack() as undo:
        written = [change for change in changes if change.action in WRITTEN]
        drafts = [_stage(root / change.path, change, undo) for change in written]
        kept = [_set_aside(path, undo) for path in removed]
        for change, draft in zip(written, drafts, strict=True):
            kept.append(_set_aside(root / change.path, undo))
            draft.rename(root / change.path)
            undo.callback((root / change.path).unlink)
        undo.pop_all()
    for path in filter(None, kept):
        path.unlink(missing_ok=True)
    for path in removed:
        _remove_empty(path.parent, root)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AdoptError(
            f"cannot write in {root}: {error.strerror or error}: {error.filename}"
            "\nWhat had been written is undone.",
            next_step="Make the directory writable, and run again.",
        ) from error


def _stage(path: Path, change: Change, undo: ExitStack) -> Path:
    """The content under a temporary name beside its place."""
    _make_directory(path.parent, undo)
    draft = path.with_name(f".{path.name}.onward-new")
    undo.callback(draft.unlink, missing_ok=True)
    draft.write_bytes(change.content or b"")
    draft.chmod(change.mode)
    return draft


def _make_directory(path: Path, undo: ExitStack) -> None:
    if not path.exists():
        _make_directory(path.parent, undo)
        path.mkdir()
        undo.callback(path.rmdir)


def _set_aside(path: Path, undo: ExitStack) -> Path | None:
    """Keep what is there under another name until all is done; returns that."""
    if not path.exists():
        return None
    kept = path.with_name(f".{path.name}.onward-old")
    path.rename(kept)
    undo.callback(kept.rename, path)
    return kept


def _remove_empty(path: Path, root: Path) -> None:
    with suppress(OSError):  # it has other files
        while path != root:
            path.rmdir()
            path = path.parent
