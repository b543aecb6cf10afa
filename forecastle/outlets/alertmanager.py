"""What Alertmanager and signed webhooks say, read into signals. It is data from outside: typed, bounded, and never obeyed.

Alerts that Forecastle sent itself come back through Alertmanager; an echo is no witness and is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, TypeVar

import msgspec

from forecastle.errors import Malformed
from forecastle.outlets.signals import Signal
from forecastle.types import AnomalyKind, Severity, digest

T = TypeVar("T")
ECHO = "forecastle"
"""Value of the label ``origin`` of alerts that Forecastle sends."""

DEEPEST = 32
LONGEST_TEXT = 200
_SEVERITIES = {"critical": Severity.CRITICAL, "page": Severity.CRITICAL, "info": Severity.INFO, "none": Severity.INFO}
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class Heard(NamedTuple):
    """The signals of one message, and how many parts of it were passed over for which reason."""

    signals: tuple[Signal, ...]
    ignored: Mapping[str, int]


class _Alert(msgspec.Struct):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    fingerprint: str
    annotations: dict[str, str] = {}


class _Notification(msgspec.Struct):
    version: Literal["4"]
    alerts: list[_Alert]


class _Told(msgspec.Struct):
    workload: str
    alert: str
    site: str = ""
    severity: str = "warning"
    summary: str = ""
    kind: AnomalyKind | None = None


class _Webhook(msgspec.Struct):
    type: str
    data: msgspec.Raw


RAISED, CLEARED = "signal.raised", "signal.cleared"

Refuse = Callable[[Signal], str]
"""Why a signal is not for us, '' when it is."""


def notification(body: bytes, kinds: Mapping[str, AnomalyKind], at: int, refuse: Refuse) -> Heard:
    """The signals of an Alertmanager webhook (version 4) that came at ``at`` (ms). Raises Malformed.

    ``kinds`` maps globs on the alert's name to what it looks like; the first that matches decides.
    """
    message = decoded(body, _Notification)
    signals: list[Signal] = []
    ignored: dict[str, int] = {}
    for alert in message.alerts:
        name = plain(alert.labels.get("alertname", ""))
        signal = Signal(
            f"alertmanager/{alert.fingerprint[:64]}",
            name,
            alert.labels.get("workload", ""),
            alert.labels.get("site", ""),
            severity(alert.labels.get("severity", "")),
            kind_of(name, kinds),
            alert.status == "firing",
            at,
            "alertmanager",
            plain(alert.annotations.get("summary") or alert.annotations.get("description", "")),
        )
        why = "echo" if _echo(alert.labels) else refuse(signal)
        if why:
            ignored[why] = ignored.get(why, 0) + 1
        else:
            signals.append(signal)
    return Heard(tuple(signals), ignored)


def webhook(body: bytes, kinds: Mapping[str, AnomalyKind], at: int, refuse: Refuse) -> Heard:
    """The signal of a Standard Webhooks body ``{"type", "timestamp", "data"}``. Raises Malformed.

    Types are ``signal.raised`` and ``signal.cleared``, data ``{"workload", "alert", "site", "severity", "summary", "kind"}``
    of which the first two are a must; what is of another type is passed over, as the specification asks for.
    """
    message = decoded(body, _Webhook)
    if message.type not in {RAISED, CLEARED}:
        return Heard((), {"type unknown": 1})
    told = decoded(bytes(message.data), _Told)
    name = plain(told.alert)
    signal = Signal(
        f"webhook/{digest(told.workload, told.site, name)}",
        name,
        told.workload,
        told.site,
        severity(told.severity),
        told.kind or kind_of(name, kinds),
        message.type == RAISED,
        at,
        "webhook",
        plain(told.summary),
    )
    why = refuse(signal)
    return Heard((), {why: 1}) if why else Heard((signal,), {})


def decoded(body: bytes, kind: type[T]) -> T:
    """``body`` as ``kind``. Raises Malformed for what is no JSON, too deep, or of another shape."""
    depth = 0
    for token in _TOKENS.finditer(body):
        depth += (token.lastindex == 1) - (token.lastindex == 2)
        if depth > DEEPEST:
            raise Malformed("too_deep", f"more than {DEEPEST} levels")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Malformed("wrong_shape", plain(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("not_json", plain(str(error))) from error


def kind_of(name: str, kinds: Mapping[str, AnomalyKind]) -> AnomalyKind:
    """What an alert of this name looks like; a level shift when nothing says otherwise."""
    return next((kind for glob, kind in kinds.items() if fnmatchcase(name, glob)), AnomalyKind.LEVEL_SHIFT)


def severity(label: str) -> Severity:
    """By the customary values of the label; one that is not known is a warning."""
    return _SEVERITIES.get(label.lower(), Severity.WARNING)


def plain(text: str) -> str:
    """Text from outside in one printable line of bounded length; marks that turn the reading direction are taken out."""
    return _UNPRINTABLE.sub(" ", text[: 4 * LONGEST_TEXT]).strip()[:LONGEST_TEXT]


def _echo(labels: Mapping[str, str]) -> bool:
    return labels.get("origin") == ECHO or labels.get("alertname", "").startswith("Forecastle")
