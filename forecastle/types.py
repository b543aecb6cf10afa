"""The nouns that cross a wall between rooms: frozen values, no I/O.

Conventions used everywhere:

* time is an ``int``: milliseconds since the UNIX epoch, UTC (``at``, ``end``, ``now``, ``*_at``);
* durations carry their unit in the name (``step_ms``, ``lead_time_s``);
* batches are columnar (``Samples``, ``Windows``, ``Forecasts``); the singular noun is one row of the batch;
* missing values are NaN in ``values`` and ``False`` in ``mask``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Floats32: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Index: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]


# --- measurements ---------------------------------------------------------------------------------------------------


class SeriesKey(NamedTuple):
    """Identity of one time series. ``labels`` is sorted by name; ``site`` is the label that names a `Site`."""

    workload: str
    metric: str
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str, default: str = "") -> str:
        """Value of the label ``name``, or ``default`` when the series has none."""
        return next((value for key, value in self.labels if key == name), default)

    def __str__(self) -> str:
        inner = ",".join(f'{k}="{v}"' for k, v in self.labels)
        return f"{self.workload}:{self.metric}" + (f"{{{inner}}}" if inner else "")


class Origin(NamedTuple):
    """Where a record came from: the coordinates of one Kafka message."""

    topic: str
    partition: int
    offset: int


class Sample(NamedTuple):
    """One measurement: ``value`` of series ``key`` at event time ``at`` (ms)."""

    key: SeriesKey
    at: int
    value: float
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """A columnar batch of n samples in order of arrival.

    ``keys[index[i]]`` is the series of sample i; ``index`` int32[n], ``at`` int64[n] in ms, ``value`` float64[n] (finite).
    ``partition`` int32[n] is the Kafka partition each sample came from (watermarks are kept per partition).
    """

    keys: tuple[SeriesKey, ...]
    index: Index
    at: Ints
    value: Floats
    partition: Index

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of(cls, *samples: Sample) -> Samples:
        """A batch made of single samples, for tests and small producers."""
        keys = tuple(dict.fromkeys(s.key for s in samples))
        where = {key: i for i, key in enumerate(keys)}
        return cls(
            keys,
            np.array([where[s.key] for s in samples], np.int32),
            np.array([s.at for s in samples], np.int64),
            np.array([s.value for s in samples], np.float64),
            np.array([s.origin.partition if s.origin else 0 for s in samples], np.int32),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an intake has read. Partitions are numbered as in ``Samples.partition``.

    ``assigned`` partitions are this worker's now; ``drained`` ones had nothing more to read at the last poll; ``rebuilding``
    ones still repeat records from before their committed position (history: decided already); ``lag`` counts the unread
    records per partition; ``skew_s`` tells how many seconds a source's clock (``topic/partition``) lately ran ahead at most.
    """

    assigned: frozenset[int]
    drained: frozenset[int]
    rebuilding: frozenset[int] = frozenset()
    lag: Mapping[int, int] = field(default_factory=dict)
    skew_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """The last L steps of one series: ``values`` float32[L], ``mask`` bool[L] (True: observed), ending at ``end`` (ms).

    Slot i covers the event-time interval ``(end - (L - i) * step_ms, end - (L - i - 1) * step_ms]``.
    """

    key: SeriesKey
    end: int
    step_ms: int
    values: Floats32
    mask: Mask


@dataclass(frozen=True, slots=True)
class Windows:
    """One `Window` for each of n series that share ``end`` and ``step_ms``: ``values`` float32[n, L], ``mask`` bool[n, L].

    ``late`` and ``suspect`` are bool[n]: no sample within the staleness limit; data that must not be trusted as demand
    (sudden zero, flat line, counter reset, more than 10x in one step).
    """

    keys: tuple[SeriesKey, ...]
    end: int
    step_ms: int
    values: Floats32
    mask: Mask
    late: Mask
    suspect: Mask

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Window:
        return Window(self.keys[i], self.end, self.step_ms, self.values[i], self.mask[i])


