"""LocalStack on this machine: AWS's Step Functions, S3, CloudFormation and Lambda, without an
account and without Docker.

Not imitated: permissions, the number of failures that a Distributed Map tolerates, and quotas. In
one execution, clusters must be one after the other, because it mixes up Maps that run at a time.
"""

import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
from botocore.config import Config

from scripts.bundle import Target, find_python
from tests.conftest import ROOT
from tests.platform.cache import cached, said

MINOR = "3.13"  # the only one that this LocalStack runs on
LOCK = Path(__file__).with_suffix(".txt")
VERSION = re.findall(r"^localstack-core==(\S+)", LOCK.read_text(), re.MULTILINE)[0]
REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
SECONDS_TO_START = 90


def install() -> Path:
    """Its Python, installed into the cache if it is missing. Raises BundleError or OSError."""
    python = find_python(Target(MINOR, platform.machine()))
    return cached(f"localstack-{VERSION}", lambda place: _install(python, place)) / "bin" / "python"


def _install(python: str, place: Path) -> None:
    said(python, "-m", "venv", "--without-pip", str(place))
    pip = (python, "-m", "pip", "--python", str(place / "bin" / "python"), "install")
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:")
    said(*pip, *options, "-r", str(LOCK))


@dataclass(frozen=True)
class Stack:
    """What template-fleet.yaml has made there."""

    machine: str
    bucket: str


class LocalStack:
    """One that runs."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.log = log

    @property
    def environ(self) -> dict[str, str]:
        """With which boto3 takes it for AWS."""
        return {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": self.url}

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(read_timeout=120, retries={"total_max_attempts": 1}),
        )

    def instances(self) -> list[int]:
        """The process of each instance of a function."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = {int(pid) for task in tasks for pid in task.read_text().split()}
        return sorted(pid for pid in children if b"awslambdaric" in _command(pid))


def deploy(stack: LocalStack, zipped: Path, variables: Mapping[str, str]) -> Stack:
    """Deploy template-fleet.yaml as `sam deploy` does, with more variables for the function.

    Its state machine waits less between two tries, and has one cluster after the other.
    """
    files, name = stack.client("s3"), "deploy"
    files.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    files.upload_file(str(zipped), name, "onward.zip")
    files.put_object(Bucket=name, Key="fleet.asl.json", Body=_definition())
    template = (ROOT / "template-fleet.yaml").read_text()
    for word, value in {
        "CodeUri": f"s3://{name}/onward.zip",
        "DefinitionUri": f"s3://{name}/fleet.asl.json",
        "MIGRATION_FLEET": '"1"'
        + "".join(f"\n{' ' * 10}{one}: {variables[one]}" for one in variables),
    }.items():
        before, name_, rest = template.partition(f" {word}: ")
        assert rest, word
        template = f"{before}{name_}{value}\n{rest.partition(chr(10))[2]}"
    return _created(stack.client("cloudformation"), template)


def _definition() -> str:
    definition = (ROOT / "infra" / "fleet.asl.json").read_text()
    for there, here in {
        '"MaxConcurrency": 40': '"MaxConcurrency": 1',
        '"IntervalSeconds": 30': '"IntervalSeconds": 1',
        '"MaxAttempts": 4,': '"MaxAttempts": 1,',
        '"MaxAttempts": 5,': '"MaxAttempts": 1,',
    }.items():
        assert there in definition
        definition = definition.replace(there, here)
    return definition


def _created(formation: Any, template: str) -> Stack:
    capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    parameters = [{"ParameterKey": "Environment", "ParameterValue": "test"}]
    formation.create_stack(
        StackName="onward-fleet",
        TemplateBody=template,
        Capabilities=capabilities,
        Parameters=parameters,
    )
    formation.get_waiter("stack_create_complete").wait(
        StackName="onward-fleet", WaiterConfig={"Delay": 1}
    )
    (made,) = formation.describe_stacks(StackName="onward-fleet")["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}
    return Stack(outputs["StateMachine"], outputs["Bucket"])


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def running(python: Path, function_python: Path, place: Path) -> Iterator[LocalStack]:
    """Run it with its files in a directory; `function_python` has Lambda's runtime client."""
    port, log = _free_port(), place / "log"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "TMPDIR": str(place),
        "PYTHONPATH": str(ROOT),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "FILESYSTEM_ROOT": str(place),
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "LS_LOG": "warn",
        "LAMBDA_KEEPALIVE_MS": "600000",
        "LAMBDA_SYNCHRONOUS_CREATE": "1",
        "ONWARD_FUNCTION_PYTHON": str(function_python),
    }
    command = [str(python), "-m", "tests.platform.localstack_main"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=place, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    stack = LocalStack(port, process, log)
    try:
        _wait(stack)
        yield stack
    finally:
        instances = stack.instances()
        process.kill()
        process.wait()
        for pid in instances:
            os.kill(pid, 9)


def _wait(stack: LocalStack) -> None:
    ends_at = time.monotonic() + SECONDS_TO_START
    while not _answers(stack):
        if stack.process.poll() is not None or time.monotonic() > ends_at:
            raise OSError(f"LocalStack did not start:\n{stack.log.read_text()}")
        time.sleep(0.1)


def _answers(stack: LocalStack) -> bool:
    try:
        with urlopen(f"{stack.url}/_localstack/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
