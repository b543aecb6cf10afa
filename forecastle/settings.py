"""Every knob, one class per room; each field says its unit, the reason for its default, and the default.

Values come, later ones winning, from ``configs/base.yaml``, the files given with ``--config``, the environment
(``FORECASTLE_GUARDS__STEP_UP_FRACTION=0.5``) and flags (``--set guards.step_up_fraction=0.5``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from forecastle.types import AnomalyKind, Domain, Mode, Severity

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]


class Room(BaseModel):
    """Base of every settings class: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ReceiveSettings(Room):
    """Prometheus remote write in, by `forecastle receive`."""

    host: str = Field("127.0.0.1", description="address it listens on; another than the loopback needs a token")
    port: int = Field(9201, ge=0, le=65535, description="port it listens on; 0: any that is free")
    topic: str = Field("remote_write", description="topic it writes to, to be read with the codec `remote_write`")
    token: SecretStr | None = Field(None, description="bearer token of the senders; give it by environment")
    tls_cert: str = Field("", description="PEM file of its certificate chain; empty: plain text")
    tls_key: str = Field("", description="PEM file of the certificate's key")
    max_bytes: int = Field(8 << 20, gt=0, description="bytes of a request; Prometheus sends far less at a time")
    max_unpacked_bytes: int = Field(32 << 20, gt=0, description="bytes of a request once unpacked; more is a bomb")


class IntakeSettings(Room):
    """Kafka in."""

    bootstrap: str = Field("127.0.0.1:9092", description="host:port list of the brokers")
    topics: tuple[str, ...] = Field(("metrics",), description="topics to consume; the codec of each follows from `codecs`")
    codecs: dict[str, str] = Field(
        {"metrics": "json", "otlp_metrics": "otlp_proto", "remote_write": "remote_write", "telegraf": "influx"},
        description="topic -> codec name",
    )
    workload_labels: tuple[str, ...] = Field(
        ("workload", "service_name", "job"),
        min_length=1,
        description="labels that may name the workload of Prometheus, Telegraf and Influx series; the first that is there does",
    )
    site_labels: tuple[str, ...] = Field(
        ("zone", "region"), description="labels that may stand for a missing label `site`; the first that is there does"
    )
    telegraf_unit: Literal["1s", "1ms", "1us", "1ns"] = Field(
        "1s", description="unit of the timestamps of `telegraf_json`: Telegraf's json_timestamp_units"
    )
    group: str = Field("forecastle", description="consumer group; workers of one group share the partitions")
    instance: str = Field("forecastle-0", description="static membership id, stable and unique per worker")
    receive: ReceiveSettings = ReceiveSettings()
    dead_letter_topic: str = Field("forecastle.dead-letters", description="where refused records go, with origin and reason")
    max_poll_records: int = Field(20_000, gt=0, description="records per poll; bounds the latency and memory of one batch")
    max_skew_s: Positive = Field(60.0, description="seconds a sample may lie in the future; more is a broken clock")
    max_series: int = Field(
        50_000, gt=0, description="series per tenant (label `tenant`); a cardinality explosion is dead-lettered beyond"
    )
    max_series_total: int = Field(100_000, gt=0, description="series of all tenants together; bounds the memory")
    align_s: Positive = Field(
        900.0, description="seconds of event time a partition may run ahead of the slowest; bounds memory"
    )
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
    max_ratio: Positive = Field(
        10.0, description="output gate: forecasts beyond this times the window's largest value are refused"
    )
    strikes: int = Field(3, gt=0, description="consecutive refused batches before the alias is rolled back")
    timeout_s: Positive = Field(2.0, description="seconds one batch may take before the fallback answers")
    coverage_window: int = Field(240, gt=0, description="ticks of past forecasts that calibrate the quantiles")
    drift_window: int = Field(120, ge=12, description="newest ticks whose errors and input are looked at for drift")
    drift_hold: int = Field(60, gt=0, description="ticks in a row before drift is raised; it ends after twice as many without")
    drift_share: Fraction = Field(
        0.25, description="share of the judged series that may have drifted: a few are no drift; 1: never any"
    )
    drift_error: Positive = Field(
        1.5,
        description="a series' errors drift beyond this times those of the better of last value and season on the same slots",
    )
    drift_input: Positive = Field(
        4.0, description="a series' input drifts this many times its usual movement out of the window's range"
    )


