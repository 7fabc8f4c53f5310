"""What a request gets back: a status and a document."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from lib.errors import OnwardError
from lib.report.document import error_document, public_error_dict

RETRY_AFTER_SECONDS = 5
_RETRYABLE_CODES = ("busy", "database_unavailable")
_STARLETTE_CODES = {404: "not_found", 405: "method_not_allowed"}


class ApiResult(NamedTuple):
    """A status code and a document: what HTTP sends and a direct event on Lambda returns."""

    status: int
    document: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


class RequestRefused(HTTPException):
    """The request itself is wrong, or not allowed. Nothing was done."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code


def error_result(error: Exception) -> ApiResult:
    """The public result of an error.

    Its words are fixed. What a server, a driver or an unknown exception said stays out of it,
    because that may hold a URL or a row.
    """
    match error:
        case RequestRefused():
            return _refusal(error, error.code)
        case HTTPException():
            return _refusal(error, _STARLETTE_CODES.get(error.status_code, "invalid_request"))
        case OnwardError():
            return _onward_result(error)
        case _:
            document = error_document(OnwardError.code, OnwardError.public_message)
            return ApiResult(OnwardError.http_status, document)


def _refusal(error: HTTPException, code: str) -> ApiResult:
    document = error_document(code, error.detail)
    return ApiResult(error.status_code, document, error.headers or {})


def _onward_result(error: OnwardError) -> ApiResult:
    headers = {}
    if error.code in _RETRYABLE_CODES:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return ApiResult(error.http_status, public_error_dict(error), headers)
