"""Decisions on paper: situations recorded as JSON lines and decided again, plans listed and explained."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from forecastle.errors import ConfigError, NotFound
from forecastle.runtime.loop import Turned
from forecastle.types import Plan, Situation, digest

if TYPE_CHECKING:
    from forecastle.ledger.store import SqlLedger
    from forecastle.settings import Settings


class Record(NamedTuple):
    """One decided tick: what was seen and what was planned; ``inventory`` is a digest of what was configured."""

    inventory: str
    situation: Situation
    plans: tuple[Plan, ...]


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "data": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value)} has no JSON form")


def _decode(_kind: type, value: Any) -> Any:
    data = base64.b64decode(value["data"])
    return np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"])


_ENCODER = msgspec.json.Encoder(enc_hook=_encode)
_DECODER = msgspec.json.Decoder(Record, dec_hook=_decode)


def recorder(path: Path, inventory_digest: str) -> Callable[[Turned], None]:
    """A loop listener that appends every freshly decided tick to ``path``, after cutting off a torn last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend(path)

    def listen(turned: Turned) -> None:
        if turned.situation is not None and not turned.rebuilt:
            line = _ENCODER.encode(Record(inventory_digest, turned.situation, turned.plans)) + b"\n"
            with path.open("ab", buffering=0) as out:
                out.write(line)

    return listen


def _mend(path: Path) -> None:
    """Cut off the half line that a crash left, so that what follows starts on a line of its own."""
    with path.open("a+b") as found:
        if found.tell():
            found.seek(-1, SEEK_END)
            if found.read(1) != b"\n":
                found.seek(0)
                found.truncate(found.read().rfind(b"\n") + 1)


def read(path: Path) -> Iterator[Record]:
    """The recorded ticks of a file. A torn last line, left by a crash, is skipped."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); record one with 'forecastle run --record FILE'"
        ) from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield _DECODER.decode(line)
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: is not a recorded situation: {error}") from error


def inventory_digest(settings: Settings) -> str:
    """Changes when anything a decision depends on is configured differently; the same in every process."""
    rooms = settings.model_dump(include={"fleet", "policies", "decide", "guards", "playbooks"})
    return digest(msgspec.json.encode(rooms, order="deterministic").decode())


def replay_file(path: Path, settings: Settings) -> tuple[int, list[str]]:
    """Decide every recorded situation again with ``settings``. Returns (ticks the same, a line per difference)."""
    from forecastle.decide.planner import decide
    from forecastle.runtime.inventory import inventory

    known, stock = inventory_digest(settings), inventory(settings)
    same, different = 0, []
    for record in read(path):
        plans = decide(record.situation, stock, settings.decide, settings.guards)
        if plans == record.plans:
            same += 1
            continue
        note = "" if record.inventory == known else " (recorded under another configuration)"
        then, now = _summary(record.plans), _summary(plans)
        different.append(f"tick {record.situation.tick}: then {then}; now {now}{note}")
    return same, different


def _summary(plans: tuple[Plan, ...]) -> str:
    actions = [f"{a.kind} {a.target} -> {a.desired}" for plan in plans for a in plan.actions]
    refused = sum(len(plan.refusals) for plan in plans)
    return f"[{', '.join(actions)}] with {refused} refusals"


def plan_rows(ledger: SqlLedger, limit: int) -> list[dict[str, Any]]:
    """The newest plans, one row each: id, tick, domain, actions, refusals, cost."""
    return [
        {
            "id": plan.id,
            "tick": plan.tick,
            "domain": plan.domain,
            "actions": "; ".join(f"{a.kind} {a.target} {a.expected} -> {a.desired}" for a in plan.actions) or "none",
            "refusals": len(plan.refusals),
            "cost_per_hour": round(plan.cost, 4),
        }
        for plan in ledger.recent_plans(limit)
    ]


def explain_plan(ledger: SqlLedger, plan_id: str) -> str:
    """The paragraph of one plan, found by its id or a unique prefix of it."""
    from forecastle.decide.explain import explain

    found = ledger.find_plan(plan_id)
    if found is None:
        raise NotFound(f"plan {plan_id}: not in the ledger; 'forecastle plan' lists the newest ones")
    return explain(found)