class WeeklyHours(Room):
    """Hours that come every week."""

    zone: str = Field(..., description="IANA time zone, such as Europe/Berlin")
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        ("mon", "tue", "wed", "thu", "fri"), description="local days on which it starts"
    )
    start: str = Field(..., pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="local time it opens, as HH:MM")
    end: str = Field(
        ..., pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="local time it closes, as HH:MM; up to start: the next day"
    )
    fold: Literal[0, 1] = Field(0, description="which of two equal local times is meant when DST ends: 0 first, 1 second")


class LocalSpan(Room):
    """A stretch of time, by local times."""

    start: datetime = Field(..., description="local time it begins, as 2026-11-27T08:00")
    end: datetime = Field(..., description="local time it is over")
    zone: str = Field(..., description="IANA time zone of both, such as Europe/Berlin")
    fold: Literal[0, 1] = Field(0, description="which of two equal local times is meant when DST ends: 0 first, 1 second")

    @model_validator(mode="after")
    def _local(self) -> Self:
        if self.start.tzinfo is not None or self.end.tzinfo is not None:
            raise ValueError("start and end are local times of zone; leave their offset away")
        return self


class MaintenanceSettings(Room):
    """Declared work: what is measured meanwhile is neither judged nor learned from."""

    name: str = Field(..., description="what the log calls it")
    once: LocalSpan | None = Field(None, description="when it is; either this or `weekly`")
    weekly: WeeklyHours | None = Field(None, description="when it is, every week")
    workloads: frozenset[str] = Field(frozenset(), description="whose series it covers; empty: of all")
    sites: frozenset[str] = Field(frozenset(), description="at which sites (label `site`); empty: at all, and without one")

    @model_validator(mode="after")
    def _has_time(self) -> Self:
        if (self.once is None) == (self.weekly is None):
            raise ValueError("needs one of once and weekly; write once: {start: ..., end: ..., zone: ...}")
        return self


class DetectSettings(Room):
    """Anomalies and incidents."""

    model: str = Field("detector", description="registered model name; empty uses the built-in detectors alone")
    budget: Positive = Field(0.1, description="false alarms allowed per series and day")
    look_back: int = Field(720, gt=0, description="slots the detectors remember")
    warmup: int = Field(120, gt=0, description="slots before a series is judged")
    season: Count = Field(1440, description="slots of the main cycle: a trend or level that repeats it is no news; 0: no cycle")
    min_effect: Fraction = Field(0.1, description="smallest departure worth a word, as a share of the series' usual range")
    floors: dict[str, NotNegative] = Field(
        {"*ratio*": 0.0, "*utilization*": 0.0, "*new_principal*": 0.0},
        description="glob of metrics -> amount in their unit that a departure must exceed; the first that matches counts",
    )
    min_count: NotNegative = Field(
        2.0,
        description="what a departure must exceed where no floor matches and the look-back has whole numbers alone, 10 at the "
        "median: 2 to 3 is no news; a fall to nothing always is; 0: none",
    )
    sides: dict[str, Literal["up", "down", "both"]] = Field(
        {}, description="glob of metrics -> side of what is expected on which departures count; the first that matches does"
    )
    min_coverage: Fraction = Field(0.8, description="windows with less observed are not judged")
    maintenance: tuple[MaintenanceSettings, ...] = Field(
        (), description="declared work, during which the series it covers raise no anomaly"
    )
    group_s: Positive = Field(600.0, description="seconds within which anomalies of one workload are one incident")
    close_s: Positive = Field(900.0, description="quiet seconds after which an incident closes")
    adopt_s: float = Field(
        18_000.0,
        gt=0,
        le=604_800,
        description="seconds that a departure is held against what was normal before, and not learned; then its level is the "
        "new normal and the incident may close; a restart replays as much of the log, with the other defaults at no cost up "
        "to 5.7 hours",
    )
    topology: dict[str, tuple[str, ...]] = Field(
        {},
        description="workload to the workloads it calls: trouble is traced along it to where it began, and incidents of one "
        "fault are told as one; empty: not traced",
    )
    threats: tuple[str, ...] = Field(
        ("*auth*fail*", "*login*fail*", "*forbidden*", "*new_principal*"),
        description="globs of metrics that speak of an attack: their incidents are never restarted, only told or quarantined",
    )

    @model_validator(mode="after")
    def _judges(self) -> Self:
        if self.warmup > self.look_back:
            raise ValueError(
                f"warmup {self.warmup} is longer than look_back {self.look_back}, so no series would ever be judged; "
                f"write warmup: {self.look_back} or less"
            )
        return self


