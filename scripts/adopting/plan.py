"""What adopting changes in a repository: one `Change` a path. Reads only."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib import VERSION
from scripts.adopting import AdoptError, requirements
from scripts.adopting.blocks import block_in, with_block, without_block
from scripts.adopting.lock import NAME, Lock, digest, read_lock
from scripts.adopting.owners import ON_VERCEL, PAGE, PAGES, Shipped, adapted, not_deployed, shipped
from scripts.adopting.repository import Repository, read_vercel_json
from scripts.adopting.vercel_json import BUILD_FIRST, Order, merge
from scripts.adopting.writing import Change

_MIGRATIONS = "migrations/"
_EDITED = "changed by hand"


@dataclass(frozen=True)
class Options:
    """What the command line says; None is what the repository itself says."""

    shape: str | None = None
    order: str | None = None


@dataclass(frozen=True)
class Plan:
    """All changes, and what to tell the user beside them."""

    shape: str
    order: str
    before: Lock | None
    changes: list[Change]
    notes: list[str]


class Planner:
    """Compares a checkout, a repository and its lock."""

    def __init__(self, checkout: Path, root: Path, options: Options) -> None:
        self.checkout = checkout
        self.repository = Repository(root)
        self.before = read_lock(root)
        known = self.before
        self.shape = options.shape or (known.shape if known else self.repository.shape)
        self.order = options.order or (known.order if known else BUILD_FIRST)
        self.files = [file for file in shipped(checkout, self.shape) if self._is_wanted(file.path)]
        self.problems: list[str] = []

    def plan(self) -> Plan:
        """All changes. Raises AdoptError with every problem, and then nothing must be written."""
        self._refuse_older_checkout()
        if self.shape in ON_VERCEL:
            self.problems += self.repository.problems(self.shape)
        whole = [change for file in self.files for change in self._whole(file)]
        gone = list(self._gone())
        merged, lock = self._merged()
        self._check_places([*whole, *gone, *merged])
        self._refuse_problems()
        changes = sorted([*whole, *gone, *merged], key=lambda change: change.path)
        changes.append(self._lock_change(lock))
        notes = list(self.repository.notes()) if self.shape in ON_VERCEL else []
        return Plan(self.shape, self.order, self.before, changes, notes)

    def _is_wanted(self, path: str) -> bool:
        """Whether a file has a use here: a page if nothing else is published, and a workflow where
        GitHub looks for it.
        """
        if self.before and path in self.before.files:
            return True
        if path == PAGE:
            return not self.repository.publishes
        return not (path.startswith(".github/") and self.repository.is_subdirectory)

    def _refuse_older_checkout(self) -> None:
        if self.before and self.before.is_newer_than(VERSION):
            raise AdoptError(
                f"this checkout is Onward {VERSION}, and the repository has {self.before.version}",
                next_step=f"Update the checkout:\n  git -C {self.checkout} pull",
            )

    def _whole(self, file: Shipped) -> Iterator[Change]:
        """A file that is all ours: new, replaced, left, or the same."""
        present = self.repository.bytes(file.path)
        known = self.before.files.get(file.path) if self.before else None
        if present is None:
            if not (known and file.path.startswith(_MIGRATIONS)):
                yield Change(file.path, "new", file.content, file.mode)
        elif present == file.content:
            yield Change(file.path, "same")
        elif known is None:
            self.problems.append(f"{file.path}: exists, and is not this version of Onward's")
        elif digest(present) == known and not file.path.startswith(_MIGRATIONS):
            yield Change(file.path, "replaced", file.content, file.mode)
        else:
            yield Change(file.path, "left", note=f"{_EDITED}; this version's: {file.source}")

    def _gone(self) -> Iterator[Change]:
        """What an earlier version shipped, and this one does not."""
        paths = {file.path for file in self.files}
        for path, known in (self.before.files if self.before else {}).items():
            present = self.repository.bytes(path)
            if path in paths or present is None or path.startswith(_MIGRATIONS):
                continue
            if digest(present) == known:
                yield Change(path, "removed")
            else:
                yield Change(path, "left", note=f"{_EDITED}; no longer a part of Onward")

    def _merged(self) -> tuple[list[Change], Lock]:
        """The team's own files with ours in them, and the lock of all."""
        contents = {"AGENTS.md": self._agents(), ".gitignore": self._gitignore()}
        changes, vercel = [], None
        if self.shape in ON_VERCEL:
            contents[".vercelignore"] = "".join(f"{line}\n" for line in not_deployed(self.shape))
            contents["requirements.txt"] = self._requirements()
            change, vercel = self._vercel_json()
            changes.append(change)
        changes += [self._block(name, content) for name, content in contents.items()]
        files = {file.path: digest(file.content) for file in self.files}
        blocks = {name: digest(content.encode()) for name, content in contents.items()}
        return changes, Lock(VERSION, self.shape, self.order, files, blocks, vercel)

    def _block(self, name: str, content: str) -> Change:
        text = self.repository.text(name)
        present = block_in(name, text)
        known = self.before.blocks.get(name) if self.before else None
        if present == content:
            return Change(name, "same")
        if present is not None and digest(present.encode()) != known:
            return Change(name, "left", note=f"{_EDITED}: Onward's lines in it")
        return self._merge_change(name, with_block(name, text, content))

    def _merge_change(self, name: str, text: str, note: str = "") -> Change:
        path = self.repository.root / name
        if not path.exists():
            return Change(name, "new", text.encode())
        if self.repository.bytes(name) == text.encode():
            return Change(name, "left" if note else "same", note=note)
        return Change(name, "merged", text.encode(), path.stat().st_mode & 0o777, note)

    def _agents(self) -> str:
        """The rules, as a section."""
        text = adapted("AGENTS.md", (self.checkout / "AGENTS.md").read_bytes()).decode()
        return re.sub(r"^#", "##", text, flags=re.MULTILINE).rstrip("\n") + "\n"

    def _gitignore(self) -> str:
        lines = ["/.venv/", "/.sandbox/", "__pycache__/"]
        lines += ["/dist/onward-*.zip"] if self.shape == "sam" else ["/.vercel/"]
        present = block_in(".gitignore", self.repository.text(".gitignore")) or ""
        _, mark, kept = present.partition("!")
        lines += f"{mark}{kept}".splitlines()
        for path in self.repository.ignored([*(file.path for file in self.files), NAME]):
            lines += _not_ignored(path)
        return "".join(f"{line}\n" for line in dict.fromkeys(lines))

    def _requirements(self) -> str:
        name = "requirements.txt"
        ours = (self.checkout / name).read_text()
        theirs = without_block(name, self.repository.text(name))
        conflicts = requirements.conflicts(theirs, ours)
        self.problems += [f"{name}: {conflict}" for conflict in conflicts]
        if "--hash=" in theirs:
            self.problems.append(f"{name}: has hashes, which pip then wants for Onward's lines too")
        return "".join(f"{line}\n" for line in requirements.missing(theirs, ours))

    def _vercel_json(self) -> tuple[Change, dict[str, object]]:
        name = "vercel.json"
        ours = read_vercel_json(self.checkout)
        defaults = self.repository.defaults(self.shape, ours)
        if self.repository.functions:
            ours["installCommand"] = _with_their_packages(ours)
        before = self.before.vercel if self.before else None
        order = Order(self.order, changed=bool(self.before and self.before.order != self.order))
        merged = merge(self.repository.text(name), ours, defaults, order, before)
        note = f"{_EDITED}: {', '.join(merged.left)}" if merged.left else ""
        if note and before is None:
            self.problems.append(f"{name}: has a part of another version of Onward: remove it")
        return self._merge_change(name, merged.text, note), merged.added

    def _check_places(self, changes: list[Change]) -> None:
        """Every file must be able to be where it belongs."""
        for change in changes:
            path = self.repository.root / change.path
            for parent in (*reversed(path.relative_to(self.repository.root).parents), None):
                place = self.repository.root / parent if parent is not None else path
                if place.is_symlink():
                    self.problems.append(f"{change.path}: {place.name} is a symbolic link")
                elif place.exists() and place.is_dir() != (parent is not None):
                    self.problems.append(f"{change.path}: {place.name} is not a {_kind(parent)}")

    def _refuse_problems(self) -> None:
        if not self.problems:
            return
        problems = list(dict.fromkeys(self.problems))
        own = [one.partition(":")[0] for one in problems if "is not this version of" in one]
        step = "Rename or change what is named above, and run again."
        if own:
            step += (
                "\nIf these are from an older copy of Onward, remove them first:"
                f"\n  git -C {self.repository.root} rm -q {' '.join(own)}"
            )
        raise AdoptError(
            "\n  ".join(["nothing was written, because of:", *problems]), next_step=step
        )

    def _lock_change(self, lock: Lock) -> Change:
        content = lock.encoded()
        if self.repository.bytes(NAME) == content:
            return Change(NAME, "same")
        return Change(NAME, "replaced" if self.before else "new", content)


def _not_ignored(path: str) -> list[str]:
    """Lines that take a path from what .gitignore ignores. Of `docs/`, only our part."""
    if path.startswith(f"{PAGES}/"):
        return ["!/docs/", "/docs/*", f"!/{PAGES}/"]
    folder, slash, _ = path.partition("/")
    return [f"!/{folder}{slash}"]


def _kind(parent: Path | None) -> str:
    return "file" if parent is None else "directory"


def _with_their_packages(ours: dict[str, str]) -> str:
    """The install command, for the build step, which imports the team's own functions too."""
    return f"{ours['installCommand']} requirements.txt"
