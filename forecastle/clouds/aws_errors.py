"""What an error that AWS answered means to the caller; its services spell the same thing in many ways."""

from __future__ import annotations

import re

from botocore.exceptions import ClientError

from forecastle.errors import CloudUnavailable, Conflict, Denied, ForecastleError, NotFound, Permanent, QuotaExceeded

_THROTTLED = re.compile(
    r"Throttl|TooManyRequests|RequestLimitExceeded|BandwidthLimit|PriorRequestNotComplete|SlowDown|ResourceContention"
)
_FAILED = re.compile(r"^Internal|ServerException|Unavailable|RequestTimeout")
_MEANINGS: tuple[tuple[re.Pattern[str], type[Permanent]], ...] = (
    (
        re.compile(
            r"AccessDenied|Unauthorized|AuthFailure|NotAuthorized|ExpiredToken|InvalidClientTokenId|UnrecognizedClient|"
            r"Signature|OptInRequired|MissingAuthenticationToken|InvalidAccessKeyId|Blocked"
        ),
        Denied,
    ),
    (re.compile(r"NotFound|NotActive|InvalidInstanceId|\.Malformed|InvalidDocument"), NotFound),
    (re.compile(r"LimitExceeded|QuotaExceeded|Insufficient\w*(Capacity|Addresses)|MaxSpotInstanceCount"), QuotaExceeded),
    (re.compile(r"InUse|InProgress|Conflict|IncorrectState|IncorrectInstanceState|InvalidState"), Conflict),
)
_WORDS: tuple[tuple[re.Pattern[str], type[Permanent]], ...] = (
    (re.compile(r"not found|no managed instance|unable to describe|not registered", re.I), NotFound),
    (re.compile(r"above max|below min|is not in|not in the correct", re.I), Conflict),
)


def translated(error: ClientError, said: str, *, effect: bool) -> ForecastleError:
    """The error to raise for one of ``said`` (service and operation); ``effect``: the request would have changed the fleet."""
    answer, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, text, status = str(answer.get("Code", "")), str(answer.get("Message", "")), int(meta.get("HTTPStatusCode", 0))
    message = f"{said}: {code}: {text}"
    retry_after = _seconds(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    if _THROTTLED.search(code) or status == 429 or "rate exceeded" in text.lower():
        return CloudUnavailable(message, retry_after=retry_after)
    if _FAILED.search(code) or status >= 500:
        return CloudUnavailable(message, retry_after=retry_after, ambiguous=effect)
    for meanings, where in ((_MEANINGS, code), (_WORDS, text)):
        for pattern, kind in meanings:
            if pattern.search(where):
                return kind(message)
    return Permanent(message)


def _seconds(header: str) -> float:
    try:
        return max(float(header), 0.0)
    except ValueError:
        return 1.0
