#!/usr/bin/env python3
"""Runs the deployed Lambda function and tells a pipeline how it went: `scripts/invoke.py --help`.

`aws lambda invoke` exits 0 whatever the function says, and after a minute without an answer it
calls a second time. This calls once and waits for as long as the function may take.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until `main` deals with it: Ctrl-C shows no traceback

import argparse
import base64
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.errors import OnwardError
from lib.printable import hanging, printable, printable_json

LONGEST = 900  # seconds that any function may take
MARGIN = 30
LOOK = "--action status says what is applied"
EXAMPLES = """\
examples:
  scripts/invoke.py onward-Function-1ABC                     apply what is pending
  scripts/invoke.py onward-Function-1ABC --action validate   exit 3 if files and history disagree
  scripts/invoke.py onward-Function-1ABC --action status --region eu-west-1 --json

exit codes: those of scripts/migrate.py, among them
  0   done
  2   no such function, no permission to call it, or its configuration is wrong
  4   another run is active, or all instances are busy
  5   the function, or its database, cannot be reached
  6   no answer: whether something was applied, --action status says
  8   the time ran out between two files: call again
  70  a fault of the function, or not this function at all
"""


class CallError(OnwardError):
    """The function could not be called, or did not answer. Its exit code depends."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: Sequence[str]) -> int:
    """Call the function once; the exit code is what scripts/migrate.py's would be."""
    options = _parse(arguments)
    try:
        document, log = call(options.function, options.action, options.region)
    except CallError as error:
        print(printable(hanging(f"❌ {error.message}")), file=sys.stderr)
        if options.json:
            print(
                printable_json(
                    {"success": False, "error": {"code": "not_called", "message": error.message}}
                )
            )
        return error.exit_code
    except KeyboardInterrupt:
        print(f"❌ interrupted, and the function goes on; {LOOK}", file=sys.stderr)
        return 130
    code = exit_code(document)
    if options.json:
        print(printable_json(document))
    print(
        printable("\n".join(map(hanging, _words(document)))),
        file=sys.stderr if code or options.json else sys.stdout,
    )
    if code and log:
        print(printable(hanging(f"The end of the function's log:\n{log}")), file=sys.stderr)
    return code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/invoke.py",
        description="Call the deployed Lambda function, once, and exit by its answer. Needs boto3.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("function", help="its name or ARN")
    parser.add_argument("--action", choices=("migrate", "status", "validate"), default="migrate")
    parser.add_argument("--region", help="default: AWS_REGION, or that of the profile")
    parser.add_argument(
        "--json", action="store_true", help="the function's document on stdout; words go to stderr"
    )
    return parser.parse_args(arguments)


def call(function: str, action: str, region: str | None) -> tuple[dict[str, Any], str]:
    """The function's document and the end of its log. Raises CallError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - boto3 is not in requirements.txt
    except ImportError:
        raise CallError("boto3 is not installed: pip install boto3", 2) from None
    try:
        response = _invoke(function, action, region)
    except ClientError as error:
        raise _refused(function, error.response) from None
    except BotoCoreError as error:
        raise _unanswered(function, error) from None
    answer = json.loads(response["Payload"].read() or "null")
    if response.get("FunctionError"):
        raise _function_error(function, answer)
    if not isinstance(answer, dict) or "success" not in answer:
        raise CallError(f"{function} answers, but it is not lib.aws.handler", 70)
    return answer, base64.b64decode(response.get("LogResult") or "").decode(
        errors="replace"
    ).strip()


def _invoke(function: str, action: str, region: str | None) -> dict[str, Any]:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        asking = boto3.client("lambda", region_name=region, config=Config(read_timeout=10))
        longest = int(asking.get_function_configuration(FunctionName=function)["Timeout"])
    except (BotoCoreError, ClientError):  # a pipeline's role may call it and no more
        longest = LONGEST
    once = Config(
        read_timeout=longest + MARGIN, tcp_keepalive=True, retries={"total_max_attempts": 1}
    )
    client = boto3.client("lambda", region_name=region, config=once)
    event = json.dumps({"action": action})
    response: dict[str, Any] = client.invoke(FunctionName=function, Payload=event, LogType="Tail")
    return response


def _refused(function: str, response: dict[str, Any]) -> CallError:
    """AWS has answered for the function."""
    code, status = response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= 500:
        return CallError(f"{function} gave no answer ({code}); {LOOK}", 6)
    return CallError(f"{function} cannot be called: {code}", 4 if status == 429 else 2)


def _unanswered(function: str, error: Exception) -> CallError:
    from botocore import exceptions  # noqa: PLC0415

    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        return CallError(f"{function} cannot be reached: {error}", 5)
    if isinstance(error, exceptions.HTTPClientError):
        return CallError(f"{function} gave no answer ({type(error).__name__}); {LOOK}", 6)
    return CallError(f"{function} cannot be called: {error}", 2)


def _function_error(function: str, answer: Any) -> CallError:
    message = str(answer.get("errorMessage") if isinstance(answer, dict) else answer)
    if "Task timed out" in message or "exited" in message:
        return CallError(f"{function} ended before it answered ({message}); {LOOK}", 6)
    return CallError(f"{function} failed: {message}", 70)


def exit_code(document: dict[str, Any]) -> int:
    """What scripts/migrate.py would have exited with."""
    if document["success"]:
        return 8 if document.get("complete") is False else 0
    if document.get("state") == "conflict":
        return 3
    codes = {error.code: error.exit_code for error in _kinds(OnwardError)}
    return {**codes, "invalid_request": 2}.get(document.get("error", {}).get("code"), 70)


def _kinds(error: type[OnwardError]) -> Iterator[type[OnwardError]]:
    """The error's subclasses before itself, so that of two with one code the more general one
    counts.
    """
    for kind in error.__subclasses__():
        yield from _kinds(kind)
    yield error


def _words(document: dict[str, Any]) -> Iterator[str]:
    yield from (
        f"✅ Applied: {one['version'] if isinstance(one, dict) else one}"
        for one in document.get("applied", ())
    )
    if error := document.get("error"):
        where = ", ".join(
            f"{name} {error[name]}" for name in ("version", "sqlstate", "line") if error.get(name)
        )
        yield f"❌ {error['message']}" + (f" ({where})" if where else "")
    yield from (
        f"❌ {problem['version']}: {problem['message']}" for problem in document.get("problems", ())
    )
    if document.get("remaining"):
        yield f"Not applied: {', '.join(document['remaining'])}"
    if document["success"]:
        yield f"✅ {document.get('database')}: {document.get('state') or 'done'}"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