class DecideSettings(Room):
    """Forecasts to plans."""

    plan_ttl_s: Positive = Field(300.0, description="seconds a plan may wait for its effect")
    heal_settle_s: float = Field(
        300.0, ge=0, description="seconds beyond its start-up time a remedy is given to show before it is tried again"
    )
    reactive_utilization: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="target of the reactive floor's rule")
    move_h: Positive = Field(4.0, description="hours within which a move has to earn its price back")
    max_moves: Count | None = Field(
        None,
        description="replicas of the fleet that may start per tick to make up for others that run where a rule does not let "
        "them; none: no limit but the guards'",
    )
    place_nodes: int = Field(200, gt=0, description="branch-and-bound nodes of the placement; counted, not timed, for replays")
    place_s: Positive = Field(5.0, description="seconds after which the greedy placement stands in")


class ChangeWindow(WeeklyHours):
    """Hours of the week in which something may be taken away."""

    name: str = Field(..., description="what refusals call it")
    workloads: frozenset[str] = Field(frozenset(), description="for whom it is; empty: for all")


class GuardSettings(Room):
    """The brakes. Defaults are the contract; each refusal names its guard."""

    tolerance: Fraction = Field(0.1, description="relative change up to which nothing moves; Kubernetes' own default")
    step_up_replicas: Count = Field(4, description="replicas a pool may grow per step_up_s, if larger than the fraction")
    step_up_fraction: float = Field(0.5, ge=0, description="share a pool may grow per step_up_s")
    step_up_s: Positive = Field(60.0, description="seconds of the step-up period")
    step_down_fraction: Fraction = Field(0.1, description="share a pool may shrink per step_down_s, rounded down")
    step_down_min_pool: Count = Field(3, description="from this many replicas at least one may go per period")
    step_down_s: Positive = Field(300.0, description="seconds of the step-down period")
    stabilization_down_s: Positive = Field(600.0, description="seconds of recommendations whose largest holds against scale-in")
    stabilization_up_s: float = Field(
        0.0, ge=0, description="seconds of recommendations whose smallest holds against scale-out"
    )
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
    repeat_symptom_h: Positive = Field(24.0, description="hours in which the same symptom is counted")
    repeat_symptoms: Count = Field(3, description="the how-manieth same symptom within repeat_symptom_h goes to a human")
    large_fraction: Fraction = Field(
        0.2, description="share of a workload taken out at once beyond which two people must agree"
    )
    inventory_jump_fraction: Fraction = Field(0.5, description="share of a domain's replicas vanishing at once that freezes it")
    warmup_s: float = Field(600.0, ge=0, description="seconds after start, config or model change in which nothing acts")
    windows: tuple[ChangeWindow, ...] = Field(
        (), description="when scale-ins and disruptive actions may happen; a workload without a window: always"
    )


class ActSettings(Room):
    """Executing plans."""

    timeout_s: Positive = Field(10.0, description="seconds per cloud call")
    verify_s: float = Field(5.0, ge=0, description="seconds to wait for the read-back to show the effect")
    attempts: int = Field(3, gt=0, description="tries of a Transient before the action fails")
    lease_s: Positive = Field(60.0, description="seconds a target's lease is held without renewal")
    parcel: int = Field(100, gt=0, description="actions of a plan at most whose intents are recorded together")


class LedgerSettings(Room):
    """Where the ledger lives."""

    url: str = Field("sqlite:///.forecastle/ledger.db", description="SQLAlchemy URL; SQLite or PostgreSQL")
    witness: str = Field("", description="file that receives the chain's head after each append, best on another disk")
    kill_file: str = Field(".forecastle/KILL", description="a file whose existence stops every effect")


