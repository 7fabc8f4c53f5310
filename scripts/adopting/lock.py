"""`onward.lock`: which version a repository has, and the hash of what is Onward's in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.adopting import AdoptError
from scripts.adopting.blocks import MARKS, block_in
from scripts.adopting.owners import SHAPES
from scripts.adopting.repository import Repository
from scripts.adopting.vercel_json import BUILD_FIRST, MIGRATE_FIRST, changed_by_hand, is_addition

NAME = "onward.lock"


@dataclass(frozen=True)
class Lock:
    """What was adopted: whole files by their hash, and what was added to the team's own."""

    version: str
    shape: str
    order: str
    files: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)
    vercel: dict[str, Any] | None = None

    def encoded(self) -> bytes:
        """The file's content."""
        return (json.dumps(vars(self), indent=2) + "\n").encode()

    def is_newer_than(self, version: str) -> bool:
        """Whether a checkout of that version would be a step back."""
        return _numbers(self.version) > _numbers(version)


def digest(content: bytes) -> str:
    """As `sha256sum` prints it."""
    return sha256(content).hexdigest()


def read_lock(root: Path) -> Lock | None:
    """The lock of a repository; None if it has none. Raises AdoptError if it cannot be read."""
    if not (root / NAME).exists():
        return None
    try:
        lock = _lock_of(json.loads((root / NAME).read_text()))
        if any(PurePosixPath(name).is_absolute() or ".." in name for name in lock.files):
            raise ValueError("it names a file outside the repository")
    except (OSError, ValueError) as error:
        raise AdoptError(
            f"{NAME} cannot be read: {error}",
            next_step=f"Restore it from version control:\n  git checkout {NAME}",
        ) from None
    return lock


def _lock_of(document: Any) -> Lock:
    """The lock that a document describes. Raises ValueError."""
    known = isinstance(document, dict) and document.keys() == Lock.__dataclass_fields__.keys()
    lock = Lock(**document) if known else None
    if (
        lock is None
        or not isinstance(lock.version, str)
        or not re.fullmatch(r"[0-9]+(\.[0-9]+)*", lock.version)
        or lock.shape not in SHAPES
        or lock.order not in (BUILD_FIRST, MIGRATE_FIRST)
        or not all(_is_text_by_name(one) for one in (lock.files, lock.blocks))
        or not (lock.vercel is None or is_addition(lock.vercel))
    ):
        raise ValueError("it is not as scripts/adopt.py writes it")
    return lock


def _is_text_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def differences(root: Path, lock: Lock) -> Iterator[str]:
    """What is no longer as it was shipped, a line each. Reads only."""
    for name, shipped in sorted(lock.files.items()):
        path = root / name
        if not path.is_file():
            yield f"missing  {name}"
        elif digest(path.read_bytes()) != shipped:
            yield f"changed  {name}"
    repository = Repository(root)
    for name in sorted(lock.blocks):
        yield from _block_differences(repository, lock, name)
    if lock.vercel is not None:
        keys = changed_by_hand(repository.text("vercel.json") or "{}", lock.vercel)
        yield from (f"changed  vercel.json: {key}" for key in keys)


def _block_differences(repository: Repository, lock: Lock, name: str) -> Iterator[str]:
    block = block_in(name, repository.text(name)) if name in MARKS else None
    if block is None:
        yield f"missing  {name}: Onward's lines"
    elif digest(block.encode()) != lock.blocks[name]:
        yield f"changed  {name}: Onward's lines"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