# --- models' answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forecast:
    """Quantile forecast of one series: ``values`` float32[h, q]; row k ends at ``issued_at + (k + 1) * step_ms``."""

    key: SeriesKey
    issued_at: int
    step_ms: int
    quantiles: tuple[float, ...]
    values: Floats32
    model: str


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the fleet has left what its model knows: in ``kind`` ``error`` or ``input``, ``raised`` when it is drift.

    ``share`` of the ``judged`` series score beyond ``most``, and ``limit`` may; 0 judged: too few to tell. ``score`` is that of
    the ``worst`` series: its errors in those of a naive rule, or how far it is out of its range in its usual movement.
    """

    kind: str
    raised: bool
    share: float
    judged: int
    limit: float
    worst: SeriesKey | None
    score: float
    most: float

    def __str__(self) -> str:
        return (
            f"{self.kind} drift: {self.share:.0%} of {self.judged} series are beyond {self.most:g} (limit {self.limit:.0%}), "
            f"worst {self.worst} at {self.score:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Foreknown:
    """An input known beforehand that a model takes, and the range of its values that the model has learned from; 0: nothing."""

    name: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecasts:
    """One `Forecast` for each of n series: ``values`` float32[n, h, q], non-decreasing along q, finite.

    ``model`` names what answered (``name@digest``); ``fallback`` bool[n] marks the rows that the seasonal-naive stand-in
    answered, and ``notes`` says why. ``drift`` is what is looked for of it while a model serves. ``known`` are the inputs
    by which the model was told of the future, in all rows but the stand-in's: see `forecastle.occasions.answered`.
    """

    keys: tuple[SeriesKey, ...]
    issued_at: int
    step_ms: int
    quantiles: tuple[float, ...]
    values: Floats32
    model: str
    fallback: Mask
    notes: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    known: tuple[Foreknown, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Forecast:
        model = "seasonal-naive" if self.fallback[i] else self.model
        return Forecast(self.keys[i], self.issued_at, self.step_ms, self.quantiles, self.values[i], model)


class AnomalyKind(StrEnum):
    """What a departure from the expected looks like."""

    SPIKE = "spike"
    DIP = "dip"
    LEVEL_SHIFT = "level_shift"
    TREND = "trend"
    VARIANCE = "variance"
    FLAT_LINE = "flat_line"
    DROPOUT = "dropout"
    SEASONALITY = "seasonality"
    MULTIVARIATE = "multivariate"


class Severity(StrEnum):
    """How much it matters to the workload's SLO; of one without, how many independent signals there are and how strong."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One series departing from what was expected at ``at`` (ms): ``score`` above ``threshold`` (same unit), with evidence."""

    key: SeriesKey
    at: int
    score: float
    threshold: float
    kind: AnomalyKind
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Incident:
    """Anomalies that belong together: one page, one cause to look for. ``site`` is empty when it spans sites.

    ``signals`` counts independent signals (distinct metrics or detectors); destructive actions need at least two. Incidents of
    one fault have the same ``group``, and people are told of its ``root`` alone: the id of the one where it likely began,
    which may be over already. Both are empty for an incident that is told for itself.
    """

    id: str
    workload: str
    site: str
    severity: Severity
    opened_at: int
    at: int
    anomalies: tuple[Anomaly, ...]
    signals: int
    cause: str = ""
    closed: bool = False
    group: str = ""
    root: str = ""


# --- the fleet ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """A place that holds capacity. Failure domain: ``provider/region/zone``. ``latency_ms``: user population -> its RTT.

    ``capacity`` is what all pools together may hold there, in units of `Pool.size` (None: no limit but their own);
    ``egress_price`` is money per GB that leaves it.
    """

    name: str
    provider: str
    region: str
    zone: str = ""
    residency: frozenset[str] = frozenset()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    capacity: float | None = None
    egress_price: float = 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas of one workload at one site, driven by one cloud adapter. ``unit_price`` is money per replica-hour.

    ``size`` is what a replica takes of `Site.capacity`; ``committed`` replicas are paid whether used or not, each at
    ``committed_price`` (None: ``unit_price``); ``interruptions_h`` is how often an hour a spot replica is taken back. One of
    ``traffic`` holds no replicas of the workload: it is what a load balancer sends to the site. ``egress_h`` is money per hour
    for what a replica sends out, committed or not; `Inventory` sets it, from the workload's GB and the site's price.
    """

    name: str
    workload: str
    site: str
    adapter: str
    unit_price: float
    startup_s: float = 60.0
    min: int = 0
    max: int = 100
    quota: int = 100
    spot: bool = False
    target: Mapping[str, str] = field(default_factory=dict)
    size: float = 1.0
    committed: int = 0
    interruptions_h: float = 0.0
    committed_price: float | None = None
    traffic: bool = False
    egress_h: float = 0.0

    def cost(self, replicas: int) -> float:
        """Money per hour with so many replicas: the committed ones whether used or not, the rest at ``unit_price``; egress."""
        return self.sunk + max(0, replicas - self.committed) * self.unit_price + replicas * self.egress_h

    @property
    def sunk(self) -> float:
        """Money per hour of the commitment, which is paid without a replica too."""
        return self.committed * (self.unit_price if self.committed_price is None else self.committed_price)


