"""`onward.lock`: which version a repository has, and the hash of what is Onward's in it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.adopting import AdoptError
from scripts.adopting.blocks import MARKS, block_in
from scripts.adopting.repository import Repository
from scripts.adopting.vercel_json import changed_by_hand

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
        lock = Lock(**json.loads((root / NAME).read_text()))
        _numbers(lock.version)
        if any(PurePosixPath(name).is_absolute() or ".." in name for name in lock.files):
            raise ValueError("it names a file outside the repository")
    except (OSError, ValueError, TypeError) as error:
        raise AdoptError(
            f"{NAME} cannot be read: {error}",
            next_step=f"Restore it from version control:\n  git checkout {NAME}",
        ) from None
    return lock


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
