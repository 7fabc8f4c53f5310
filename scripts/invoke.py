#!/usr/bin/env python3
"""Invokes the deployed Lambda function and exits by its answer: `scripts/invoke.py --help`.

`aws lambda invoke` exits 0 whatever the function answers, and invokes it a second time after a
minute without an answer. This script invokes it once and waits for as long as it may run.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import base64
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.in_venv import require, run_in_venv

require()

from lib.consent import Change, require_words
from lib.errors import OnwardError, WrongEnvironment, exit_codes
from lib.printable import hanging, printable, printable_json
from lib.report.document import error_dict
from lib.report.text import consent_text, error_text, exit_text
from lib.settings.assistant import find_assistant
from lib.settings.redactor import Redactor

MAX_FUNCTION_SECONDS = 900  # Lambda's own limit
NETWORK_SECONDS = 30
CHECK_STATUS = "run it with --action status to see what is applied"
NO_BOTO3 = """\
boto3 is not installed. To install it:
  python3 -m pip install --require-hashes --only-binary=:all: -r scripts/locks/aws.txt
in .venv, together with all that the tests need:
  scripts/setup dev"""
EXAMPLES = """\
examples:
  scripts/invoke.py onward-Function-1ABC                     apply what is pending
  scripts/invoke.py onward-Function-1ABC --action validate   exit 3 if files and history disagree
  scripts/invoke.py onward-Function-1ABC --action status --region eu-west-1 --json

exit codes: those of scripts/migrate.py, among them
  0   done
  2   no such function, no permission to call it, or its configuration is wrong
  3   files and history disagree, or a coding assistant has no consent to migrate
  4   another run is active, or all instances are busy
  5   the function or its database cannot be reached
  6   no answer: --action status shows whether something was applied
  8   the time ran out between two files: invoke it again
  70  internal error of the function, or another function
"""


class CallError(OnwardError):
    """The function could not be invoked, or did not answer."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: Sequence[str]) -> int:
    """Invoke the function once. The exit code is the one that scripts/migrate.py would have."""
    options = _parse(arguments)
    try:
        if options.action == "migrate":
            _require_consent(arguments, options)
        document, log = call(options.function, options.action, options.region)
    except CallError as error:
        return _report_call_error(error, as_json=options.json)
    except WrongEnvironment as error:
        return _report_refusal(error, as_json=options.json)
    except KeyboardInterrupt:
        print(f"❌ interrupted, but the function goes on; {CHECK_STATUS}", file=sys.stderr)
        return 130
    return _report(document, log, as_json=options.json)


def _require_consent(arguments: Sequence[str], options: argparse.Namespace) -> None:
    """Raise WrongEnvironment if a coding assistant would migrate without a person's consent.

    Not even where the database is near: what the function migrates is known to the function alone.
    """
    assistant = find_assistant(os.environ)
    if assistant:
        require_words(
            assistant,
            Change(
                "apply the pending migrations to the database of",
                shlex.join(["scripts/invoke.py", *arguments]),
            ),
            f"the function {options.function}",
            place=f"\n  Function: {options.function}",
            look=f"scripts/invoke.py {shlex.quote(options.function)} --action status",
        )
        _print(consent_text(assistant), sys.stderr if options.json else sys.stdout)


def _report_refusal(error: WrongEnvironment, *, as_json: bool) -> int:
    _print(f"{error_text(error)}\n{exit_text(error)}", sys.stderr)
    if as_json:
        print(printable_json(Redactor(os.environ).document(error_dict(error))))
    return error.exit_code


def _print(text: str, stream: TextIO) -> None:
    print(printable(Redactor(os.environ).text(text)), file=stream)


def _report_call_error(error: CallError, *, as_json: bool) -> int:
    print(printable(hanging(f"❌ {error.message}")), file=sys.stderr)
    if as_json:
        document = {"success": False, "error": {"code": "not_called", "message": error.message}}
        print(printable_json(document))
    return error.exit_code


