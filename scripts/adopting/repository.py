"""What a team's repository is: its shape, its build, and what git says of it. Reads only."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.adopting import AdoptError
from scripts.adopting.vercel_json import Defaults, parsed

SHAPES = {
    "alone": "the database's schema and the two routes, without a build of its own",
    "client": "a client with its own build: package.json has a build script",
    "next": "a Next.js application: package.json names next",
    "python": "Python functions of its own in api/",
    "sam": "an AWS SAM application: its template has AWS::Serverless, and there is no vercel.json",
}
LOCKFILES = {
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
# Their builders know the output directory. Vite's does not matter: it only writes static files.
FRAMEWORKS = {
    "next": "nextjs",
    "nuxt": "nuxtjs",
    "@sveltejs/kit": "sveltekit-1",
    "astro": "astro",
    "@remix-run/dev": "remix",
    "@react-router/dev": "react-router",
    "gatsby": "gatsby",
    "@docusaurus/core": "docusaurus-2",
    "react-scripts": "create-react-app",
    "@angular/core": "angular",
}
OUR_FUNCTIONS = ("migrate", "migration-status")
_ROUTES = ("api", "app/api", "src/app/api", "pages/api", "src/pages/api")


class Repository:
    """A directory that Onward is adopted into, as it is before."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def bytes(self, name: str) -> bytes | None:
        """A file's content; None if it is not there."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def text(self, name: str) -> str:
        """A text file's content; empty if it is not there. Raises AdoptError if it is not UTF-8."""
        try:
            return (self.bytes(name) or b"").decode()
        except UnicodeDecodeError as error:
            raise AdoptError(f"{name} is not UTF-8: byte {error.start}") from None

    @cached_property
    def package(self) -> dict[str, Any]:
        """Its package.json; empty without one. Raises AdoptError if it is no JSON object."""
        return parsed(self.text("package.json") or "{}", "package.json")

    @property
    def shape(self) -> str:
        """One of SHAPES."""
        if not (self.root / "vercel.json").exists() and self._template:
            return "sam"
        if "next" in self._dependencies:
            return "next"
        if self._builds:
            return "client"
        return "python" if self.functions else "alone"

    @property
    def functions(self) -> list[str]:
        """Its own Python functions, by Vercel's rule of what one is."""
        paths = (path.relative_to(self.root) for path in (self.root / "api").rglob("*.py"))
        ours = {f"api/{name}.py" for name in OUR_FUNCTIONS}
        return sorted(
            path.as_posix()
            for path in paths
            if path.as_posix() not in ours and not any(part[0] in "_." for part in path.parts)
        )

    def defaults(self, shape: str, ours: dict[str, Any]) -> Defaults:
        """What its vercel.json means where it says nothing."""
        manager = next(
            (name for file, name in LOCKFILES.items() if (self.root / file).exists()), "npm"
        )
        framework = next(
            (slug for name, slug in FRAMEWORKS.items() if name in self._dependencies), None
        )
        settings: dict[str, Any] = {"framework": framework if self._builds else None}
        if shape == "next":
            settings = {"framework": "nextjs"}
        elif not settings["framework"]:
            settings["outputDirectory"] = "dist" if self._builds else ours["outputDirectory"]
        if not (self.root / "vercel.json").exists():
            settings = {"$schema": ours["$schema"]} | settings
        return Defaults(
            f"{manager} install" if (self.root / "package.json").exists() else "",
            self._build_of(shape, manager),
            tuple(settings.items()),
        )

    def _build_of(self, shape: str, manager: str) -> str:
        if self._builds:
            return f"{manager} run build"
        return "npx next build" if shape == "next" else ""

    @property
    def _builds(self) -> bool:
        return bool(self._in_package("scripts").get("build"))

    @property
    def _dependencies(self) -> set[str]:
        return {*self._in_package("dependencies"), *self._in_package("devDependencies")}

    def _in_package(self, name: str) -> dict[str, Any]:
        """An object in its package.json; empty if it is absent, or anything else."""
        found = self.package.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def _template(self) -> bool:
        names = ("template.yaml", "template.yml")
        return any(b"AWS::Serverless" in (self.bytes(name) or b"") for name in names)

    def problems(self, shape: str) -> Iterator[str]:
        """What would not work beside Onward on Vercel."""
        for name in ("vercel.ts", "vercel.mts", "vercel.js", "vercel.mjs"):
            if (self.root / name).exists():
                yield f"{name}: settings in a program cannot be merged; write them as vercel.json"
        for route in self._taken_routes():
            yield f"{route}: Onward's function has this route"
        at_root = (self.root / "index.html").exists()
        if shape in ("alone", "python") and at_root and not self.publishes:
            yield "index.html: Vercel will publish public/ only; move the site's files there"

    @property
    def publishes(self) -> bool:
        """Whether it has files of its own for Vercel to publish."""
        public = self.root / "public"
        settings = parsed(self.text("vercel.json") or "{}")
        return "outputDirectory" in settings or (public.is_dir() and any(public.iterdir()))

    def _taken_routes(self) -> Iterator[str]:
        for folder in _ROUTES:
            for name in OUR_FUNCTIONS:
                for path in sorted((self.root / folder).glob(f"{name}*")):
                    if path.name.partition(".")[0] == name and path.suffix != ".py":
                        yield path.relative_to(self.root).as_posix()

    def notes(self) -> Iterator[str]:
        """What a deploy on Vercel would stumble over, and adopting does not change."""
        yield from self._pyproject_notes()
        version = self.text(".python-version").strip()
        if re.fullmatch(r"(3\.\d|3\.1[01])(\.\d+)?", version):
            yield (
                f".python-version is {version}, and Vercel builds for 3.12, 3.13 and 3.14 only:"
                " its build would fail after migrating"
            )
        if re.search(r"^\s*(-r|--requirement)\b", self.text("requirements.txt"), re.MULTILINE):
            yield "requirements.txt has a line with -r, which Vercel's builder refuses"

    def _pyproject_notes(self) -> Iterator[str]:
        text = self.text("pyproject.toml")
        if not text or re.search(
            r"^/?pyproject\.toml\s*$", self.text(".vercelignore"), re.MULTILINE
        ):
            return
        try:
            project = tomllib.loads(text).get("project")
        except tomllib.TOMLDecodeError:
            return
        if project is None:
            yield (
                "pyproject.toml has no [project]: with it Vercel's build fails after migrating."
                " Keep it from Vercel:\n  echo /pyproject.toml >>.vercelignore"
            )
        else:
            yield (
                "pyproject.toml has [project], and Vercel installs the functions' packages from"
                " that, not from requirements.txt. Name the lines of requirements.txt in its"
                " dependencies, or keep it from Vercel:\n  echo /pyproject.toml >>.vercelignore"
            )

    def ignored(self, paths: Iterable[str]) -> list[str]:
        """Which of these git would not add; without git, what a plain line for `lib/` says."""
        paths = list(paths)
        listed = self._git("check-ignore", "--no-index", "-z", "--stdin", given="\0".join(paths))
        if listed is not None:
            return [path for path in listed.split("\0") if path]
        own = re.search(r"^/?lib/?\s*$", self.text(".gitignore"), re.MULTILINE)
        return [path for path in paths if own and path.startswith("lib/")]

    @property
    def is_dirty(self) -> bool:
        """Whether git knows of changes that are not committed."""
        return bool(self._git("status", "--porcelain"))

    @property
    def is_subdirectory(self) -> bool:
        """Whether it is a project in a larger repository of git's."""
        return bool((self._git("rev-parse", "--show-prefix") or "").strip())

    def _git(self, *words: str, given: str = "") -> str | None:
        """What git says; None without git, or if this is no repository of git's."""
        command = ["git", "-C", str(self.root), *words]
        try:
            result = subprocess.run(
                command, input=given, capture_output=True, encoding="utf-8", check=False
            )
        except OSError:
            return None
        return result.stdout if result.returncode in (0, 1) else None


def read_vercel_json(checkout: Path) -> dict[str, Any]:
    """The checkout's own settings, of which a team's commands and functions are made."""
    document: dict[str, Any] = json.loads((checkout / "vercel.json").read_text())
    return document