class Domain(StrEnum):
    """How much may fail at once: the level of a failure domain that a workload is to survive the loss of."""

    ZONE = "zone"
    REGION = "region"
    PROVIDER = "provider"


class Mode(StrEnum):
    """How far a workload trusts us: recommend only, act after approval, act."""

    SHADOW = "shadow"
    ADVISE = "advise"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Usage:
    """What capacity is learned from: a replica's mean usage ``key``, with ``full`` its value when a replica is full.

    ``replicas`` is the series of ready replicas. What is learned may be ``raise_limit`` times `Demand.per_replica` at most.
    """

    key: SeriesKey
    replicas: SeriesKey
    full: float = 1.0
    raise_limit: float = 1.0


@dataclass(frozen=True, slots=True)
class Service:
    """A replica as ``slots`` servers of a common queue, ``service_s`` seconds a request; demand is requests per second.

    ``latency_s`` bounds the response time, its quantile ``quantile`` or its mean; ``wait`` the share of requests that wait.
    """

    service_s: float
    latency_s: float | None = None
    quantile: float | None = None
    wait: float | None = None
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Demand:
    """A demand metric of a workload and what one ready replica can carry of it (same unit per replica).

    With a `Usage` that number is learned from the windows, with a `Service` the need follows from a latency target; the
    reactive floor stays that of ``per_replica`` unless the usage is allowed to raise it.
    """

    key: SeriesKey
    per_replica: float
    usage: Usage | None = None
    service: Service | None = None

    @property
    def series(self) -> tuple[SeriesKey, ...]:
        """Every series that sizing reads for it."""
        return (self.key,) if self.usage is None else (self.key, self.usage.key, self.usage.replicas)


