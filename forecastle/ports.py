"""The protocols behind which everything replaceable stands. A plug has at most five methods; more power is a declared capability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forecastle.types import (
    Action,
    Anomaly,
    Change,
    Fleet,
    Forecasts,
    Kind,
    Mode,
    Observed,
    Outcome,
    Plan,
    Pool,
    Progress,
    Receipt,
    Samples,
    Windows,
)


class Clock(Protocol):
    """The only source of time. ``now`` is event or wall time; cool-downs and leases use ``monotonic``."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""


class Intake(Protocol):
    """Where samples come from. What poll returned may be lost or repeated until ``commit``; nothing is ever skipped."""

    def start(self, look_back_ms: int, resume_at: int | None = None) -> None:
        """Join and seek every partition ``look_back_ms`` of event time before its committed position, or before
        ``resume_at`` (ms, the last decided tick) if that is earlier. Raises ConfigError or BrokerUnavailable."""

    def poll(self, timeout_s: float = 1.0) -> Samples:
        """The next samples, possibly none. Refused records are in the dead-letter topic when this returns; a Transient
        when they cannot be: then nothing was skipped and the next call tries again."""

    def commit(self) -> None:
        """Make the position after the last poll durable; called after the effects. Raises BrokerUnavailable."""

    def progress(self) -> Progress:
        """Which partitions are assigned, drained and still rebuilding; costs no request."""

    def close(self) -> None:
        """Leave without committing. Idempotent."""


class Cloud(Protocol):
    """One provider. Every call has a timeout; every SDK error becomes a Transient or a Permanent with its cause."""

    name: str
    capabilities: frozenset[Kind]

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now. Raises NotFound when it does not exist: never an empty answer for everything."""

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do; no effect."""

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. A used ``token`` or an already-true state changes nothing and says ``already``; a broken
        ``action.expected`` raises Conflict. The caller retries, never the adapter."""

    def close(self) -> None:
        """Release connections. Idempotent."""


class Forecaster(Protocol):
    """Windows in, quantiles out, one batch for all series. ``look_back`` and ``horizon`` in steps."""

    name: str
    look_back: int
    horizon: int
    quantiles: tuple[float, ...]

    def forecast(self, windows: Windows) -> Forecasts:
        """Forecast every row. ``windows.values`` has at least ``look_back`` columns; gaps are masked."""


class Detector(Protocol):
    """Windows and the forecast that was made for them in, anomalies out; causal."""

    name: str
    look_back: int

    def detect(self, windows: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        """Anomalies at ``windows.end``. ``forecasts`` were issued one step earlier (None on the first tick)."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model on disk: the ONNX file, its SHA-256 and its manifest (feature plan, quantiles, look-back, horizon)."""

    name: str
    version: str
    path: Path
    sha256: str
    manifest: dict[str, Any]


class Registry(Protocol):
    """Where models come from. Raises RegistryUnavailable or NotFound."""

    def resolve(self, name: str, alias: str) -> str:
        """Version the alias points at now. Cheap enough to poll."""

    def pull(self, name: str, version: str, into: Path) -> Artifact:
        """Download once; verify the digest. Raises ModelRefused when it differs."""

    def promote(self, name: str, version: str, alias: str) -> str:
        """Point the alias at the version; returns the version it pointed at before ('' if none)."""

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first: version, aliases, metrics, created."""


class Ledger(Protocol):
    """Append-only memory of what was intended and what happened. Raises StoreUnavailable: then nothing may be done."""

    def plans(self, tick: int, scope: str) -> tuple[Plan, ...] | None:
        """Plans recorded for ``tick`` by worker ``scope``, or None when that tick was never decided."""

    def record(self, tick: int, scope: str, plans: Sequence[Plan]) -> None:
        """Record that ``tick`` was decided (also when nothing was planned). A second record of the same tick is refused."""

    def last_tick(self, scope: str) -> int | None:
        """The newest tick recorded by ``scope``, None before the first."""

    def effective_since(self, scope: str, fingerprint: str, tick: int) -> int:
        """Tick at which ``scope`` first decided with this ``fingerprint`` of configuration and model; ``tick`` if it is new."""

    def intend(self, action: Action, *, epoch: int) -> bool:
        """Durably record the intent. False: this action id has an outcome already, do nothing.
        Raises Conflict when the target has another action in flight or ``epoch`` is stale."""

    def conclude(self, outcome: Outcome) -> None:
        """Record the end of an intent (or a refusal without one)."""

    def snapshot(self, now: int, observed: dict[str, Observed]) -> Fleet:
        """The fleet as the ledger knows it at ``now``: recent outcomes, recommendations, holds, modes, kill switch."""


class Approvals(Protocol):
    """Human control: modes, holds, kill switch and approvals, durable in the ledger's store."""

    def approved(self, plan: Plan) -> bool:
        """True when enough distinct people approved exactly this plan's hash and it has not expired."""

    def killed(self) -> str:
        """Reason of the kill switch, '' when off."""

    def mode(self, workload: str) -> Mode | None:
        """Promoted mode of the workload, None when never changed."""
