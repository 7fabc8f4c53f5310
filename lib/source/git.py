"""The Git repository of the migration files: its branches, their files, `git mv`.

Knows only what is on this machine: never fetches, runs no hook, and waits a few seconds at most.
"""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from lib.errors import RepositoryError
from lib.source.numbering import BranchFile

SECONDS = 10.0
MAX_BRANCHES = 100
_SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
# A partial clone must not fetch what it lacks; an older git knows only the second of the two.
_ENVIRON = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",
}
# Where pull requests go: the first of these that there is.
_BASE_BRANCHES = (
    "refs/remotes/origin/HEAD",
    "refs/remotes/origin/main",
    "refs/remotes/origin/master",
    "refs/heads/main",
    "refs/heads/master",
)
_NO_REPOSITORY = ("not a git repository", "ambiguous argument 'HEAD'")


def find_repository(directory: Path) -> "Repository | None":
    """The repository of a directory, which need not exist yet; None without git, outside of any
    repository, and before the first commit. Raises RepositoryError.
    """
    program = shutil.which("git")
    if not program:
        return None
    directory = directory.resolve()
    place = next(one for one in (directory, *directory.parents) if one.is_dir())
    git = _Git(program, place)
    found = git.run("rev-parse", "--show-prefix", "HEAD")
    if found.returncode == 0:
        prefix = os.fsdecode(found.stdout).partition("\n")[0]
        return Repository(git, prefix, directory.relative_to(place))
    if any(reason in _said(found) for reason in _NO_REPOSITORY):
        return None
    raise RepositoryError(_said(found))


def short_name(ref: str) -> str:
    """The name of a branch as people write it: `origin/main` for `refs/remotes/origin/main`."""
    return ref.removeprefix("refs/heads/").removeprefix("refs/remotes/")


