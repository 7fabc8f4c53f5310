"""A stand-in for AWS Lambda, around the real runtime client: `python -m awslambdaric` is a child of
the tests.

Like Lambda: one process an instance, one event at a time, its deadline as a header, SIGKILL when
the time is up, a cold start after that. What boto3 calls to invoke a function is served too. Not
imitated: freezing between events, limits of memory and of what an answer may hold, a root that
cannot be written to.
"""

import base64
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Self

RUNTIME = "/2018-06-01/runtime/"
NAME = "onward"


@dataclass(frozen=True)
class Result:
    """What came of one event. `error` is empty for an answer, else Lambda's word for it."""

    payload: Any
    error: str
    log: str
    pid: int


@dataclass(frozen=True)
class Job:
    """An event on its way to the instance."""

    request_id: str
    body: bytes
    deadline: float


class Function:
    """A function made of an unpacked bundle. Its first event starts an instance, as does the first
    after an end.
    """

    def __init__(
        self,
        python: Path,
        bundle: Path,
        environ: Mapping[str, str],
        *,
        handler: str = "lib.aws.handler",
    ) -> None:
        self.timeout = 60.0
        self._command = [str(python), "-m", "awslambdaric", handler]
        self._bundle = bundle
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: Queue[Job] = Queue()
        self._answers: Queue[tuple[str, bytes]] = Queue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the function
        self._server = _Server(self)
        self._environ = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": NAME,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_REGION": "eu-west-1",
            "LAMBDA_TASK_ROOT": str(bundle),
            "TZ": ":UTC",
            "_HANDLER": handler,
            **environ,
        }

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.time_out()
        self._server.shutdown()
        self._server.server_close()
        self._log.close()

    @property
    def url(self) -> str:
        """Where boto3 can call it: an endpoint of Lambda's own API."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def invoke(self, event: Any, *, seconds: float | None = None) -> Result:
        """Hand over an event and wait for what comes of it. Nobody but `time_out` ends it early."""
        body = json.dumps(event).encode()
        process = self._instance()
        begin = self._log.seek(0, os.SEEK_END)
        self._jobs.put(Job(str(uuid.uuid4()), body, time.time() + (seconds or self.timeout)))
        error, answer = self._wait(process)
        self._log.seek(begin)
        return Result(json.loads(answer), error, self._log.read().decode(), process.pid)

    def time_out(self) -> None:
        """What Lambda does when the time is up: the processes are gone, and nothing in them hears
        of it.
        """
        if self._process:
            self._process.kill()
            self._process.wait()

    def _instance(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._jobs, self._answers = Queue(), Queue()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._bundle,
                env=self._environ,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def _wait(self, process: "subprocess.Popen[bytes]") -> tuple[str, bytes]:
        while True:
            gone = process.poll() is not None
            try:
                return self._answers.get(timeout=0.05)
            except Empty:
                if gone:
                    message = (
                        "Task timed out"
                        if process.returncode == -9
                        else f"Runtime exited: {process.returncode}"
                    )
                    return "Runtime.ExitError", json.dumps({"errorMessage": message}).encode()

    def next_job(self) -> Job:
        """The next event for the runtime client; waits for one."""
        return self._jobs.get()

    def answer(self, error: str, body: bytes) -> None:
        """What the runtime client says of the last one."""
        self._answers.put((error, body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, function: Function) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.function = function

    def handle_error(self, *_: object) -> None:
        """Nothing: an instance that was killed breaks off."""


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, -1  # else each answer waits for a delayed ACK
    server: _Server

    def do_GET(self) -> None:
        if self.path == f"{RUNTIME}invocation/next":
            job = self.server.function.next_job()
            self._send(200, job.body, self._job_headers(job))
        elif self.path.endswith(f"/functions/{NAME}/configuration"):
            self._send(
                200,
                json.dumps(
                    {"FunctionName": NAME, "Timeout": int(self.server.function.timeout)}
                ).encode(),
            )
        else:
            self._send(404, b"{}", {"x-amzn-ErrorType": "ResourceNotFoundException"})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith(RUNTIME):
            error = "" if self.path.endswith("/response") else str(json.loads(body)["errorType"])
            self.server.function.answer(error, body)
            self._send(202, b'{"status": "OK"}')
        elif self.path.endswith(f"/functions/{NAME}/invocations"):
            result = self.server.function.invoke(json.loads(body))
            headers = {"X-Amz-Log-Result": base64.b64encode(result.log.encode()[-4096:]).decode()}
            failed = {"X-Amz-Function-Error": "Unhandled"} if result.error else {}
            self._send(200, json.dumps(result.payload).encode(), headers | failed)
        else:
            self._send(404, b"{}", {"x-amzn-ErrorType": "ResourceNotFoundException"})

    def _job_headers(self, job: Job) -> dict[str, str]:
        return {
            "Lambda-Runtime-Aws-Request-Id": job.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(job.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": (
                f"arn:aws:lambda:eu-west-1:123456789012:function:{NAME}"
            ),
        }

    def _body(self) -> bytes:
        """The runtime client posts its answers in chunks."""
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: what counts is in the result."""