class WebhookSettings(Room):
    """A receiver of events: by the Standard Webhooks specification, or a chat."""

    url: str = Field(
        ...,
        description="https address events are posted to, or `env:NAME` of a variable that holds it; plain http for a loopback",
    )
    secrets: tuple[str, ...] = Field(
        (), description="names of environment variables with `whsec_...`; all of them sign, for rotation; a must for `standard`"
    )
    form: Literal["standard", "slack"] = Field(
        "standard", description="slack: the message of an incoming webhook of Slack, Mattermost or Rocket.Chat"
    )
    types: tuple[str, ...] = Field(("*",), description="globs on the event type, such as `*.incident.*`")
    residency: frozenset[str] = Field(
        frozenset(),
        description="jurisdictions the receiver is in; without, it hears nothing of a workload that has a residency",
    )
    networks: tuple[str, ...] = Field(
        (), description="networks (CIDR) that may be connected to although they are not public, such as `10.1.0.0/16`"
    )
    timeout_s: Positive = Field(15.0, description="seconds one try may take; the specification recommends 15 to 30")
    attempts: int = Field(8, gt=0, description="tries before an event is given up; the pauses grow from 5 s to 5 minutes")


class AlertSettings(Room):
    """Open incidents as alerts in Alertmanager."""

    urls: tuple[str, ...] = Field((), description="addresses of all Alertmanagers of a cluster; empty: off")
    token: str = Field("", description="name of the environment variable with a bearer token; empty: none")
    severity: Severity = Field(Severity.WARNING, description="least severity of an incident that is told")
    resend_s: Positive = Field(60.0, description="seconds between repeats; an alert ends four of them after the last one")
    timeout_s: Positive = Field(10.0, description="seconds one request may take")
    most: int = Field(200, gt=0, description="alerts told at once at most; the oldest incidents win")
    generator_url: str = Field("", description="link of every alert to where people look, such as a dashboard")
    worker: str = Field("", description="label `worker` of every alert; empty: none")


class TraceSettings(Room):
    """A trace for each plan, over OTLP/HTTP."""

    endpoint: str = Field("", description="address such as `http://127.0.0.1:4318/v1/traces`; empty: off")
    headers: str = Field("", description="name of the environment variable with `name=value,name=value`; empty: none")
    timeout_s: Positive = Field(10.0, description="seconds one request may take")
    pending: int = Field(1000, gt=0, description="ticks kept while the receiver is away; then the oldest are dropped")


class ExternalMetricsSettings(Room):
    """`external.metrics.k8s.io` for the HorizontalPodAutoscaler, behind the API server of the cluster."""

    port: int | None = Field(None, ge=1, le=65535, description="port it listens on; none: off")
    host: str = Field("0.0.0.0", description="address it listens on; the API server comes from outside the pod")  # noqa: S104
    tls_cert: str = Field("", description="PEM file of its certificate chain; the APIService names the CA")
    tls_key: str = Field("", description="PEM file of the certificate's key")
    client_ca: str = Field("", description="PEM file of the front proxy's CA: `requestheader-client-ca-file`")
    allowed_names: tuple[str, ...] = Field(
        ("front-proxy-client",), description="common names of the front proxy: `requestheader-allowed-names`; empty: any"
    )


class DoorbellSettings(Room):
    """Where others ring to say that something is wrong. Each route exists once somebody has a secret for it."""

    port: int | None = Field(None, ge=1, le=65535, description="port it listens on; none: off")
    host: str = Field("127.0.0.1", description="address it listens on; others than the loopback need TLS")
    tls_cert: str = Field("", description="PEM file of its certificate chain")
    tls_key: str = Field("", description="PEM file of the certificate's key")
    tokens: tuple[str, ...] = Field((), description="names of environment variables with bearer tokens of Alertmanager")
    basic: tuple[str, ...] = Field((), description="names of environment variables with `user:password` of Alertmanager")
    secrets: tuple[str, ...] = Field(
        (), description="names of environment variables with `whsec_...`; any of them may have signed a webhook"
    )
    tolerance_s: Positive = Field(300.0, description="seconds a signature may be old; what the specification's libraries take")
    max_body: int = Field(1_048_576, gt=0, description="bytes of a request's body; Alertmanager's largest groups fit")
    timeout_s: Positive = Field(10.0, description="seconds a request may take from its first byte to its last")
    hold_s: Positive = Field(
        18_000.0, description="seconds a signal holds that nobody repeats; above Alertmanager's repeat_interval (4 h)"
    )
    kinds: dict[str, AnomalyKind] = Field(
        {}, description="glob on the alert's name -> what it looks like to playbooks; without: level_shift"
    )


