"""The protocols behind which everything replaceable stands.

A plug has at most five methods; more power is a declared capability.
"""

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
    Intent,
    Kind,
    Mode,
    Observed,
    Outcome,
    Plan,
    Pool,
    Progress,
    Readiness,
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
        """Join, and seek every partition to ``look_back_ms`` of event time before its committed position.

        Or before ``resume_at`` (ms, the last decided tick) if that is earlier. Raises ConfigError or BrokerUnavailable.
        """

    def poll(self, timeout_s: float = 1.0) -> Samples:
        """The next samples, possibly none. Refused records are in the dead-letter topic when this returns.

        Raises a Transient when they cannot be: then nothing was skipped and the next call tries again.
        """

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
        """The pool's state now. Raises NotFound when it does not exist: never an empty answer for everything.

        With `Observed.traffic` where it has a traffic weight of the whole pool: then a failover can drain it.
        """

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do; no effect."""

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. A used ``token`` or an already-true state changes nothing and says ``already``.

        A broken ``action.expected`` raises Conflict. The caller retries, never the adapter.
        """

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

    def intend(self, action: Action, *, epoch: int, before: Observed | None = None) -> bool:
        """Durably record the intent. False: this action id has an outcome already, do nothing.

        Raises Conflict when the target has another action in flight or ``epoch`` is stale.
        """

    def conclude(self, outcome: Outcome, *, epoch: int | None = None) -> None:
        """Record the end of an intent (or a refusal without one).

        An intent that has left ``epoch``, because a newer worker took it over, is that worker's to conclude: nothing happens.
        """

    def ended(self, action_id: str) -> Outcome | None:
        """How the action's intent ended; None while it has not, or was never intended."""

    def unfinished(self, action_id: str = "") -> tuple[Intent, ...]:
        """Intents without an outcome, oldest first; of one action when given."""

    def note_ready(self, found: Sequence[Readiness]) -> None:
        """Record when growth was first seen ready; a second record of the same action changes nothing."""

    def note_given_back(self, pools: Sequence[str]) -> None:
        """Record that nothing is to be given back to these pools that a failover emptied."""

    def snapshot(self, now: int, observed: dict[str, Observed]) -> Fleet:
        """The fleet as the ledger knows it at ``now``: recent outcomes, recommendations, holds, modes, kill switch."""

    def close(self) -> None:
        """Release the store. Idempotent."""


class Leases(Protocol):
    """Who may touch a target and how often, in the ledger's store. Raises StoreUnavailable."""

    def lease(self, target: str, holder: str, ttl_s: float) -> int:
        """A new epoch for ``target``, larger than any before. Raises Conflict while another holder has it."""

    def hand_back(self, target: str, epoch: int) -> None:
        """End the lease if ``epoch`` still holds it."""

    def fenced(self, target: str, epoch: int) -> bool:
        """True when ``epoch`` does not hold ``target`` any more."""

    def allow(self, name: str, capacity: float, per_hour: float) -> None:
        """Give a budget its rule. Without one there is nothing to take."""

    def take(self, names: str | Sequence[str], n: float = 1.0) -> str:
        """Take from every budget or from none; '' or the name of the one that has too little."""


class Approvals(Protocol):
    """Human control: modes, holds, kill switch and approvals, durable in the ledger's store."""

    def approved(self, plan: Plan) -> bool:
        """True when enough distinct people approved exactly this plan's hash and it has not expired."""

    def killed(self) -> str:
        """Reason of the kill switch, '' when off."""

    def mode(self, workload: str) -> Mode | None:
        """Promoted mode of the workload, None when never changed."""

    def held(self, *names: str) -> str:
        """Why a human holds one of ``names`` (workload, pool, domain), '' when nobody does."""

    def request(self, plan: Plan, requester: str, people: int) -> None:
        """Ask ``people`` distinct persons other than ``requester`` to approve the plan. Idempotent."""
