"""What an error that Google Cloud answered means to the caller, whether in an HTTP answer or in a finished operation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from forecastle.errors import CloudUnavailable, Conflict, Denied, ForecastleError, NotFound, Permanent, QuotaExceeded

_THROTTLED = re.compile(r"rateLimitExceeded|userRateLimitExceeded|RATE_LIMIT_EXCEEDED|concurrentLimitExceeded")
_QUOTA = re.compile(r"quotaExceeded|QUOTA_EXCEEDED|limitExceeded|RESOURCE_POOL_EXHAUSTED|STOCKOUT|IP_SPACE_EXHAUSTED")
_MEANINGS: tuple[tuple[re.Pattern[str], type[Permanent]], ...] = (
    (re.compile(r"notFound|NOT_FOUND"), NotFound),
    (re.compile(r"conditionNotMet|CONDITION_NOT_MET|ABORTED"), Conflict),
    (
        re.compile(r"resourceNotReady|RESOURCE_NOT_READY|resourceInUse|RESOURCE_IN_USE|failedPrecondition|FAILED_PRECONDITION"),
        Conflict,
    ),
    (re.compile(r"PERMISSION|FORBIDDEN|forbidden|UNAUTHENTICATED"), Denied),
)
_REFUSED: Mapping[int, type[Permanent]] = {401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 410: NotFound}


class Stale(Conflict):
    """The fingerprint or etag was not the newest: nothing was done; read again and judge again."""


def translated(status: int, error: Mapping[str, Any], said: str, *, effect: bool, retry_after: float = 1.0) -> ForecastleError:
    """The error to raise for the answer ``status`` with its ``error`` object; ``effect``: the fleet would have changed."""
    codes = " ".join([str(error.get("status", "")), *(str(e.get("reason", "")) for e in error.get("errors", ()))])
    codes += " " + " ".join(str(d.get("reason", "")) for d in error.get("details", ()))
    message = f"{said}: {status} {codes.strip()}: {error.get('message', '')}"
    if _QUOTA.search(codes):
        return QuotaExceeded(message)
    if status == 429 or _THROTTLED.search(codes):
        return CloudUnavailable(message, retry_after=retry_after)
    if status == 408 or status >= 500:
        return CloudUnavailable(message, retry_after=retry_after, ambiguous=effect)
    if status == 412 or (status == 409 and "ABORTED" in codes):
        return Stale(f"{message}; observe and plan again")
    return _meant(codes, message) or _REFUSED.get(status, Permanent)(message)


def operation_error(operation: Mapping[str, Any], said: str) -> ForecastleError | None:
    """What went wrong in a finished operation of any of the APIs, None when nothing did."""
    error = operation.get("error")
    if not error:
        return None
    codes = " ".join(str(e.get("code", "")) for e in error.get("errors", ())) or _GRPC.get(int(error.get("code", 0)), "")
    texts = "; ".join(str(e.get("message", "")) for e in error.get("errors", ())) or str(error.get("message", ""))
    status = int(operation.get("httpErrorStatusCode", 0))
    message = f"{said}: {codes}: {texts}"
    if _QUOTA.search(codes) or "RESOURCE_EXHAUSTED" in codes:
        return QuotaExceeded(message)
    return _meant(codes, message) or _REFUSED.get(status, Permanent)(message)


_GRPC = {5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 10: "ABORTED"}


def _meant(codes: str, message: str) -> Permanent | None:
    return next((kind(message) for pattern, kind in _MEANINGS if pattern.search(codes)), None)