class OutletSettings(Room):
    """How others listen. Everything is off until it has a port, a topic or an address."""

    metrics_port: int | None = Field(None, ge=1, le=65535, description="port of Prometheus `/metrics`; none: off")
    metrics_host: str = Field("127.0.0.1", description="address `/metrics` listens on; the loopback unless a network needs it")
    metrics_series: int = Field(500, gt=0, description="demand series exported at most; bounds the cardinality")
    horizons_s: tuple[float, ...] = Field((60.0, 300.0, 900.0, 1800.0), description="seconds ahead of the exported forecasts")
    quantiles: tuple[float, ...] = Field((0.1, 0.5, 0.9), description="quantiles of the exported forecasts")
    stale_s: Positive = Field(300.0, description="seconds after which an old forecast or recommendation is told to nobody")
    keda_port: int | None = Field(None, ge=1, le=65535, description="port of the KEDA external scaler (gRPC); none: off")
    keda_host: str = Field("127.0.0.1", description="address the external scaler listens on")
    keda_tls_cert: str = Field("", description="PEM file of its certificate chain; empty: plain text")
    keda_tls_key: str = Field("", description="PEM file of the certificate's key")
    keda_tls_ca: str = Field("", description="PEM file of the CA that signs the clients; empty: any client")
    source: str = Field("/forecastle", description="`source` of the CloudEvents; with their `id` it makes them unique")
    events_topic: str = Field("", description="Kafka topic (brokers of `intake`) that receives CloudEvents; empty: off")
    events_mode: Literal["binary", "structured"] = Field("binary", description="attributes as headers, or all in one JSON")
    events_types: tuple[str, ...] = Field(("*",), description="globs on the event type, such as `*.plan.*`")
    events_residency: frozenset[str] = Field(
        frozenset(),
        description="jurisdictions the topic's brokers and readers are in; without, it gets nothing of a workload with one",
    )
    webhooks: tuple[WebhookSettings, ...] = Field((), description="receivers of signed webhooks")
    traces: TraceSettings = Field(TraceSettings(), description="traces from poll to outcome")
    external_metrics: ExternalMetricsSettings = Field(ExternalMetricsSettings(), description="external metrics of Kubernetes")
    alerts: AlertSettings = Field(AlertSettings(), description="incidents told to Alertmanager")
    doorbell: DoorbellSettings = Field(DoorbellSettings(), description="where alerts and signed webhooks come in")
    pending: int = Field(20_000, gt=0, description="events kept while a receiver is away; the next shift tells the rest")
    cursors: str = Field(".forecastle/outlets", description="folder that remembers how far each outlet was told")


class RuntimeSettings(Room):
    """The worker."""

    worker: str = Field("worker-0", description="name of this worker in the ledger; stable over restarts")
    health: str = Field(".forecastle/health.json", description="file the worker's heartbeat is written to")
    clock: Literal["wall", "event"] = Field("wall", description="event: time is the tick in hand, for replays and simulations")
    not_before: Count = Field(
        0, description="event time in ms; earlier ticks are history: they fill windows, nothing is decided"
    )


class AgentSettings(Room):
    """The agent of one site, `forecastle agent`; its brokers are those of `intake`."""

    site: str = Field("", description="site whose pools it drives, with the adapters that `clouds` has here")
    key: str = Field("", description="id of the key that it signs with")
    accept: dict[str, str] = Field({}, description="id of each key that it accepts -> environment variable with it, in base64")
    kinds: tuple[str, ...] = Field(("scale",), description="kinds of action that it carries out; all others are refused")
    orders_topic: str = Field("forecastle.orders", description="Kafka topic of the orders")
    reports_topic: str = Field("forecastle.reports", description="Kafka topic of its answers and of what it observes")
    report_s: Positive = Field(10.0, description="seconds between two looks at its pools")
    state: str = Field(".forecastle/agent.db", description="file that remembers orders, answers and what is to be told")