def function_url(
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    query: str = "",
) -> dict[str, Any]:
    """A request by a function URL: payload version 2.0."""
    domain = "abc123.lambda-url.eu-west-1.on.aws"
    return _version_2(
        method, path, {"host": domain, **(headers or {})}, body, query, domain, "$default"
    )


def http_api(
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    query: str = "",
    stage: str = "$default",
) -> dict[str, Any]:
    """A request by API Gateway's HTTP API: payload version 2.0, where a named stage is part of the
    path.
    """
    domain = "abc123.execute-api.eu-west-1.amazonaws.com"
    path = path if stage == "$default" else f"/{stage}{path}"
    return _version_2(method, path, {"host": domain, **(headers or {})}, body, query, domain, stage)


def rest_api(
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    query: str = "",
    stage: str = "prod",
) -> dict[str, Any]:
    """A request by API Gateway's REST API: payload version 1, where the stage is not part of the
    path.
    """
    headers = {
        "Host": "abc123.execute-api.eu-west-1.amazonaws.com",
        "X-Forwarded-Proto": "https",
        **(headers or {}),
    }
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": _pairs(query) or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in _pairs(query).items()}
        or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": headers["Host"],
            "httpMethod": method,
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "curl/8"},
            "path": f"/{stage}{path}",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6",
            "resourcePath": "/{proxy+}",
            "stage": stage,
        },
        "body": body,
        "isBase64Encoded": False,
    }


def load_balancer(
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    query: str = "",
    several: bool = False,
) -> dict[str, Any]:
    """A request by an application load balancer; with `several` values a header, as one may set it
    up.
    """
    headers = {
        "host": "lb-1.eu-west-1.elb.amazonaws.com",
        "x-forwarded-for": "192.0.2.1",
        **(headers or {}),
    }
    event = {
        "requestContext": {
            "elb": {
                "targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/onward/1"
            }
        },
        "httpMethod": method,
        "path": path,
        "body": body or "",
        "isBase64Encoded": False,
    }
    if several:
        lists = {name: [value] for name, value in headers.items()}
        return event | {"multiValueHeaders": lists, "multiValueQueryStringParameters": {}}
    return event | {"headers": headers, "queryStringParameters": _pairs(query)}


SIGNED = "/arn%3Aaws%3Acloudformation%3Aeu-west-1/stack%7C1?X-Amz-Signature=T0PSECRET"


def stack_request(kind: str, host: str, **more: Any) -> dict[str, Any]:
    """A request of CloudFormation's for a custom resource, to be answered at SIGNED of the host."""
    known = {} if kind == "Create" else {"PhysicalResourceId": "onward-migrations"}
    return {
        "RequestType": kind,
        "ServiceToken": f"arn:aws:lambda:eu-west-1:123456789012:function:{NAME}",
        "ResponseURL": f"https://{host}{SIGNED}",
        "StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/app/5f1c",
        "RequestId": f"of-{kind}",
        "LogicalResourceId": "Migrations",
        "ResourceType": "Custom::Migrations",
        "ResourceProperties": {"Version": "1" * 64},
        **known,
        **more,
    }


def _version_2(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: str | None,
    query: str,
    domain: str,
    stage: str,
) -> dict[str, Any]:
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"x-forwarded-proto": "https", "x-forwarded-port": "443"}
        | {name.lower(): value for name, value in headers.items()},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc123",
            "domainName": domain,
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl/8",
            },
            "requestId": "e1506fd5",
            "routeKey": "$default",
            "stage": stage,
        },
        "isBase64Encoded": False,
    }
    return event if body is None else event | {"body": body}


def _pairs(query: str) -> dict[str, str]:
    return {
        name: value for name, _, value in (part.partition("=") for part in query.split("&")) if name
    }


SOURCES: dict[str, Callable[..., dict[str, Any]]] = {
    "function URL": function_url,
    "HTTP API": http_api,
    "HTTP API with a named stage": partial(http_api, stage="prod"),
    "REST API": rest_api,
    "REST API with a stage that is called api": partial(rest_api, stage="api"),
    "load balancer": load_balancer,
    "load balancer with several values a header": partial(load_balancer, several=True),
}