def _report(document: dict[str, Any], log: str, *, as_json: bool) -> int:
    code = exit_code(document)
    if as_json:
        print(printable_json(document))
    text = "\n".join(hanging(line) for line in _lines(document))
    print(printable(text), file=sys.stderr if code or as_json else sys.stdout)
    if code and log:
        print(printable(hanging(f"The end of the function's log:\n{log}")), file=sys.stderr)
    return code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/invoke.py",
        description="Invoke the deployed Lambda function once and exit by its answer. Needs boto3.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("function", help="name or ARN of the function")
    parser.add_argument("--action", choices=("migrate", "status", "validate"), default="migrate")
    parser.add_argument("--region", help="default: AWS_REGION, or that of the profile")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the function's document to stdout, and human-readable output to stderr",
    )
    return parser.parse_args(arguments)


def call(function: str, action: str, region: str | None) -> tuple[dict[str, Any], str]:
    """The function's document and the end of its log. Raises CallError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - boto3 is not in requirements.txt
    except ImportError:
        run_in_venv()
        raise CallError(NO_BOTO3, 2) from None
    try:
        response = _invoke(function, action, region)
    except ClientError as error:
        raise _error_from_aws(function, error.response) from None
    except BotoCoreError as error:
        raise _error_without_answer(function, error) from None
    answer = json.loads(response["Payload"].read() or "null")
    if response.get("FunctionError"):
        raise _error_of_function(function, answer)
    if not isinstance(answer, dict) or "success" not in answer:
        raise CallError(f"{function} answered, but its handler is not lib.aws.handler", 70)
    log = base64.b64decode(response.get("LogResult") or "").decode(errors="replace")
    return answer, log.strip()


def _invoke(function: str, action: str, region: str | None) -> dict[str, Any]:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        client = boto3.client("lambda", region_name=region, config=Config(read_timeout=10))
        seconds = int(client.get_function_configuration(FunctionName=function)["Timeout"])
    except (BotoCoreError, ClientError):  # a pipeline's role may be allowed to invoke it only
        seconds = MAX_FUNCTION_SECONDS
    once = Config(
        read_timeout=seconds + NETWORK_SECONDS,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1},
    )
    client = boto3.client("lambda", region_name=region, config=once)
    event = json.dumps({"action": action})
    response: dict[str, Any] = client.invoke(FunctionName=function, Payload=event, LogType="Tail")
    return response


def _error_from_aws(function: str, response: dict[str, Any]) -> CallError:
    """AWS itself answered, and not the function."""
    code, status = response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= 500:
        return CallError(f"{function} did not answer ({code}); {CHECK_STATUS}", 6)
    return CallError(f"cannot invoke {function}: {code}", 4 if status == 429 else 2)


def _error_without_answer(function: str, error: Exception) -> CallError:
    from botocore import exceptions  # noqa: PLC0415

    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        return CallError(f"cannot connect to AWS Lambda to invoke {function}: {error}", 5)
    if isinstance(error, exceptions.HTTPClientError):
        return CallError(f"{function} did not answer ({type(error).__name__}); {CHECK_STATUS}", 6)
    return CallError(f"cannot invoke {function}: {error}", 2)


def _error_of_function(function: str, answer: Any) -> CallError:
    message = str(answer.get("errorMessage") if isinstance(answer, dict) else answer)
    if "Task timed out" in message or "exited" in message:
        return CallError(f"{function} ended before it answered ({message}); {CHECK_STATUS}", 6)
    return CallError(f"{function} failed: {message}", 70)


def exit_code(document: dict[str, Any]) -> int:
    """The exit code that scripts/migrate.py would have."""
    if document["success"]:
        return 8 if document.get("complete") is False else 0
    if document.get("state") == "conflict":
        return 3
    known = exit_codes() | {"invalid_request": 2}
    return known.get(document.get("error", {}).get("code"), 70)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    for applied in document.get("applied", ()):
        yield f"✅ Applied: {applied['version'] if isinstance(applied, dict) else applied}"
    if error := document.get("error"):
        yield _error_line(error)
    for problem in document.get("problems", ()):
        yield f"❌ {problem['version']}: {problem['message']}"
    if document.get("remaining"):
        yield f"Not applied: {', '.join(document['remaining'])}"
    if document["success"]:
        yield f"✅ {document.get('database')}: {document.get('state') or 'done'}"


def _error_line(error: dict[str, Any]) -> str:
    names = ("version", "sqlstate", "line")
    place = ", ".join(f"{name} {error[name]}" for name in names if error.get(name))
    return f"❌ {error['message']}" + (f" ({place})" if place else "")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