class TrainSettings(Room):
    """Training and promotion, by the flows `train` and `promote`."""

    work: str = Field(".forecastle/training", description="folder of the checkpoints that an interrupted training resumes from")
    fan_out: int = Field(
        1, gt=0, description="configurations of a model trained at once, of those its file lists as `variants`"
    )
    executor: Literal["processes", "ray"] = Field("processes", description="what trains them; ray if it is installed")
    margin: float = Field(
        0.01,
        lt=1,
        description="share of the champion's error by which a candidate's must be smaller; below 0: it may be larger by that",
    )
    shadow_h: float = Field(0.0, ge=0, description="hours measured since its training that a candidate is tried on; 0: none")
    max_capacity_change: Positive = Field(
        0.25, description="share by which a candidate may change the replicas a workload is recommended on the same windows"
    )
    max_alarm_change: Positive = Field(
        1.0, description="share by which a candidate detector may alarm more often than the champion or `detect.budget`"
    )


class SiteSettings(Room):
    """A place that holds capacity."""

    name: str = Field(..., description="what pools call it, and the value of the label `site` of its series")
    provider: str = Field(..., description="cloud or owner; the first part of the failure domain")
    region: str = Field(..., description="the provider's region; the second part of the failure domain")
    zone: str = Field("", description="availability zone; the third part of the failure domain")
    residency: frozenset[str] = Field(frozenset(), description="jurisdictions whose data may be here")
    latency_ms: dict[str, float] = Field({}, description="user population -> round-trip time in ms")
    capacity: float | None = Field(None, ge=0, description="what all its pools together may hold, in units of their `size`")
    egress_price: float = Field(0.0, ge=0, description="money per GB that leaves it")


class PoolSettings(Room):
    """Replicas of one workload at one site."""

    name: str = Field(..., description="unique over the fleet; what actions and the ledger call it")
    site: str = Field(..., description="name of an entry in `fleet.sites`")
    adapter: str = Field("sim", description="name of an entry in `clouds`")
    unit_price: float | None = Field(None, ge=0, description="money per replica-hour; none: what the price books say of `sku`")
    sku: str = Field("", description="what a replica is in the price books, such as `m6i.large`; costs are reported by it")
    startup_s: float = Field(60.0, ge=0, description="seconds from order to ready, until learned")
    min: Count = Field(0, description="replicas it never goes below")
    max: Count = Field(100, description="replicas it never goes above")
    quota: Count = Field(100, description="replicas the provider grants; min <= max <= quota")
    spot: bool = Field(False, description="capacity the provider may take back at any time")
    target: dict[str, str] = Field({}, description="what the adapter needs to find it (namespace, group name, ...)")
    size: Positive = Field(1.0, description="what one replica takes of the site's capacity")
    committed: Count = Field(0, description="replicas paid for whether used or not (reservations, savings plans)")
    committed_price: float | None = Field(
        None, ge=0, description="money per committed replica-hour; none: what the price books say, or `unit_price`"
    )
    interruptions_h: float = Field(0.0, ge=0, description="how often an hour a spot replica is taken back")

    @model_validator(mode="after")
    def _has_price(self) -> Self:
        if self.unit_price is None and not self.sku:
            raise ValueError("has no price; write unit_price: 0.1, or the sku that a price book names")
        return self


class TrafficSettings(Room):
    """What a load balancer sends to one site: nothing of it is scaled, it is drained and given back."""

    name: str = Field(..., description="unique over the fleet and its pools; what actions and the ledger call it")
    site: str = Field(..., description="name of the entry in `fleet.sites` that it leads to")
    adapter: str = Field(..., description="name of an entry in `clouds` that can drain or shift, such as HAProxy's")
    target: dict[str, str] = Field({}, description="what the adapter needs to find it, without patterns")


class UsageSettings(Room):
    """The usage of a replica, from which its capacity is learned."""

    metric: str = Field(..., description="metric name of the mean usage of a ready replica, such as CPU utilization")
    replicas: str = Field(..., description="metric name of the number of ready replicas")
    labels: dict[str, str] = Field({}, description="labels of both series, all of them")
    full: Positive = Field(1.0, description="usage at which a replica is full, in the metric's unit")
    raise_limit: float = Field(1.0, ge=1, description="times per_replica that may be learned at most; 1: only less than it")


class ServiceSettings(Room):
    """A latency target: replicas as servers of one queue (M/M/c), demand as requests per second."""

    service_time_s: Positive = Field(..., description="mean seconds a request takes when it does not wait")
    latency_target_s: Positive | None = Field(None, description="bound of the response time in seconds, wait and service")
    percentile: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="share of the responses within latency_target_s, such as 0.95; none: their mean is"
    )
    wait: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="largest share of requests that wait at all")
    slots: int = Field(1, gt=0, description="requests a replica serves at once")

    @model_validator(mode="after")
    def _has_target(self) -> Self:
        if self.latency_target_s is None and self.wait is None:
            raise ValueError("has no target; write latency_target_s: 0.3 or wait: 0.2")
        return self


