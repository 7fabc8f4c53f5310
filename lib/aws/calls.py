"""Calls of AWS from a person's machine or a pipeline: clients, and their errors in our words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lib.errors import ConfigError, OnwardError

S3_URL = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.+)")
NO_BOTO3 = """\
To install it:
  python3 -m pip install --require-hashes --only-binary=:all: -r scripts/locks/aws.txt"""
_UNREACHABLE, _UNKNOWN = 5, 6  # exit codes


class CallFailed(OnwardError):
    """AWS did not answer, or did not do what it was asked."""

    def __init__(self, message: str, exit_code: int, *, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.exit_code = exit_code


def client(service: str, region: str | None = None) -> Any:
    """A client of boto3's. Raises ConfigError without boto3, credentials or region."""
    with calling(f"call {service}"):
        import boto3  # noqa: PLC0415 - not in requirements.txt
        from botocore.config import Config  # noqa: PLC0415

        retries = {"mode": "standard", "total_max_attempts": 8}
        return boto3.client(service, region_name=region, config=Config(retries=retries))


@contextmanager
def calling(purpose: str, *, next_step: str = "") -> Iterator[None]:
    """Turn boto3's errors into ours: ConfigError for what AWS refuses, else CallFailed.

    `purpose` completes "cannot"; `next_step` is what to do where AWS does not answer.
    """
    try:
        from botocore import exceptions  # noqa: PLC0415
    except ImportError:
        raise ConfigError("boto3 is not installed", next_step=NO_BOTO3) from None
    try:
        yield
    except exceptions.ClientError as error:
        raise _refused(purpose, error.response, next_step) from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise CallFailed(f"cannot {purpose}: {error}", _UNREACHABLE, next_step=next_step) from None
    except exceptions.BotoCoreError as error:
        raise ConfigError(f"cannot {purpose}: {error}") from None


def _refused(purpose: str, response: Any, next_step: str) -> OnwardError:
    error, status = response["Error"], response["ResponseMetadata"]["HTTPStatusCode"]
    message = f"cannot {purpose}: {error['Code']}: {error.get('Message', '')}".rstrip(": ")
    if status >= 500:
        return CallFailed(message, _UNKNOWN, next_step=next_step)
    return ConfigError(message)


def read_s3(url: str) -> str:
    """The text of an object, by its s3:// URL. Raises ConfigError or CallFailed. Reads only."""
    found = S3_URL.fullmatch(url)
    if not found:
        raise ConfigError(f"{url} is not s3://BUCKET/KEY")
    with calling(f"read {url}"):
        body = client("s3").get_object(Bucket=found["bucket"], Key=found["key"])["Body"].read()
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{url} is not UTF-8 text") from None
