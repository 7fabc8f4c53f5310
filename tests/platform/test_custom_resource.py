"""The life of a stack with the resource `Migrations`, on the real runtime client: the tests are
CloudFormation, and a receiver on this machine is where the answers go.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.kit import ONE, TWO, changed, fill, history, tables
from tests.platform.lambda_runtime import Result, stack_request
from tests.platform.runtime import Runtime
from tests.receiver import Receiver, receiving

# What is deployed answers to AWS alone. No variable can change that, but a handler of one's own.
HANDLER = """\
import os, re
from lib.aws.function import Handler
handler = Handler(os.environ, response_hosts=re.compile(r"127\\.0\\.0\\.1:\\d+"))
"""
THREE = {**TWO, "003-three.sql": "CREATE TABLE three (id int)"}
BAD = {**THREE, "004-bad.sql": "INSERT INTO one VALUES ('canary of a row')"}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as found:
        yield found


class Stack:
    """A stack, as CloudFormation goes through its changes: by the answers alone."""

    def __init__(self, runtime: Runtime, receiver: Receiver, url: str, place: Path) -> None:
        self.url = url
        self.log = ""
        self._runtime, self._receiver, self._place = runtime, receiver, place
        self._bundle: Path | None = None
        fill(place, {"answers_here.py": HANDLER})

    def deploy(self, files: dict[str, str]) -> list[str]:
        """Create the stack or update it, and roll back what fails. The statuses of the answers."""
        before, self._bundle = self._bundle, self._unpacked(files)
        statuses = [self.request("Update" if before else "Create")]
        if statuses == ["FAILED"]:
            self._bundle = before or self._bundle
            statuses.append(self.request("Update" if before else "Delete"))
        return statuses

    def request(self, kind: str, *, seconds: float = 60.0) -> str:
        """Send a request to the bundle that is deployed; the status of its answer."""
        sent = len(self._receiver.received)
        assert self._invoke(kind, seconds).error == ""
        [answer] = self._receiver.documents[sent:]
        assert (answer["RequestId"], answer["PhysicalResourceId"]) == (
            f"of-{kind}",
            "onward-migrations",
        )
        return str(answer["Status"])

    def _invoke(self, kind: str, seconds: float) -> Result:
        environ = {
            "PYTHONPATH": str(self._place),
            "SSL_CERT_FILE": str(self._receiver.certificate),
        }
        with self._runtime.function(
            self.url, self._bundle, handler="answers_here.handler", **environ
        ) as function:
            result = function.invoke(stack_request(kind, self._receiver.host), seconds=seconds)
        self.log += result.log
        return result

    def _unpacked(self, files: dict[str, str]) -> Path:
        """The migrations of another bundle."""
        directory = self._place / f"migrations-{len(list(self._place.iterdir()))}"
        directory.mkdir()
        return fill(directory, files)


@pytest.fixture
def stack(runtime: Runtime, receiver: Receiver, database: Database, tmp_path: Path) -> Stack:
    return Stack(runtime, receiver, database.url, tmp_path)


def test_a_stack_lives_and_its_database_only_goes_forward(
    stack: Stack, receiver: Receiver, database: Database
) -> None:
    assert stack.deploy(ONE) == ["SUCCESS"]
    assert stack.deploy(TWO) == ["SUCCESS"]
    assert history(database) == ["001-one", "002-two"]

    assert stack.deploy(BAD) == ["FAILED", "SUCCESS"]
    failed, rolled_back = receiver.documents[-2:]
    assert failed["Reason"].endswith("(version 004-bad, sqlstate 22P02, line 1)")
    assert rolled_back["Data"] == {"Applied": "0"}
    assert tables(database) == ["one", "three", "two"]

    assert stack.deploy(THREE) == ["SUCCESS"]
    stack.url = changed(database, port="1").url
    assert stack.request("Delete") == "SUCCESS"
    assert (tables(database), history(database)) == (
        ["one", "three", "two"],
        ["001-one", "002-two", "003-three"],
    )
    assert len(receiver.received) == 6
    assert not [part for part in ("T0PSECRET", receiver.host, "canary of") if part in stack.log]


def test_a_stack_that_cannot_be_created_goes_and_can_be_created_again(
    stack: Stack, database: Database
) -> None:
    assert stack.deploy(BAD) == ["FAILED", "SUCCESS"]
    assert history(database) == ["001-one", "002-two", "003-three"]
    assert stack.deploy(THREE) == ["SUCCESS"]
    assert tables(database) == ["one", "three", "two"]


def test_a_database_that_never_answers_is_answered_for_in_time(
    stack: Stack, receiver: Receiver, database: Database
) -> None:
    stack.deploy(ONE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stack.url = changed(database, port=str(silent.getsockname()[1])).url
        assert stack.request("Update", seconds=18.0) == "FAILED"
    assert receiver.documents[-1]["Reason"].startswith("database_unavailable: ")
    assert history(database) == ["001-one"]


def test_what_is_deployed_answers_to_aws_alone(
    runtime: Runtime, receiver: Receiver, database: Database
) -> None:
    trusted = str(receiver.certificate)
    with runtime.function(database.url, SSL_CERT_FILE=trusted) as function:
        results = [
            function.invoke(stack_request("Create", host))
            for host in (receiver.host, f"s3.amazonaws.com@{receiver.host}", "amazonaws.com")
        ]
        after = function.invoke({"action": "status"})
    assert [result.error for result in results] == ["ResponseRefused"] * 3
    assert receiver.received == []
    assert "T0PSECRET" not in "".join(result.log + str(result.payload) for result in results)
    assert (after.pid, tables(database)) == (results[0].pid, [])