@dataclass(frozen=True, slots=True)
class Event:
    """A planned occasion in ``[start, end)`` (ms): the forecast times ``factor``, and at least ``replicas``."""

    name: str
    start: int
    end: int
    factor: float = 1.0
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Holidays:
    """Public holidays of ``country`` (ISO 3166-1, ``subdivision`` ISO 3166-2) as events of the local days in ``zone``."""

    country: str
    zone: str
    subdivision: str = ""
    factor: float = 1.0
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective: the ``target`` share of good events, or of good time slices if ``timeslices``.

    ``budget`` is the series that tells the share of the error budget left (1: all of it, 0 and below: none).
    """

    name: str
    target: float
    timeslices: bool = False
    budget: SeriesKey | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that is scaled: its demand metrics (the largest need wins), its objective and its limits.

    ``unmet_price`` is the price of one replica-hour of unmet demand in the unit of `Pool.unit_price`; the quantile to
    provision for follows from the two. ``vetoes`` are series (latency, errors) that veto a scale-in above their limit; of a
    workload with a ``slo`` they are series of that objective. After the loss of any one domain of the level ``survive``,
    ``survive_share`` of the replicas must be left. ``population`` says which share of the demand comes from which users;
    they are served from within ``max_latency_ms``. A replica sends ``egress_gb_h`` GB an hour, costs ``move_price`` to
    start elsewhere, and at most ``spot_share`` of them are on spot. ``events`` and ``holidays`` are occasions known
    beforehand; ``slo`` is what it has promised. ``traffic`` are the pools that are load balancers' shares, of which none is
    in ``pools``.
    """

    name: str
    demands: tuple[Demand, ...]
    pools: tuple[str, ...]
    lead_time_s: float = 180.0
    target_utilization: float = 0.8
    unmet_price: float = 20.0
    min: int = 1
    max: int = 1000
    min_sites: int = 1
    residency: frozenset[str] = frozenset()
    mode: Mode = Mode.SHADOW
    policy: str = "default"
    priority: int = 0
    budget_per_hour: float | None = None
    vetoes: tuple[tuple[SeriesKey, float], ...] = ()
    survive: Domain | None = None
    survive_share: float = 1.0
    population: Mapping[str, float] = field(default_factory=dict)
    max_latency_ms: float | None = None
    egress_gb_h: float = 0.0
    move_price: float = 0.0
    spot_share: float = 0.5
    events: tuple[Event, ...] = ()
    holidays: Holidays | None = None
    slo: Objective | None = None
    traffic: tuple[str, ...] = ()

    @property
    def series(self) -> frozenset[SeriesKey]:
        """Every series a decision about it reads."""
        read = {key for demand in self.demands for key in demand.series} | {key for key, _ in self.vetoes}
        return frozenset(read | ({self.slo.budget} if self.slo is not None and self.slo.budget is not None else set()))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent to a pool: its ``weight`` in percent, 0 when it is drained, and the ``kind`` of action that changes it.

    DRAIN 0 takes all of it away at once and 100 gives back what was; SHIFT sets the weight, in steps where the adapter ramps.
    """

    weight: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Observed:
    """A pool at ``at`` as its cloud tells it: desired ``replicas``, ``ready`` ones, the adapter's ``version`` of that state.

    ``traffic`` is None where the adapter has no weight of the pool as a whole.
    """

    pool: str
    replicas: int
    ready: int
    at: int
    version: str
    release: str = ""
    unhealthy: tuple[str, ...] = ()
    traffic: Traffic | None = None


class Kind(StrEnum):
    """What an action does to its target. The value is what the ledger and the events say."""

    SCALE = "scale"
    RESTART = "restart"
    REPLACE = "replace"
    DRAIN = "drain"
    CORDON = "cordon"
    SHIFT = "shift"
    ROLLBACK = "rollback"
    QUARANTINE = "quarantine"
    NOTIFY = "notify"


DISRUPTIVE = frozenset({Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.CORDON, Kind.SHIFT, Kind.ROLLBACK, Kind.QUARANTINE})


@dataclass(frozen=True, slots=True)
class Playbook:
    """What to do when an incident matches. ``metric``: a glob; empty ``kinds`` match any; ``approval``: class A, B or C."""

    name: str
    metric: str
    kinds: frozenset[AnomalyKind]
    severity: Severity
    action: Kind
    approval: str = "B"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the configuration says there is, by name. ``budget_per_hour`` is money for the whole fleet, None: no limit."""

    sites: Mapping[str, Site]
    pools: Mapping[str, Pool]
    workloads: Mapping[str, Workload]
    playbooks: tuple[Playbook, ...] = ()
    budget_per_hour: float | None = None

    def __post_init__(self) -> None:
        sends = {
            name: self._egress_h(load, name) for load in self.workloads.values() for name in load.pools if name in self.pools
        }
        changed = {name: price for name, price in sends.items() if self.pools[name].egress_h != price}
        if changed:
            priced = {name: replace(self.pools[name], egress_h=price) for name, price in changed.items()}
            object.__setattr__(self, "pools", {**self.pools, **priced})

    def _egress_h(self, load: Workload, pool: str) -> float:
        """Money per hour that a replica of ``load`` costs in ``pool`` by what it sends out."""
        return load.egress_gb_h * self.sites[self.pools[pool].site].egress_price if load.egress_gb_h else 0.0

    def domain(self, pool: str, level: Domain = Domain.ZONE) -> str:
        """Failure domain of a pool: ``provider/region/zone`` of its site, or the part of it down to ``level``."""
        site = self.sites[self.pools[pool].site]
        parts = {Domain.PROVIDER: 1, Domain.REGION: 2, Domain.ZONE: 3}[level]
        return "/".join((site.provider, site.region, site.zone)[:parts])


