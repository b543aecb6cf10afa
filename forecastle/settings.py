"""Every knob, one class per room; each field says its unit, the reason for its default, and the default.

Values come, later ones winning, from ``configs/base.yaml``, the files given with ``--config``, the environment
(``FORECASTLE_GUARDS__STEP_UP_FRACTION=0.5``) and flags (``--set guards.step_up_fraction=0.5``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from forecastle.types import Mode

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]


class Room(BaseModel):
    """Base of every settings class: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class IntakeSettings(Room):
    """Kafka in."""

    bootstrap: str = Field("127.0.0.1:9092", description="host:port list of the brokers")
    topics: tuple[str, ...] = Field(("metrics",), description="topics to consume; the codec of each follows from `codecs`")
    codecs: dict[str, str] = Field({"metrics": "json", "otlp_metrics": "otlp_proto"}, description="topic -> codec name")
    group: str = Field("forecastle", description="consumer group; workers of one group share the partitions")
    instance: str = Field("forecastle-0", description="static membership id, stable and unique per worker")
    dead_letter_topic: str = Field("forecastle.dead-letters", description="where refused records go, with origin and reason")
    max_poll_records: int = Field(20_000, gt=0, description="records per poll; bounds the latency and memory of one batch")
    max_skew_s: Positive = Field(60.0, description="seconds a sample may lie in the future; more is a broken clock")
    max_series: int = Field(50_000, gt=0, description="series per tenant; a cardinality explosion is dead-lettered beyond")
    align_s: Positive = Field(900.0, description="seconds of event time a partition may run ahead of the slowest; bounds memory")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT is accepted for loopback brokers only"
    )
    sasl_mechanism: str | None = Field(None, description="SCRAM-SHA-512, PLAIN or OAUTHBEARER")
    sasl_username: str | None = Field(None, description="SASL user")
    sasl_password: SecretStr | None = Field(None, description="SASL password; give it by environment")
    ssl_cafile: str | None = Field(None, description="CA bundle that signs the brokers' certificates")


class WindowSettings(Room):
    """Samples to windows."""

    step_s: Positive = Field(60.0, description="seconds per slot and per tick: the field's usual scrape and planning step")
    look_back: int = Field(2880, gt=0, description="slots kept per series: two days of minutes, what the models look back on")
    lateness_s: float = Field(5.0, ge=0, description="seconds the watermark trails the newest event time")
    idle_s: Positive = Field(30.0, description="wall seconds after which a drained partition stops holding the watermark back")
    stale_s: Positive = Field(180.0, description="seconds without a sample after which a series counts as late")
    dark_s: Positive = Field(300.0, description="seconds without data after which DATA_DARK is paged")
    jump: Positive = Field(10.0, description="ratio between neighbouring steps beyond which data is suspect")
    flat_slots: int = Field(30, gt=1, description="identical slots of a normally moving series before it is suspect")


class PredictSettings(Room):
    """Forecasting in the serving path."""

    model: str = Field("forecaster", description="registered model name; empty serves seasonal naive alone")
    alias: str = Field("champion", description="registry alias to follow")
    registry: str = Field("", description="MLflow tracking URI or a directory of artifacts; empty: no registry")
    poll_s: Positive = Field(30.0, description="wall seconds between looks at the alias; a look costs about 50 ms")
    cache: str = Field(".forecastle/models", description="folder where pulled models are kept by digest")
    season: int = Field(1440, gt=0, description="slots of the main cycle for the seasonal-naive fallback: a day of minutes")
    horizon: int = Field(30, gt=0, description="steps forecast by the fallback; at least the longest lead time")
    max_ratio: Positive = Field(10.0, description="output gate: forecasts beyond this times the window's largest value are refused")
    strikes: int = Field(3, gt=0, description="consecutive refused batches before the alias is rolled back")
    timeout_s: Positive = Field(2.0, description="seconds one batch may take before the fallback answers")
    coverage_window: int = Field(240, gt=0, description="ticks of past forecasts that calibrate the quantiles")


