"""What an error that Azure Resource Manager answered, or gave as the end of an operation, means to the caller."""

from __future__ import annotations

import re

from forecastle.errors import CloudUnavailable, Conflict, Denied, ForecastleError, NotFound, Permanent, QuotaExceeded

_MEANINGS: tuple[tuple[re.Pattern[str], type[Permanent]], ...] = (
    (
        re.compile(r"Quota|AllocationFailed|SkuNotAvailable|CapacityNotAvailable|LimitExceeded|OverconstrainedAllocation"),
        QuotaExceeded,
    ),
    (
        re.compile(r"Authorization|Authentication|Forbidden|InvalidToken|ExpiredToken|PolicyViolation|ScopeLocked|Disallowed"),
        Denied,
    ),
    (re.compile(r"NotFound|DoesNotExist"), NotFound),
    (re.compile(r"Preempted|Conflict|InProgress|AnotherOperation|PreconditionFailed|NotAllowed|Canceled"), Conflict),
)
_STATUSES: dict[int, type[Permanent]] = {401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 412: Conflict}
_THROTTLED = re.compile(r"TooManyRequests|Throttl")
_QUOTA_WORDS = re.compile(r"exceed\w* (?:approved |the )?.*quota", re.I)


def translated(
    said: str, status: int, code: str, text: str, *, retry_after: str = "", ambiguous: bool = False
) -> ForecastleError:
    """The error to raise for ``said``, answered with HTTP ``status``, or 0 when ``code`` is how an operation ended.

    ``ambiguous``: the request would have changed the fleet, so that a failure on Azure's side may have come after the effect.
    """
    message = f"{said}: {status or 'operation failed'} {code}: {text}"
    if status == 429 or _THROTTLED.search(code):
        return CloudUnavailable(message, retry_after=_seconds(retry_after))
    if status >= 500 or status == 408:
        return CloudUnavailable(message, retry_after=_seconds(retry_after), ambiguous=ambiguous)
    if _QUOTA_WORDS.search(text):
        return QuotaExceeded(message)
    kind = next((kind for pattern, kind in _MEANINGS if pattern.search(code)), None) or _STATUSES.get(status, Permanent)
    return kind(f"{message}; observe and plan again" if kind is Conflict else message)


def _seconds(header: str) -> float:
    try:
        return max(float(header), 0.0)
    except ValueError:
        return 1.0
