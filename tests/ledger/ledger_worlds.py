"""Small actions, plans and outcomes for tests of the ledger."""

from __future__ import annotations

from typing import Any

from forecastle.types import Action, Kind, Observed, Outcome, Plan, Refusal, Status

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_760_000_040_000


def action(pool: str = "shop-fra", tick: int = START, desired: int = 5, expected: int = 3, **rest: Any) -> Action:
    rest = {"kind": Kind.SCALE, "deadline": tick + 5 * MINUTE} | rest
    return Action(workload="shop", pool=pool, desired=desired, expected=expected, tick=tick, **rest)


def outcome(of: Action, status: Status = Status.APPLIED, at: int = 0, **rest: Any) -> Outcome:
    return Outcome(of.id, status, at or of.tick, of.pool, of.kind, of.workload, **rest)


def observed(replicas: int = 3, pool: str = "shop-fra", at: int = START) -> Observed:
    return Observed(pool, replicas, replicas, at, f"v{replicas}")


def plan(*actions: Action, tick: int = START, guards: tuple[str, ...] = (), **rest: Any) -> Plan:
    values: dict[str, Any] = {
        "id": f"plan-{tick}-{len(actions)}",
        "tick": tick,
        "domain": "aws/eu-central-1/",
        "actions": actions,
        "reason": "more load is coming",
        "evidence": {"shop": {"floor": 5, "quantile": 0.95, "down": ["ams"]}},
        "refusals": tuple(Refusal(guard, "because", "shop-fra", "shop") for guard in guards),
        "recommended": {"shop": 5},
        "cost": 0.5,
        "expires_at": tick + 5 * MINUTE,
    }
    return Plan(**(values | rest))