class DetectSettings(Room):
    """Anomalies and incidents."""

    model: str = Field("detector", description="registered model name; empty uses the built-in detectors alone")
    budget: Positive = Field(0.1, description="false alarms allowed per series and day")
    look_back: int = Field(720, gt=0, description="slots the detectors remember")
    warmup: int = Field(120, gt=0, description="slots before a series is judged")
    season: int = Field(1440, gt=0, description="slots of the main cycle: a trend or level that repeats it is no news")
    min_effect: Fraction = Field(0.1, description="smallest departure worth a word, as a share of the series' usual range")
    min_coverage: Fraction = Field(0.8, description="windows with less observed are not judged")
    group_s: Positive = Field(600.0, description="seconds within which anomalies of one workload are one incident")
    close_s: Positive = Field(900.0, description="quiet seconds after which an incident closes")


class DecideSettings(Room):
    """Forecasts to plans."""

    policy: str = Field("default", description="name of the default policy in configs/policies")
    plan_ttl_s: Positive = Field(300.0, description="seconds a plan may wait for its effect")
    reactive_utilization: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="target of the reactive floor's rule")
    tolerance: Fraction = Field(0.1, description="relative change below which nothing moves; Kubernetes' own default")


class GuardSettings(Room):
    """The brakes. Defaults are the contract; each refusal names its guard."""

    step_up_replicas: Count = Field(4, description="replicas a pool may grow per step_up_s, if larger than the fraction")
    step_up_fraction: float = Field(0.5, ge=0, description="share a pool may grow per step_up_s")
    step_up_s: Positive = Field(60.0, description="seconds of the step-up period")
    step_down_fraction: Fraction = Field(0.1, description="share a pool may shrink per step_down_s, rounded down")
    step_down_min_pool: Count = Field(3, description="from this many replicas at least one may go per period")
    step_down_s: Positive = Field(300.0, description="seconds of the step-down period")
    stabilization_down_s: Positive = Field(600.0, description="seconds of recommendations whose largest holds against scale-in")
    stabilization_up_s: float = Field(0.0, ge=0, description="seconds of recommendations whose smallest holds against scale-out")
    cooldown_up_s: Positive = Field(300.0, description="seconds between scale-outs of one pool unless the reactive floor asks")
    cooldown_down_s: Positive = Field(600.0, description="seconds between scale-ins of one pool")
    dark_s: Positive = Field(300.0, description="seconds of missing data after which a page says DATA_DARK")
    ejection_fraction: Fraction = Field(0.1, description="share of a domain that may heal at once, rounded down, at least 1")
    panic_fraction: Fraction = Field(0.2, description="share of a domain sick at once that puts the sensor in doubt")
    panic_clear_s: Positive = Field(300.0, description="healthy seconds before healing resumes after a panic")
    heals_per_domain_h: Count = Field(3, description="heals per hour in one domain")
    heals_global_h: Count = Field(20, description="heals per hour in the fleet")
    quorum: Count = Field(2, description="independent signals a disruptive action needs")
    escalation_attempts: Count = Field(2, description="attempts per target in escalation_s before a human is paged")
    escalation_s: Positive = Field(1800.0, description="seconds of the escalation window")
    repeat_symptom_h: Positive = Field(24.0, description="hours in which the third same symptom goes to a human")
    inventory_jump_fraction: Fraction = Field(0.5, description="share of a domain's replicas vanishing at once that freezes it")
    warmup_s: float = Field(600.0, ge=0, description="seconds after start, config or model change in which nothing acts")


class ActSettings(Room):
    """Executing plans."""

    timeout_s: Positive = Field(10.0, description="seconds per cloud call")
    verify_s: float = Field(5.0, ge=0, description="seconds to wait for the read-back to show the effect")
    attempts: int = Field(3, gt=0, description="tries of a Transient before the action fails")
    lease_s: Positive = Field(60.0, description="seconds a target's lease is held without renewal")


class LedgerSettings(Room):
    """Where the ledger lives."""

    url: str = Field("sqlite:///.forecastle/ledger.db", description="SQLAlchemy URL; SQLite or PostgreSQL")
    witness: str = Field("", description="file that receives the chain's head after each append, best on another disk")
    kill_file: str = Field(".forecastle/KILL", description="a file whose existence stops every effect")


