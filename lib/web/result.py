"""What a request gets back: a status and a document. Errors take their one public form here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from lib.errors import MigrationFailed, OnwardError, RunFailed
from lib.report.document import progress_dict

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


def error_document(code: str, message: str, **details: Any) -> dict[str, Any]:
    """The form that every error has, whoever sends it."""
    return {"success": False, "error": {"code": code, "message": message, **details}}


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
    """Of a failed migration it also says where and by which SQLSTATE; of a run, how far it came."""
    document = error_document(error.code, error.public_message, **_failure_details(error))
    if isinstance(error, RunFailed):
        document |= progress_dict(error)
    headers = {}
    if error.code in _RETRYABLE_CODES:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return ApiResult(error.http_status, document, headers)


def _failure_details(error: OnwardError) -> dict[str, Any]:
    cause = error.cause
    if not isinstance(cause, MigrationFailed):
        return {}
    failure = cause.failure
    return {
        "version": failure.version,
        "sqlstate": failure.server.sqlstate,
        "constraint": failure.server.constraint,
        "line": failure.line,
    }
