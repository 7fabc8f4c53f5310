"""What the workflow asks of GitHub's REST API: comments of a pull request, and saved artifacts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

BOT, REPOSITORY, TOKEN = "github-actions[bot]", "team/shop", "a-token-of-this-job"
MAIN = {"head_branch": "main", "repository_id": 1, "head_repository_id": 1}
PAGE = 100


@dataclass
class GitHub:
    """A repository there, and what was asked of it."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    archives: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add_comment(self, body: str, author: str = BOT) -> dict[str, Any]:
        """Comment on the pull request."""
        number = len(self.comments) + 1
        self.comments.append({"id": number, "user": {"login": author}, "body": body})
        return self.comments[-1]

    def save(self, files: dict[str, str], run: dict[str, Any] = MAIN, **other: Any) -> None:
        """Save an artifact, the newest; `run` is the run that has saved it."""
        archive, name = BytesIO(), str(len(self.archives))
        with ZipFile(archive, "w") as zipped:
            for file, content in files.items():
                zipped.writestr(file, content)
        self.archives[name] = archive.getvalue()
        place = f"{self.url}/repos/{REPOSITORY}/actions/artifacts/{name}/zip"
        artifact = {"name": "onward-production", "expired": False, "archive_download_url": place}
        self.artifacts.insert(0, artifact | {"workflow_run": run} | other)

    def answer(self, method: str, path: str, body: str) -> tuple[int, Any]:
        """Status, and a document, the bytes of an archive, or where to find it."""
        self.asked.append(f"{method} {path}")
        address = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        route = address.path.removeprefix(f"/repos/{REPOSITORY}")
        match method, route.split("/")[1:]:
            case "GET", ["issues", "7", "comments"]:
                start = (int(query["page"]) - 1) * PAGE
                return 200, self.comments[start : start + int(query["per_page"])]
            case "POST", ["issues", "7", "comments"]:
                return 201, self.add_comment(json.loads(body)["body"])
            case "PATCH", ["issues", "comments", number]:
                comment = self.comments[int(number) - 1]
                comment["body"] = json.loads(body)["body"]
                return 200, comment
            case "GET", ["actions", "artifacts"]:
                named = [one for one in self.artifacts if one["name"] == query["name"]]
                return 200, {"total_count": len(named), "artifacts": named}
            case "GET", ["actions", "artifacts", name, "zip"]:
                return 302, f"/archives/{name}"
            case "GET", ["archives", name]:
                return 200, self.archives[name]
        return 404, {"message": "Not Found"}


@contextmanager
def github() -> Iterator[GitHub]:
    """GitHub on the loopback."""
    state = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            """Answer any method."""
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
            status, found = state.answer(self.command, self.path, body) if allowed else (401, {})
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", str(found))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()
