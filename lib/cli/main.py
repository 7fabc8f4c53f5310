"""One command: its arguments, its module, and the exit code of what it raises."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace

from lib.cli.output import Command, Terminal
from lib.cli.signals import signals_held
from lib.errors import OnwardError
from lib.report.text import SHORT_STATUS_ROWS
from lib.settings.environ import url_variables_set, with_env_files

# `offline` has these, and `commands` has those again that do more with a database.
_OFFLINE = frozenset({"create", "renumber", "check", "validate", "import"})
_BOTH = frozenset({"renumber", "validate"})
_OBSERVING = frozenset({"rehearse", "plan", "queries"})
_PROVING = frozenset({"checkpoint"})  # and `import --prove`
_ANSWERED_BY_THE_PARSER = frozenset(
    {"-h", "--help", "--version", "--dry-run", "help", "down", "rollback", "undo"}
)


class DriverMissing(ImportError):
    """The command needs a database, and this Python has no psycopg; nothing was started."""


def preload(arguments: Sequence[str]) -> None:
    """Import what the command needs, unless it may need no driver. Raises DriverMissing.

    For the time in which nothing has to be cleaned up after a signal; `main` imports what is left.
    """
    if (_OFFLINE | {"new"} | _ANSWERED_BY_THE_PARSER).isdisjoint(arguments):
        _commands_of("commands")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code. Raises DriverMissing."""
    terminal = Terminal(
        environ, as_json="--json" in arguments, as_markdown="--markdown" in arguments
    )
    try:
        options = _parse(arguments)
        terminal.environ = with_env_files(environ)
        return _command(options, terminal.environ)(options, terminal)
    except OnwardError as error:
        return terminal.fail(error)
    except DriverMissing:  # another Python may have it
        raise
    except Exception as error:
        return terminal.crash(error)


def _parse(arguments: Sequence[str]) -> SimpleNamespace:
    # Not the parser's defaults: a subcommand's would overwrite options given before its name.
    options = SimpleNamespace(
        arguments=arguments,
        command=None,
        json=False,
        allow_out_of_order=False,
        allow_nonempty=False,
        production=False,
        upgrade_check=False,
        base=None,
        pending=False,
        last=SHORT_STATUS_ROWS,
        all=False,
        markdown=False,
        sizes_from=None,
        queries=None,
        keep_numbers=False,
        table=None,
        dry_run=False,
        prove=False,
        scratch=None,
    )
    if arguments:
        # A build passes no arguments, and should not wait for argparse.
        from lib.cli.arguments import parse  # noqa: PLC0415

        parse(arguments, options)
    return options


def _command(options: SimpleNamespace, environ: Mapping[str, str]) -> Command:
    return _commands_of(_module_of(options, environ))[options.command]


def _module_of(options: SimpleNamespace, environ: Mapping[str, str]) -> str:
    """The module of lib/cli/ that has the command."""
    name = options.command
    if name in _PROVING or options.prove:
        return "proving"
    if name in _OBSERVING:
        return "observing"
    if name in _OFFLINE and not (name in _BOTH and url_variables_set(environ)):
        return "offline"
    return "commands"


def _commands_of(module: str) -> Mapping[str | None, Command]:
    """The commands of a module. Raises DriverMissing if it needs the driver, and there is none."""
    try:
        with signals_held():
            found: Mapping[str | None, Command] = import_module(f"lib.cli.{module}").COMMANDS
    except ImportError as missing:
        raise DriverMissing(str(missing)) from missing
    return found
