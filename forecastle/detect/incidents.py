"""Anomalies that belong together become one incident: one page, one cause to look for.

Grouping is by workload and site; when most workloads of one site go silent together the site is the incident (workload
``*``), and when the whole fleet does, the sensor is: that incident has no signal to heal on. An incident is named by
where and when it opened, so a replay that reaches back to its opening gives it the same name.

An incident's type is settled by what became of it: a level that stayed outranks the spike it began with, and what came back is
named for how long and how far it was away. A return settles the type; it neither opens an incident nor keeps one open.

What others told us (its evidence names a ``witness``) joins in: one witness is one signal however much it says, and what it
does not say any more is over.

Incidents stay apart by workload and site, because that is what is healed; those of one fault share a group (`faults`). A
possible threat, and what goes silent as a whole, are in none: nothing else may hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forecastle.detect.causes import Cause, Place, Sign, ranked, reachable, sign_of
from forecastle.detect.faults import Calls, Fault, Trouble, groups, rooted
from forecastle.detect.promises import Promises, Standing
from forecastle.detect.rollouts import Rollout, suspect
from forecastle.detect.threats import marked, threatening
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, SeriesKey, Severity, Windows, Workload

SITE_SHARE = 0.6
"""Share of a site's workloads whose silence makes the site the incident."""
_LEAST_WORKLOADS = 3
_FLEET_SHARE = 0.8
_KEPT = 64
_SIGNS = 256
_GROUPS = {
    "residual": "history",
    "rate": "history",
    "level": "history",
    "variance": "history",
    "forecast": "forecast",
    "model": "model",
    "ramp": "history",
    "excursion": "history",
    "lasting": "history",
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
_UNSETTLED = {AnomalyKind.TREND, AnomalyKind.LEVEL_SHIFT, AnomalyKind.VARIANCE, AnomalyKind.SPIKE, AnomalyKind.DIP}
"""What a departure may be called until it comes back."""


@dataclass(slots=True)
class _Case:
    """An incident in the making: its newest anomaly per series and kind."""

    workload: str
    site: str
    opened_at: int
    last_at: int
    sensor: bool = False
    ticks: int = 1
    seen: dict[tuple[SeriesKey, AnomalyKind], Anomaly] = field(default_factory=dict)
    group: Fault | None = None
    standing: Standing = field(default_factory=Standing)

    @property
    def who(self) -> Fault:
        """Its name among the incidents of a fault."""
        return Fault(self.opened_at, self.workload, self.site)

    @property
    def alone(self) -> bool:
        """Whether it is told for itself whatever else is wrong."""
        return self.workload == "*" or any(threatening(a) for a in self.seen.values())


class IncidentBook:
    """The open incidents; ``closed`` has those that the last update ended.

    ``workloads`` are those of the inventory; ``rollouts`` tells for a tick (ms) which changes of release were seen before it.
    """

    def __init__(
        self,
        settings: DetectSettings,
        workloads: Mapping[str, Workload] | None = None,
        rollouts: Callable[[int], Sequence[Rollout]] = lambda _tick: (),
    ) -> None:
        self.settings = settings
        self.closed: tuple[Incident, ...] = ()
        self._cases: dict[tuple[str, str], _Case] = {}
        self._calls = Calls(settings.topology, {name: load.residency for name, load in (workloads or {}).items()})
        self._promises = Promises(workloads or {})
        self._rollouts = rollouts
        self._roots: dict[Fault, Fault] = {}

    def update(self, anomalies: Sequence[Anomaly], now: int, windows: Windows | None = None) -> tuple[Incident, ...]:
        """Take in the anomalies of tick ``now`` (ms), and how objectives fare in its ``windows``.

        Returns the open incidents, oldest first. Without windows no objective is seen.
        """
        touched: set[tuple[str, str]] = set()
        for anomaly in (marked(anomaly, self.settings.threats) for anomaly in anomalies):
            place = self._place(anomaly, now)
            if came_back(anomaly):
                if place in self._cases:
                    self._cases[place].seen[anomaly.key, anomaly.kind] = anomaly
                continue
            case = self._cases.setdefault(place, _Case(*place, now, now, _fleet_wide(anomaly)))
            case.seen.pop((anomaly.key, anomaly.kind), None)
            case.seen[anomaly.key, anomaly.kind] = anomaly
            case.last_at = now
            touched.add(place)
        over = [place for place, case in self._cases.items() if _withdraw(case, now)]
        for place in touched:
            self._cases[place].ticks += 1
        if windows is not None:
            self._look(windows, now)
        quiet = over + [
            p for p, case in self._cases.items() if p not in over and now - case.last_at >= self.settings.close_s * 1000
        ]
        self.closed = tuple(self._incident(self._cases[place], now, closed=True) for place in quiet)
        for place in quiet:
            del self._cases[place]
        self._group()
        ordered = sorted(self._cases.values(), key=lambda case: (case.opened_at, case.workload, case.site))
        return tuple(self._incident(case, now) for case in ordered)

    def _look(self, windows: Windows, now: int) -> None:
        """See how the objectives of the open cases fare."""
        for case in self._cases.values():
            readings = self._promises.readings(case.workload, case.site, windows)
            case.standing.look(readings, now, int(self.settings.group_s * 1000))

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

    def _group(self) -> None:
        """Put the open cases of one fault together, and find where each fault began."""
        if not self.settings.topology:
            return
        cases = {case.who: case for case in self._cases.values()}
        found = groups(
            [Trouble(who, case.last_at, case.group) for who, case in cases.items() if not case.alone],
            self._calls,
            int(self.settings.group_s * 1000),
        )
        members: dict[Fault, list[Fault]] = {}
        for who, case in cases.items():
            case.group = found.get(who)
            if case.group is not None:
                members.setdefault(case.group, []).append(who)
        held = {group: root for group, root in self._roots.items() if root not in cases or cases[root].group == group}
        self._roots = {
            group: rooted(held.get(group), self._ranked_of([cases[w] for w in whose]), whose, self._calls)
            for group, whose in members.items()
        }

    def _incident(self, case: _Case, now: int, *, closed: bool = False) -> Incident:
        recent = self._recent(case)
        lead = self._lead(case, recent)
        earlier = (a for a in case.seen.values() if (threatening(a) or a is lead) and a not in recent)
        anomalies = (*recent, *earlier)[-_KEPT:]
        signals = 0 if case.sensor else _signals(recent)
        causes = () if case.sensor else self._ranked(case)
        return Incident(
            case.who.incident,
            case.workload,
            case.site,
            _severity(case, recent, signals),
            case.opened_at,
            now if closed else case.last_at,
            _blamed(anomalies, causes),
            signals,
            self._cause(case, recent, lead) + self._objective(case) + self._change(case, now) + _origin(case, causes),
            closed,
            case.group.group if case.group is not None else "",
            self._roots[case.group].incident if case.group is not None else "",
        )

    def _objective(self, case: _Case) -> str:
        return case.standing.words(self._promises.words(case.workload))

    def _change(self, case: _Case, now: int) -> str:
        """The change of release that came shortly before it."""
        found = suspect(self._rollouts(now), case.workload, case.site, case.opened_at)
        return f"; {found}" if found is not None else ""

    def _recent(self, case: _Case) -> tuple[Anomaly, ...]:
        within = self.settings.group_s * 1000
        return tuple(a for a in case.seen.values() if a.at >= case.last_at - within)[-_KEPT:]

    def _lead(self, case: _Case, recent: Sequence[Anomaly]) -> Anomaly:
        """What names the incident: of the series that speak now, all that they said since it opened; threats first."""
        if threats := {a.key.metric for a in recent if threatening(a)}:
            return leading([a for a in recent if a.key.metric in threats])
        speaking = {a.key for a in recent}
        return leading([a for a in case.seen.values() if a.key in speaking])

    def _ranked(self, case: _Case) -> tuple[Cause, ...]:
        """Places of this incident and of what its workloads call, if that is in trouble at the same time."""
        called = reachable({key.workload for key, _ in case.seen}, self.settings.topology)
        signs = [sign_of(a) for a in self._recent(case)]
        for other in self._cases.values():
            if other is not case and other.workload in {"*", *called} and self._meets(case, other):
                signs += [sign_of(a) for a in self._recent(other) if a.key.workload in called]
        return ranked(_largest(signs), self.settings.topology)

    def _ranked_of(self, cases: Sequence[_Case]) -> tuple[Cause, ...]:
        """Places of several incidents together."""
        signs = [sign_of(a) for case in cases for a in self._recent(case)]
        return ranked(_largest(signs), self.settings.topology)

    def _meets(self, case: _Case, other: _Case) -> bool:
        within = self.settings.group_s * 1000
        return not other.sensor and other.opened_at <= case.last_at + within and other.last_at >= case.opened_at - within

    def _cause(self, case: _Case, anomalies: Sequence[Anomaly], lead: Anomaly) -> str:
        if case.sensor:
            return "the whole fleet went silent at once: suspect the sensor, heal nothing"
        if case.workload == "*":
            names = sorted({a.key.workload for a in anomalies})
            return f"site {case.site}: {len(names)} workloads silent together ({', '.join(names[:5])})"
        class_ = "possible threat: " if any(threatening(a) for a in anomalies) else ""
        if told := lead.evidence.get("summary"):
            return f"{class_}{lead.key.metric}: {told}"
        expected, actual = lead.evidence.get("expected"), lead.evidence.get("actual")
        text = f"{class_}{lead.key.metric} {lead.kind.value.replace('_', ' ')}"
        if actual is not None and expected is not None:
            text += f": {actual:.6g} where {expected:.6g} was expected"
        adopted = max((a.evidence.get("adopted_s", 0) for a in anomalies), default=0)
        return text + (f"; not back after {adopted / 3600:.3g} h: taken for the new normal" if adopted else "")


def _largest(signs: Sequence[Sign]) -> list[Sign]:
    return sorted(signs, key=lambda sign: (-sign.size, sign))[:_SIGNS]


def came_back(anomaly: Anomaly) -> bool:
    """Whether it tells that something came back to what it was before."""
    return "excursion" in anomaly.evidence.get("families", ())


def leading(anomalies: Sequence[Anomaly]) -> Anomaly:
    """The anomaly that names an incident: the worst kind of what is settled, then the strongest."""
    settled = {a.key: a.at for a in anomalies if came_back(a)}
    kept = [a for a in anomalies if a.at >= settled.get(a.key, a.at) or a.kind not in _UNSETTLED]
    return min(kept, key=lambda a: (_PRECEDENCE.index(a.kind), -a.score / max(a.threshold, 1e-9), str(a.key)))


def _origin(case: _Case, causes: Sequence[Cause]) -> str:
    """Where it likely began, when that says more than the workload's and the site's name."""
    if not causes:
        return ""
    first = causes[0]
    if first.place._replace(site=case.site) == Place(case.workload, "", case.site):
        return ""
    metrics = f" ({', '.join(first.metrics)})" if first.place.workload != case.workload else ""
    return f"; likely began in {first.place}{metrics}, {first.share:.0%} of the blame"


def _blamed(anomalies: Sequence[Anomaly], causes: Sequence[Cause]) -> tuple[Anomaly, ...]:
    """The anomalies, each with the share of blame of its place where there is more than one."""
    if len(causes) < 2:
        return tuple(anomalies)
    share = {cause.place: round(cause.share, 4) for cause in causes}
    return tuple(replace(a, evidence={**a.evidence, "blame": share.get(Place.of(a.key), 0.0)}) for a in anomalies)


def _withdraw(case: _Case, now: int) -> bool:
    """Take out what its witness no longer says. True when nothing else was wrong: then it stays in, and the case is over."""
    gone = [key for key, a in case.seen.items() if "witness" in a.evidence and a.at < now]
    if len(gone) == len(case.seen):
        return True
    for key in gone:
        del case.seen[key]
    if gone:
        left = [a.at for a in case.seen.values() if not came_back(a)] or [a.at for a in case.seen.values()]
        case.last_at = min(case.last_at, max(left))
    return False


def _signals(anomalies: Sequence[Anomaly]) -> int:
    """Independent witnesses: distinct metrics (of distinct workloads), or unrelated detectors agreeing on one."""
    metrics = {("", a.evidence["witness"]) if "witness" in a.evidence else (a.key.workload, a.key.metric) for a in anomalies}
    groups: dict[tuple[str, str], set[str]] = {}
    for a in anomalies:
        names = a.evidence.get("families") or [a.kind.value]
        groups.setdefault((a.key.workload, a.key.metric), set()).update(_GROUPS.get(name, name) for name in names)
    return max(len(metrics), max((len(g) for g in groups.values()), default=0))


def _severity(case: _Case, anomalies: Sequence[Anomaly], signals: int) -> Severity:
    if case.sensor:
        return Severity.WARNING
    claimed = [Severity(a.evidence["severity"]) for a in anomalies if "witness" in a.evidence]
    own = _promised(case, _judged(case, [a for a in anomalies if "witness" not in a.evidence], signals))
    return max(own, *claimed, key=list(Severity).index) if claimed else own


def _promised(case: _Case, own: Severity) -> Severity:
    """What was measured as it matters to the objective. That it is met says nothing of an attack."""
    if case.standing.missed:
        return Severity.CRITICAL
    capped = case.standing.met and own is Severity.CRITICAL and not case.alone
    return Severity.WARNING if capped else own


def _judged(case: _Case, anomalies: Sequence[Anomaly], signals: int) -> Severity:
    """By what was measured."""
    if not anomalies:
        return Severity.INFO
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
