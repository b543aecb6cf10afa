"""Anomalies that belong together become one incident: one page, one cause to look for.

Grouping is by workload and site; when most workloads of one site go silent together the site is the incident (workload
``*``), and when the whole fleet does, the sensor is: that incident has no signal to heal on. An incident is named by
where and when it opened, so a replay that reaches back to its opening gives it the same name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, Severity, digest

SITE_SHARE = 0.6
"""Share of a site's workloads whose silence makes the site the incident."""
_LEAST_WORKLOADS = 3
_FLEET_SHARE = 0.8
_KEPT = 64
_GROUPS = {
    "residual": "history",
    "rate": "history",
    "level": "history",
    "variance": "history",
    "forecast": "forecast",
    "model": "model",
    "trend": "trend",
    "flat": "silence",
    "dropout": "silence",
}
_PRECEDENCE = (
    AnomalyKind.DROPOUT,
    AnomalyKind.TREND,
    AnomalyKind.LEVEL_SHIFT,
    AnomalyKind.FLAT_LINE,
    AnomalyKind.VARIANCE,
    AnomalyKind.SPIKE,
    AnomalyKind.DIP,
    AnomalyKind.MULTIVARIATE,
    AnomalyKind.SEASONALITY,
)


@dataclass(slots=True)
class _Case:
    """An incident in the making: its newest anomaly per metric, site and kind."""

    workload: str
    site: str
    opened_at: int
    last_at: int
    sensor: bool = False
    ticks: int = 1
    seen: dict[tuple[str, str, str, AnomalyKind], Anomaly] = field(default_factory=dict)


class IncidentBook:
    """The open incidents; ``closed`` has those that the last update ended."""

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self.closed: tuple[Incident, ...] = ()
        self._cases: dict[tuple[str, str], _Case] = {}
        self._changes: deque[tuple[int, str, str]] = deque(maxlen=256)

    def note_change(self, at: int, workload: str, text: str) -> None:
        """Something about ``workload`` changed at ``at`` (ms); a later incident of it names the change as a suspect."""
        self._changes.append((at, workload, text))

    def update(self, anomalies: Sequence[Anomaly], now: int) -> tuple[Incident, ...]:
        """Take in the anomalies of tick ``now`` (ms). Returns the open incidents, oldest first."""
        touched: set[tuple[str, str]] = set()
        for anomaly in anomalies:
            place = self._place(anomaly, now)
            case = self._cases.setdefault(place, _Case(*place, now, now, _fleet_wide(anomaly)))
            key = anomaly.key
            case.seen.pop((key.workload, key.metric, key.label("site"), anomaly.kind), None)
            case.seen[key.workload, key.metric, key.label("site"), anomaly.kind] = anomaly
            case.last_at = now
            touched.add(place)
        for place in touched:
            self._cases[place].ticks += 1
        quiet = [p for p, case in self._cases.items() if now - case.last_at >= self.settings.close_s * 1000]
        self.closed = tuple(self._incident(self._cases.pop(place), now, closed=True) for place in quiet)
        ordered = sorted(self._cases.values(), key=lambda case: (case.opened_at, case.workload, case.site))
        return tuple(self._incident(case, now) for case in ordered)

    def _place(self, anomaly: Anomaly, now: int) -> tuple[str, str]:
        site = anomaly.key.label("site")
        if _fleet_wide(anomaly):
            return "*", ""
        if _site_wide(anomaly):
            return "*", site
        ongoing = self._cases.get(("*", site)) if site else None
        if ongoing is not None and now - ongoing.last_at <= self.settings.group_s * 1000:
            return "*", site
        return anomaly.key.workload, site

    def _incident(self, case: _Case, now: int, *, closed: bool = False) -> Incident:
        within = self.settings.group_s * 1000
        anomalies = tuple(a for a in case.seen.values() if a.at >= case.last_at - within)[-_KEPT:]
        signals = 0 if case.sensor else _signals(anomalies)
        return Incident(
            digest("incident", case.workload, case.site, case.opened_at),
            case.workload,
            case.site,
            _severity(case, anomalies, signals),
            case.opened_at,
            now if closed else case.last_at,
            anomalies,
            signals,
            self._cause(case, anomalies),
            closed,
        )

    def _cause(self, case: _Case, anomalies: Sequence[Anomaly]) -> str:
        if case.sensor:
            return "the whole fleet went silent at once: suspect the sensor, heal nothing"
        if case.workload == "*":
            names = sorted({a.key.workload for a in anomalies})
            return f"site {case.site}: {len(names)} workloads silent together ({', '.join(names[:5])})"
        lead = min(anomalies, key=lambda a: (_PRECEDENCE.index(a.kind), -a.score / max(a.threshold, 1e-9), str(a.key)))
        expected, actual = lead.evidence.get("expected"), lead.evidence.get("actual")
        text = f"{lead.key.metric} {lead.kind.value.replace('_', ' ')}"
        if actual is not None and expected is not None:
            text += f": {actual:.6g} where {expected:.6g} was expected"
        before = case.opened_at - int(self.settings.close_s * 1000) * 4
        recent = [what for at, who, what in self._changes if who == case.workload and before <= at <= case.last_at]
        return f"{text}; {recent[-1]} shortly before" if recent else text


def _signals(anomalies: Sequence[Anomaly]) -> int:
    """Independent witnesses: distinct metrics (of distinct workloads), or unrelated detectors agreeing on one."""
    metrics = {(a.key.workload, a.key.metric) for a in anomalies}
    groups: dict[tuple[str, str], set[str]] = {}
    for a in anomalies:
        names = a.evidence.get("families") or [a.kind.value]
        groups.setdefault((a.key.workload, a.key.metric), set()).update(_GROUPS.get(name, name) for name in names)
    return max(len(metrics), max((len(g) for g in groups.values()), default=0))


def _severity(case: _Case, anomalies: Sequence[Anomaly], signals: int) -> Severity:
    if case.sensor:
        return Severity.WARNING
    strong = any(a.score > 2 * a.threshold for a in anomalies)
    if case.workload == "*" or (signals >= 2 and strong):
        return Severity.CRITICAL
    return Severity.INFO if case.ticks <= 2 and signals < 2 and not strong else Severity.WARNING


def _site_wide(anomaly: Anomaly) -> bool:
    e = anomaly.evidence
    return bool(
        anomaly.key.label("site")
        and e.get("lost", 0.0) > 0
        and e.get("site_lost", 0.0) >= SITE_SHARE
        and e.get("site_workloads", 0.0) >= _LEAST_WORKLOADS
    )


def _fleet_wide(anomaly: Anomaly) -> bool:
    e = anomaly.evidence
    everywhere = e.get("fleet_lost", 0.0) >= _FLEET_SHARE and e.get("site_workloads", 0.0) >= _LEAST_WORKLOADS
    return bool(e.get("lost", 0.0) > 0 and everywhere)