class RuntimeSettings(Room):
    """The worker."""

    worker: str = Field("worker-0", description="name of this worker in the ledger; stable over restarts")
    health: str = Field(".forecastle/health.json", description="file the worker's heartbeat is written to")
    seed: int = Field(0, description="seed of everything random")
    clock: Literal["wall", "event"] = Field("wall", description="event: time is the tick in hand, for replays and simulations")
    not_before: Count = Field(0, description="event time in ms; earlier ticks are history: they fill windows, nothing is decided")


class SiteSettings(Room):
    """A place that holds capacity."""

    name: str
    provider: str
    region: str
    zone: str = ""
    edge: bool = False
    residency: frozenset[str] = Field(frozenset(), description="jurisdictions whose data may be here")
    latency_ms: dict[str, float] = Field({}, description="user population -> round-trip time in ms")


class PoolSettings(Room):
    """Replicas of one workload at one site."""

    name: str
    site: str
    adapter: str = Field("sim", description="name of an entry in `clouds`")
    unit_price: float = Field(..., ge=0, description="money per replica-hour")
    startup_s: float = Field(60.0, ge=0, description="seconds from order to ready, until learned")
    min: Count = 0
    max: Count = 100
    quota: Count = 100
    spot: bool = False
    target: dict[str, str] = Field({}, description="what the adapter needs to find it (namespace, group name, ...)")


class DemandSettings(Room):
    """A demand metric and what one ready replica can carry of it."""

    metric: str
    per_replica: Positive
    labels: dict[str, str] = {}


class VetoSettings(Room):
    """A series that vetoes a scale-in above its limit."""

    metric: str
    above: float
    labels: dict[str, str] = {}


class WorkloadSettings(Room):
    """Something that is scaled."""

    name: str
    demands: tuple[DemandSettings, ...] = Field(..., min_length=1)
    pools: tuple[PoolSettings, ...] = Field(..., min_length=1)
    lead_time_s: Positive = 180.0
    target_utilization: Annotated[float, Field(gt=0, le=1)] = 0.8
    unmet_price: Positive = Field(20.0, description="price of a replica-hour of unmet demand, in the currency of the pools")
    min: Count = 1
    max: Count = 1000
    min_sites: Count = 1
    residency: frozenset[str] = Field(frozenset(), description="jurisdictions its data must stay in; empty: anywhere")
    mode: Mode = Field(Mode.SHADOW, description="shadow recommends, advise asks for approval, auto acts")
    policy: str = "default"
    priority: int = 0
    budget_per_hour: float | None = Field(None, ge=0, description="money per hour this workload may cost")
    vetoes: tuple[VetoSettings, ...] = ()


class CloudSettings(Room):
    """An adapter instance: an import string and its options."""

    adapter: str = Field(..., description="module:callable that returns a Cloud, for example forecastle.clouds.sim:open_cloud")
    options: dict[str, str | int | float | bool] = {}


class FleetSettings(Room):
    """What there is: sites and workloads with their pools."""

    sites: tuple[SiteSettings, ...] = ()
    workloads: tuple[WorkloadSettings, ...] = ()
    budget_per_hour: float | None = Field(None, ge=0, description="money per hour the fleet may cost")


class PlaybookSettings(Room):
    """When an incident matches, what to do."""

    name: str
    metric: str = Field("*", description="glob on the metric of an anomaly")
    kinds: tuple[str, ...] = Field((), description="anomaly kinds that match; empty: any")
    severity: Literal["info", "warning", "critical"] = "warning"
    action: Literal["restart", "replace", "drain", "cordon", "shift", "rollback", "quarantine", "notify"] = "notify"
    approval: Literal["A", "B", "C"] = Field("B", description="A reversible, B one person, C two people")


class Settings(Room):
    """The whole configuration."""

    intake: IntakeSettings = IntakeSettings()
    window: WindowSettings = WindowSettings()
    predict: PredictSettings = PredictSettings()
    detect: DetectSettings = DetectSettings()
    decide: DecideSettings = DecideSettings()
    guards: GuardSettings = GuardSettings()
    act: ActSettings = ActSettings()
    ledger: LedgerSettings = LedgerSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    clouds: dict[str, CloudSettings] = {}
    playbooks: tuple[PlaybookSettings, ...] = ()
    fleet: FleetSettings = FleetSettings()
