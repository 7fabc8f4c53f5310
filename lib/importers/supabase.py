"""Supabase CLI: `supabase/migrations/<digits>_<name>.sql`, in the order of their names.

Facts from supabase/cli: apps/cli-go/pkg/migration/list.go, file.go, history.go.
"""

import re
from pathlib import Path

from lib.importers.layout import (
    Layout,
    SourceFile,
    entries,
    layout,
    read_text,
    with_one_file_a_key,
)

_NAME = re.compile(r"[0-9]+_.*\.sql")
_FIRST_INIT = re.compile(r"([0-9]{14})_init\.sql")
# The CLI skips a first `init` that is older: its predecessor wrote it.
_FIRST_INIT_RUN = 20211209000000
_FOLDER = "supabase"


def recognises(directory: Path) -> bool:
    """Whether this is a Supabase project's `supabase/migrations`."""
    return directory.resolve().parent.name == _FOLDER and bool(_paths(directory))


def read(directory: Path) -> Layout:
    """Its migrations."""
    found = layout(_paths(directory), _file, _key)
    return found._replace(files=with_one_file_a_key(found.files))


def _paths(directory: Path) -> list[Path]:
    named = [path for path in entries(directory) if path.is_file() and _NAME.fullmatch(path.name)]
    return [path for path in named if not _is_skipped(path, directory)]


def _is_skipped(path: Path, directory: Path) -> bool:
    """Whether the CLI passes over it: as the first of all entries, hidden ones and folders too."""
    init = _FIRST_INIT.search(path.name)
    old = init is not None and int(init[1]) < _FIRST_INIT_RUN
    return old and path.name == min(one.name for one in directory.iterdir())


def _key(path: Path) -> str:
    return path.name.partition("_")[0]


def _file(path: Path) -> SourceFile:
    return SourceFile(
        path.name,
        key=_key(path),
        description=path.stem.partition("_")[2],
        sql=read_text(path),
        number=int(_key(path)),
    )