# --- decisions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action:
    """An absolute desired state of one target with the state it presumes. Never a delta.

    The target is the ``pool``, or one ``replica`` of it. ``desired`` is what ``kind`` asks for: SCALE the replica count,
    RESTART and REPLACE a generation name that the target must have started at or after, ROLLBACK the release to run,
    SHIFT and DRAIN the traffic weight in percent, CORDON, QUARANTINE and NOTIFY a reason in words.
    ``expected`` is the `Observed.replicas` (SCALE) or `Observed.version` that must still hold at the effect.
    ``tick`` is the event time of the decision; the effect is refused after ``deadline`` (ms). ``approval`` is the class its
    playbook asks for (A, B or C), empty when the kind alone decides. ``base`` makes a DRAIN or SHIFT part of a failover, which
    empties a lost site or gives back its traffic: the weight there was before; None: it is none.
    """

    kind: Kind
    workload: str
    pool: str
    desired: int | str
    expected: int | str
    tick: int
    deadline: int
    replica: str = ""
    reason: str = ""
    signals: int = 1
    approval: str = ""
    base: int | None = None

    @property
    def target(self) -> str:
        """What is acted upon: the pool, or ``pool/replica``."""
        return f"{self.pool}/{self.replica}" if self.replica else self.pool

    @property
    def id(self) -> str:
        """Hash of target, kind and decision tick: the same decision replayed is the same action."""
        return digest(self.target, self.kind.value, self.tick)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A guard's no, or its clamp: which guard, about which pool, and why."""

    guard: str
    why: str
    pool: str = ""
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one planning tick wants done in one failure domain, and why. ``cost`` is money per hour after the plan.

    ``evidence`` maps a workload to the numbers behind its sizing (JSON-able). ``recommended`` maps a workload to the
    replicas wanted before guards; the stabilization windows are rebuilt from it. ``approvals`` is how many distinct people
    must approve before any of its actions may take effect.
    """

    id: str
    tick: int
    domain: str
    actions: tuple[Action, ...]
    reason: str
    evidence: Mapping[str, Any]
    refusals: tuple[Refusal, ...]
    recommended: Mapping[str, int]
    cost: float
    expires_at: int
    approvals: int = 0


class Status(StrEnum):
    """How an action ended. Unknown is not success: what could not be read back is UNVERIFIED."""

    APPLIED = "APPLIED"
    ALREADY = "ALREADY"
    DRY_RUN = "DRY_RUN"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    UNVERIFIED = "UNVERIFIED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one action: its status at ``at``, the target's state before and after, and the action's ``base``."""

    action_id: str
    status: Status
    at: int
    pool: str
    kind: Kind
    workload: str = ""
    before: Observed | None = None
    after: Observed | None = None
    detail: str = ""
    base: int | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """An effect that was about to happen: recorded before it at ``at`` under the lease ``epoch``, with the state ``before``."""

    action: Action
    epoch: int
    at: int
    before: Observed | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What applying an action would do, told without doing it."""

    action_id: str
    before: str
    after: str
    noop: bool

    @classmethod
    def of(cls, action: Action, observed: Observed) -> Change:
        """By the action alone: replicas for SCALE, the release for ROLLBACK, else the version."""
        states = {Kind.SCALE: str(observed.replicas), Kind.ROLLBACK: observed.release}
        before, after = states.get(action.kind, observed.version), str(action.desired)
        return cls(action.id, before, after, noop=before == after)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A cloud's answer to apply: what it claims. Only a read-back makes it an outcome."""

    action_id: str
    already: bool
    detail: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Replicas wanted for a workload at ``at``, before guards."""

    workload: str
    at: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Growth of ``pool`` was first seen to be all ready at ``at`` (ms), ``lag_s`` seconds after its order took effect."""

    action_id: str
    pool: str
    at: int
    lag_s: float


@dataclass(frozen=True, slots=True)
class Drained:
    """A pool that a failover emptied: the traffic weight ``base`` to give back, and the one it was ``left`` with.

    ``left`` is None where that could not be read.
    """

    base: int
    left: int | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything outside the forecasts that a decision depends on, taken before deciding, so that a replay sees the same.

    ``observed`` by pool; ``outcomes`` and ``recommendations`` of the recent past, oldest first; ``in_flight`` pools with an
    unfinished intent; ``held`` workloads or pools a human holds; ``killed`` the kill switch's reason, empty when off;
    ``modes`` overrides of `Workload.mode`; ``down`` sites that a person reported down; ``started_at`` when this worker's
    configuration and model took effect; ``panicked_at`` the newest tick whose plan has a refusal of the guard ``panic``;
    ``readied`` how long recent growth took to be ready, oldest first; ``reports`` who reported a site down and why;
    ``drained`` pools whose traffic a failover took away and nobody has given back.
    """

    at: int
    observed: Mapping[str, Observed]
    outcomes: tuple[Outcome, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    in_flight: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    killed: str = ""
    modes: Mapping[str, Mode] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    started_at: int = 0
    panicked_at: int = 0
    readied: tuple[Readiness, ...] = ()
    reports: Mapping[str, str] = field(default_factory=dict)
    drained: Mapping[str, Drained] = field(default_factory=dict)


def digest(*parts: object) -> str:
    """32 hex digits of SHA-256 over the parts' text, separated so that ('ab', 'c') and ('a', 'bc') differ."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Situation:
    """All a decision is made from at ``tick`` (event time, ms); recorded, so that a replay decides the same.

    ``windows`` are those closed at ``tick`` and ``forecasts`` were issued from them; ``incidents`` are the open ones.
    """

    tick: int
    windows: Windows
    forecasts: Forecasts
    incidents: tuple[Incident, ...]
    fleet: Fleet