class Repository:
    """The repository that the directory of the migrations is in."""

    def __init__(self, git: "_Git", prefix: str, below: Path) -> None:
        """The directory is `below` git's place, and that at `prefix` in the repository."""
        self._git = git
        self._folder = prefix + "".join(f"{part}/" for part in below.parts)

    def unmerged(self) -> list[BranchFile]:
        """The files of the directory in the newest branches, local and remote-tracking, that are
        not merged into HEAD. Raises RepositoryError.
        """
        branches = dict[str, str]()
        for line in self._git.lines(
            "for-each-ref",
            "--no-merged=HEAD",
            "--sort=-committerdate",
            f"--count={MAX_BRANCHES}",
            "--format=%(if)%(symref)%(then)%(else)%(objectname) %(refname)%(end)",
            "refs/heads",
            "refs/remotes",
        ):
            commit, _, ref = line.partition(" ")
            branches.setdefault(commit, short_name(ref))  # one that is pushed is listed twice
        return [
            BranchFile(branch, name)
            for commit, branch in branches.items()
            for name in self.files(commit)
        ]

    def files(self, commit: str) -> dict[str, str]:
        """The files of the directory in a commit, and the ids of their contents."""
        folder = [self._folder] if self._folder else []
        listed = self._git.text("ls-tree", "-z", "--full-tree", commit, *folder)
        found = dict[str, str]()
        for entry in filter(None, listed.split("\0")):
            (_, kind, content), path = entry.split("\t")[0].split(), entry.partition("\t")[2]
            if kind == "blob":
                found[path.removeprefix(self._folder)] = content
        return found

    def base_branch(self) -> str | None:
        """The branch that HEAD is to be merged into; where HEAD is that branch, its upstream.

        None if there is no such branch. Raises RepositoryError.
        """
        target = "%(if)%(symref)%(then)%(symref)%(else)%(refname)%(end)"
        listed = self._git.lines("for-each-ref", f"--format=%(refname) {target}", *_BASE_BRANCHES)
        targets = dict(line.split(" ") for line in listed)
        base = next((targets[ref] for ref in _BASE_BRANCHES if ref in targets), None)
        head = os.fsdecode(self._git.run("symbolic-ref", "--quiet", "HEAD").stdout).strip()
        if base and short_name(base).removeprefix("origin/") == short_name(head):
            return self._upstream(head) or base
        return base

    def commit_of(self, ref: str) -> str | None:
        """The id of the commit that a ref names; None if it names none here."""
        commit = f"{ref}^{{commit}}"
        found = self._git.run("rev-parse", "--verify", "--quiet", "--end-of-options", commit)
        return os.fsdecode(found.stdout).strip() or None

    def merge_base(self, commit: str) -> str | None:
        """The newest commit that HEAD shares with another; None if none is known here."""
        return os.fsdecode(self._git.run("merge-base", commit, "HEAD").stdout).strip() or None

    def contents(self, commit: str) -> dict[str, bytes]:
        """The files of the directory in a commit, and what is in them. Raises RepositoryError."""
        files = self.files(commit)
        printed = self._git.run("cat-file", "--batch", given="\n".join(files.values())).stdout
        found, start = dict[str, bytes](), 0
        for name in files:
            start, end = _body(printed, start)
            found[name] = printed[start:end]
            start = end + 1
        return found

    def fetch_command(self, ref: str) -> str:
        """What brings a branch here, with all its commits; empty without a remote."""
        remotes = self._git.lines("remote")
        remote, _, branch = short_name(ref).partition("/")
        if remote not in remotes:
            remote, branch = "origin", short_name(ref)
        if remote not in remotes:
            return ""
        is_shallow = self._git.text("rev-parse", "--is-shallow-repository").strip() == "true"
        whole = ["--no-tags", "--unshallow"] if is_shallow else []
        return shlex.join(
            ["git", "fetch", *whole, remote, f"{branch}:refs/remotes/{remote}/{branch}"]
        )

    def tracks(self, path: Path) -> bool:
        """Whether git knows a file of the directory."""
        found = self._git.run("ls-files", "--error-unmatch", "--", path.name)
        return found.returncode == 0

    def move(self, path: Path, new: Path) -> None:
        """`git mv` of a file of the directory. Raises RepositoryError."""
        self._git.text("mv", "--", path.name, new.name)

    def _upstream(self, head: str) -> str | None:
        """The upstream of a branch, if it is here."""
        (upstream,) = self._git.lines("for-each-ref", "--format=%(upstream)", head) or [""]
        return upstream if self.commit_of(upstream) else None


class _Git:
    """The program, called in one place."""

    def __init__(self, program: str, place: Path) -> None:
        self._command = (program, "-C", str(place), *_SETTINGS)
        self._deadline = time.monotonic() + SECONDS

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
        """Call it, whatever it answers. Raises RepositoryError if it does not in time."""
        try:
            return subprocess.run(  # noqa: S603
                [*self._command, *arguments],
                env=_environ(),
                input=os.fsencode(given),
                capture_output=True,
                timeout=max(self._deadline - time.monotonic(), 0.0),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RepositoryError(f"git did not answer within {SECONDS:.0f} s") from None

    def text(self, *arguments: str) -> str:
        """What it prints. Raises RepositoryError with what it says if it fails."""
        result = self.run(*arguments)
        if result.returncode:
            raise RepositoryError(_said(result))
        return os.fsdecode(result.stdout)

    def lines(self, *arguments: str) -> list[str]:
        """The lines of `text`, without empty ones."""
        return list(filter(None, self.text(*arguments).split("\n")))


def _body(printed: bytes, start: int) -> tuple[int, int]:
    """Where the next object that `cat-file --batch` prints begins and ends."""
    begins = printed.find(b"\n", start) + 1
    size = printed[start:begins].split()[-1:]
    if not (size and size[0].isdigit()):
        raise RepositoryError("git: a file of that commit is not in this clone")
    return begins, begins + int(size[0])


def _environ() -> dict[str, str]:
    """The environment without what git sets for its hooks, which names another tree or index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | _ENVIRON


def _said(result: subprocess.CompletedProcess[bytes]) -> str:
    text = " ".join(result.stderr.decode(errors="replace").split())
    return f"git: {text.removeprefix('fatal: ')}"
