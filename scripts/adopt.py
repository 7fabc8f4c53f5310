#!/usr/bin/env python3
"""Puts Onward into a team's repository, or upgrades it there: `scripts/adopt.py --help`.

`onward.lock` in the repository has the hash of each file, so that an upgrade replaces what the team
has not changed and leaves what it has. All files are written, or none.
"""

import signal
import sys

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.version_info < (3, 11):  # noqa: UP036 - `python3` is older than that on many machines
        sys.exit("adopt: this needs Python 3.11 or newer, and %s is older" % sys.executable)  # noqa: UP031

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib import VERSION
from lib.printable import printable
from scripts.adopting import AdoptError
from scripts.adopting.lock import NAME, differences, read_lock
from scripts.adopting.owners import SHAPES
from scripts.adopting.plan import Options, Plan, Planner
from scripts.adopting.repository import SHAPES as DESCRIPTIONS
from scripts.adopting.repository import Repository
from scripts.adopting.vercel_json import BUILD_FIRST, MIGRATE_FIRST
from scripts.adopting.writing import WRITTEN, write

EXIT_REFUSED, EXIT_DIFFERS, EXIT_INTERRUPTED = 2, 3, 130
EXAMPLES = """\
examples:
  scripts/adopt.py ../app --dry-run   list what would be written to ../app
  scripts/adopt.py ../app             write it; from a newer checkout, upgrade
  scripts/adopt.py --check            in the adopted repository: what was changed

exit codes:
  0    done, or as shipped
  2    refused; nothing was written
  3    --check: something was changed or is missing
  130  interrupted; nothing was written
"""
QUESTION = """\
The repository has a build of its own. In which order are both to run in a deploy?

  1  build, then migrate   a failed build has migrated nothing
  2  migrate, then build   for a build that reads new tables, as prerendering does;
                           a failed build leaves the database migrated

Order (1 or 2, default 1): """


def main(arguments: Sequence[str]) -> int:
    """Adopt, upgrade or check. The exit code is 0, 2 if refused, 3 if a check finds a change."""
    options = _parse(arguments)
    try:
        if options.check:
            return check(options.repository or ROOT)
        return adopt(_checked(options.repository), options)
    except AdoptError as error:
        print(printable(f"adopt: {error}"), file=sys.stderr)
        if error.next_step:
            print(printable(f"Next: {error.next_step}"), file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(printable(f"adopt: {error}"), file=sys.stderr)
        return EXIT_REFUSED
    except (KeyboardInterrupt, EOFError):
        print("\nadopt: interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/adopt.py",
        description="Put Onward into a repository, or upgrade it there.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument(
        "repository", type=Path, nargs="?", metavar="REPOSITORY", help="the project's root"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the changes, write nothing")
    parser.add_argument("--shape", choices=SHAPES, help="default: found by looking")
    parser.add_argument(
        "--order",
        choices=(BUILD_FIRST, MIGRATE_FIRST),
        help=f"of your build and the migrations (default: {BUILD_FIRST})",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; say what was changed since"
    )
    options = parser.parse_args(arguments)
    if not (options.repository or options.check):
        parser.error("name the repository")
    return options


def _checked(repository: Path) -> Path:
    """The repository's root. Raises AdoptError if Onward cannot be put there."""
    if (ROOT / NAME).exists():
        raise AdoptError(
            f"{ROOT} has adopted Onward itself, and is no checkout of it",
            next_step="Run scripts/adopt.py of a checkout of Onward.",
        )
    if not repository.is_dir():
        raise AdoptError(f"there is no directory {repository}")
    root = repository.resolve()
    if root.is_relative_to(ROOT):
        raise AdoptError(
            f"{repository} is this checkout of Onward, or in it",
            next_step="Name the root of your own repository.",
        )
    return root


def adopt(root: Path, options: argparse.Namespace) -> int:
    """Write what is to be written, and say so. Raises AdoptError."""
    dirty = Repository(root).is_dirty
    order = options.order or _asked(root, options.shape)
    plan = Planner(ROOT, root, Options(options.shape, order)).plan()
    print(printable("\n".join(_listed(root, plan))))
    if options.dry_run:
        print("Nothing was written.")
        return 0
    write(root, plan.changes)
    print(printable("\n".join(_next_steps(root, plan, dirty))))
    return 0


def _asked(root: Path, shape: str | None) -> str | None:
    """The order, if somebody is there to say it and the repository does not say it yet."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    repository = Repository(root)
    if not interactive or read_lock(root) or (shape or repository.shape) not in ("client", "next"):
        return None
    return MIGRATE_FIRST if input(QUESTION).strip() == "2" else BUILD_FIRST


def _listed(root: Path, plan: Plan) -> Iterator[str]:
    version = f"{plan.before.version} -> {VERSION}" if plan.before else VERSION
    yield f"Onward {version} in {root}"
    yield f"Shape: {plan.shape} ({DESCRIPTIONS[plan.shape]})"
    if plan.shape in ("client", "next"):
        yield f"Order: {plan.order}"
    yield ""
    for change in plan.changes:
        if change.action != "same":
            yield f"  {change.action:<9} {change.path}" + (
                f" ({change.note})" if change.note else ""
            )
    counts = Counter(change.action for change in plan.changes)
    listed = ", ".join(f"{number} {action}" for action, number in sorted(counts.items()))
    yield f"Files: {listed}"


def _next_steps(root: Path, plan: Plan, dirty: bool) -> Iterator[str]:
    yield from (f"⚠️  {note}" for note in plan.notes)
    if not any(change.action in (*WRITTEN, "removed") for change in plan.changes):
        yield "✅ Nothing to do"
        return
    written = [change.path for change in plan.changes if change.action in WRITTEN]
    for path in Repository(root).ignored(written):
        yield f"⚠️  git ignores {path}: git check-ignore -v {path}"
    if dirty:
        yield "⚠️  the repository had changes that are not committed: git diff shows them as well"
    yield f"✅ Onward {VERSION} is in {root}. Next:"
    yield f"  cd {root}"
    yield "  git diff"
    yield "  scripts/sandbox --once"


def check(root: Path) -> int:
    """Say which version is there and what was changed since. Reads only. Raises AdoptError."""
    lock = read_lock(root)
    if lock is None:
        raise AdoptError(
            f"{root} has no {NAME}", next_step="From a checkout of Onward, run scripts/adopt.py."
        )
    found = list(differences(root, lock))
    print(printable("\n".join([f"onward {lock.version}, {lock.shape}", *found])))
    print(f"❌ not as shipped: {len(found)}" if found else "✅ as shipped")
    return EXIT_DIFFERS if found else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