class DemandSettings(Room):
    """A demand metric and what one ready replica can carry of it."""

    metric: str = Field(..., description="metric name of the demand series")
    per_replica: Positive = Field(..., description="what one ready replica carries, in the metric's unit")
    labels: dict[str, str] = Field({}, description="labels of the demand series, all of them")
    usage: UsageSettings | None = Field(None, description="learn what a replica carries from its usage")
    service: ServiceSettings | None = Field(None, description="size by a latency target, above what per_replica asks for")

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.usage is not None and self.service is not None:
            raise ValueError("has usage and service; keep one, or write the metric twice: the largest need wins")
        return self


class EventSettings(LocalSpan):
    """A planned occasion, by local times."""

    name: str = Field(..., description="what plans call it")
    factor: Positive = Field(1.0, description="what the forecast is multiplied by meanwhile")
    replicas: Count = Field(0, description="replicas there are meanwhile, at least; ordered the lead time earlier")


class HolidaySettings(Room):
    """Public holidays as planned occasions; needs the extra `holidays`."""

    calendar: str = Field(
        ..., pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$", description="country and, where needed, its part: DE, DE-BY, US-CA"
    )
    zone: str = Field(..., description="IANA time zone in which the day begins and ends")
    factor: Positive = Field(1.0, description="what the forecast is multiplied by on a holiday")
    replicas: Count = Field(0, description="replicas there are on a holiday, at least")


class SloSettings(Room):
    """A service level objective, as `forecastle slo import` writes it."""

    name: str = Field("", description="name of the objective")
    target: Annotated[float, Field(gt=0, lt=1)] = Field(..., description="share of good events or good time slices")
    budgeting: Literal["Occurrences", "Timeslices"] = Field(
        "Occurrences", description="what is counted; the quantile of Timeslices is the target at least"
    )
    budget_metric: str = Field("", description="metric of the share of the error budget left, 1 to 0; less of it insures more")
    budget_labels: dict[str, str] = Field({}, description="labels of that series, all of them")


class VetoSettings(Room):
    """A series that vetoes a scale-in above its limit."""

    metric: str = Field(..., description="metric name, such as a latency or an error rate")
    above: float = Field(..., description="limit in the metric's unit; above it nothing scales in")
    labels: dict[str, str] = Field({}, description="labels of the series, all of them")


class WorkloadSettings(Room):
    """Something that is scaled."""

    name: str = Field(..., description="the workload of its series")
    demands: tuple[DemandSettings, ...] = Field(..., min_length=1, description="what drives it; the largest need wins")
    pools: tuple[PoolSettings, ...] = Field(..., min_length=1, description="where its replicas may run")
    traffic: tuple[TrafficSettings, ...] = Field(
        (), description="what leads its requests to sites, to be drained when one is lost"
    )
    lead_time_s: Positive = Field(180.0, description="seconds from decision to ready capacity; forecasts look this far")
    target_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="share of a replica's capacity planned to be used; the rest absorbs what a step's mean hides"
    )
    unmet_price: Positive = Field(20.0, description="price of a replica-hour of unmet demand, in the currency of the pools")
    min: Count = Field(1, description="replicas over all pools it never goes below")
    max: Count = Field(1000, description="replicas over all pools it never goes above")
    min_sites: Count = Field(1, description="sites it must be spread over")
    residency: frozenset[str] = Field(frozenset(), description="jurisdictions its data must stay in; empty: anywhere")
    mode: Mode = Field(Mode.SHADOW, description="shadow recommends, advise asks for approval, auto acts")
    policy: str = Field("default", description="name of its policy")
    priority: int = Field(0, description="who is placed first when capacity is short; larger is first")
    budget_per_hour: float | None = Field(
        None, ge=0, description="money per hour this workload may cost: replicas, commitments and egress"
    )
    vetoes: tuple[VetoSettings, ...] = Field(
        (), description="series that forbid a scale-in above their limit; with `slo` they tell whether it is met, too"
    )
    survive: Domain | None = Field(None, description="zone, region or provider: the loss of any one of them must be survived")
    survive_share: Fraction = Field(1.0, description="share of the wanted replicas that must be left after that loss")
    population: dict[str, Fraction] = Field({}, description="user population -> its share of the demand")
    max_latency_ms: Positive | None = Field(None, description="round-trip time within which each population is served")
    egress_gb_h: float = Field(0.0, ge=0, description="GB a replica sends an hour; priced by the site's egress_price")
    move_price: float = Field(0.0, ge=0, description="money it costs to start a replica elsewhere (cold caches, data to copy)")
    spot_share: Fraction = Field(0.5, description="largest share of the replicas on spot capacity")
    events: tuple[EventSettings, ...] = Field((), description="planned occasions that the forecast cannot know")
    holidays: HolidaySettings | None = Field(None, description="public holidays that the forecast cannot know")
    slo: SloSettings | None = Field(
        None, description="what it has promised; the quantile follows the error budget, incidents its series"
    )


class PriceSettings(Room):
    """Where prices come from."""

    books: str = Field(
        "configs/prices", description="folder of the price books, one YAML or CSV file a version; it may be missing"
    )


class PolicySettings(Room):
    """What the workloads that name this policy have in common. None leaves it open; a workload's own word wins."""

    lead_time_s: Positive | None = Field(None, description="seconds from an order to a replica that serves")
    target_utilization: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="share of a replica in use")
    unmet_price: Positive | None = Field(None, description="price of a replica-hour of unmet demand")
    min_sites: Count | None = Field(None, description="sites a workload is at, at least")
    mode: Mode | None = Field(None, description="shadow recommends, advise asks for approval, auto acts")
    priority: int | None = Field(None, description="who is served first when there is not enough for all")


class CloudSettings(Room):
    """An adapter instance: an import string and its options."""

    adapter: str = Field(..., description="module:callable that returns a Cloud, for example forecastle.clouds.sim:open_cloud")
    options: dict[str, str | int | float | bool] = Field({}, description="keyword arguments of the adapter")
    dry_run: bool = Field(False, description="true observes and checks as always, and has the provider change nothing")
    account: str = Field("", description="provider account; adapters of one account share its rate; empty: an own one")
    rate_per_s: Positive | None = Field(None, description="requests per second that we allow ourselves; none: no limit")
    burst: int = Field(10, gt=0, description="requests that may come at once before `rate_per_s` binds")
    parallel: int = Field(1, gt=0, description="effects told at once; more than 1 only if the adapter's SDK is thread-safe")
    breaker_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.5, description="share of failed requests that opens the circuit breaker; none: no breaker"
    )
    breaker_calls: int = Field(10, gt=0, description="requests there must be in breaker_window_s before the share means much")
    breaker_window_s: Positive = Field(60.0, description="seconds over which failures are counted")
    breaker_open_s: Positive = Field(30.0, description="seconds the provider is left alone before one request tries it")


class FleetSettings(Room):
    """What there is: sites and workloads with their pools."""

    sites: tuple[SiteSettings, ...] = Field((), description="places that hold capacity")
    workloads: tuple[WorkloadSettings, ...] = Field((), description="what is scaled")
    budget_per_hour: float | None = Field(
        None, ge=0, description="money per hour the fleet may cost: replicas, commitments and egress"
    )


class PlaybookSettings(Room):
    """When an incident matches, what to do."""

    name: str = Field(..., description="what plans call it")
    metric: str = Field("*", description="glob on the metric of an anomaly")
    kinds: tuple[str, ...] = Field((), description="anomaly kinds that match; empty: any")
    severity: Literal["info", "warning", "critical"] = Field("warning", description="least severity of an incident it answers")
    action: Literal["restart", "replace", "drain", "cordon", "shift", "rollback", "quarantine", "notify"] = Field(
        "notify", description="what is done to the pool or replica at fault"
    )
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
    outlets: OutletSettings = OutletSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    agent: AgentSettings = AgentSettings()
    train: TrainSettings = TrainSettings()
    prices: PriceSettings = PriceSettings()
    clouds: dict[str, CloudSettings] = {}
    policies: dict[str, PolicySettings] = {}
    playbooks: tuple[PlaybookSettings, ...] = ()
    fleet: FleetSettings = FleetSettings()
