"""What a simulated pool is and what each kind of action makes of it: values and arithmetic, to be read as the rules.

A pool that is told to restart, roll back or deploy as a whole rolls with a surge, as orchestrators do: what serves goes on
going while its successor starts. A single replica that is restarted or replaced is away until it has started; a quarantined
one leaves the pool and another is ordered in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from forecastle.errors import Unsupported
from forecastle.types import Action, Kind

NEVER = 1 << 62
EMPTYING = frozenset({Kind.DRAIN, Kind.SHIFT})
FENCING = frozenset({Kind.CORDON, Kind.QUARANTINE})

Ready: TypeAlias = Callable[[], int]
"""When (ms) the next replica that is ordered now will serve."""


class Replica(NamedTuple):
    """One replica: ordered (``started``) and serving from ``serves`` (both ms), of the ``generation`` that a restart named."""

    name: str
    started: int
    serves: int
    sick: bool = False
    generation: str = ""


@dataclass(frozen=True, slots=True)
class SimPool:
    """All the simulated cloud knows of a pool. ``down_at`` and ``removed_at`` are ms, 0 when it is not.

    ``born`` counts the replicas there ever were; ``marks`` are traffic weights, cordons and quarantines by `mark`.
    """

    name: str
    startup_ms: int
    release: str = "r1"
    version: int = 1
    replicas: tuple[Replica, ...] = ()
    born: int = 0
    marks: Mapping[str, str] = field(default_factory=dict)
    down_at: int = 0
    removed_at: int = 0

    def serving(self, at: int) -> tuple[Replica, ...]:
        """The replicas that carry traffic at ``at`` (ms)."""
        if self.down_at:
            return ()
        empty = {key for key, weight in self.marks.items() if weight == "0"} if self.marks else ()
        return tuple(r for r in self.replicas if r.serves <= at and not r.sick and mark(Kind.DRAIN, r.name) not in empty)

    def named(self, name: str) -> tuple[Replica, ...]:
        """The replica of this name, or none."""
        return tuple(r for r in self.replicas if r.name == name)


def mark(kind: Kind, replica: str = "") -> str:
    """Where ``SimPool.marks`` keeps what an action of ``kind`` says about a replica, or about the whole pool."""
    return f"{'weight' if kind in EMPTYING else kind.value}/{replica}"


def grown(pool: SimPool, n: int, at: int, ready: Ready) -> SimPool:
    """``n`` more replicas, ordered at ``at``."""
    names = [f"{pool.name}-{pool.born + i + 1}" for i in range(n)]
    fresh = tuple(Replica(name, at, ready()) for name in names)
    return replace(pool, replicas=(*pool.replicas, *fresh), born=pool.born + n)


def shrunk(pool: SimPool, n: int, at: int) -> SimPool:
    """``n`` fewer: those that do not serve go first, then the youngest."""
    alive = {r.name for r in pool.serving(at)}
    order = sorted(pool.replicas, key=lambda r: (r.name not in alive, r.started))
    kept = set(order[: len(order) - n])
    return _manned(pool, tuple(r for r in pool.replicas if r in kept))


def rolled(pool: SimPool, at: int, ready: Ready, *, generation: str = "", renamed: bool = True) -> SimPool:
    """Every replica started anew at ``at``; those that serve hand over without a gap."""
    alive = {r.name for r in pool.serving(at)}
    fresh = []
    for i, old in enumerate(pool.replicas):
        name = f"{pool.name}-{pool.born + i + 1}" if renamed else old.name
        fresh.append(Replica(name, at, old.serves if old.name in alive else ready(), generation=generation))
    return _manned(pool, tuple(fresh), born=len(fresh) if renamed else 0)


def swapped(pool: SimPool, name: str, at: int, ready: Ready, *, generation: str = "", renamed: bool = True) -> SimPool:
    """One replica away and another, or the same, starting in its place at ``at``."""
    new = f"{pool.name}-{pool.born + 1}" if renamed else name
    fresh = Replica(new, at, ready(), generation=generation)
    return _manned(pool, tuple(fresh if r.name == name else r for r in pool.replicas), born=int(renamed))


def _manned(pool: SimPool, replicas: tuple[Replica, ...], *, born: int = 0) -> SimPool:
    """The pool with these replicas, ``born`` of them new; what was said about those that are gone is forgotten."""
    there = {"", *(r.name for r in replicas)}
    marks = {key: value for key, value in pool.marks.items() if key.partition("/")[2] in there}
    return replace(pool, replicas=replicas, born=pool.born + born, marks=marks)


def holds(action: Action, pool: SimPool) -> bool:
    """Whether what the action asks for is so already."""
    kind, wanted = action.kind, str(action.desired)
    if kind is Kind.SCALE:
        return len(pool.replicas) == action.desired
    if kind in {Kind.RESTART, Kind.REPLACE}:
        target = pool.named(action.replica) if action.replica else pool.replicas
        return all(r.generation == wanted or (wanted.isdigit() and r.started >= int(wanted)) for r in target)
    if kind is Kind.ROLLBACK:
        return pool.release == wanted
    if kind in EMPTYING:
        return pool.marks.get(mark(kind, action.replica), "100") == wanted
    return kind in FENCING and mark(kind, action.replica) in pool.marks


def effect(action: Action, pool: SimPool, at: int, ready: Ready) -> SimPool:
    """The pool after the action took effect at ``at``, as the next version. Raises Unsupported for a senseless ``desired``."""
    return replace(_changed(action, pool, at, ready), version=pool.version + 1)


def _changed(action: Action, pool: SimPool, at: int, ready: Ready) -> SimPool:
    kind, wanted, name = action.kind, str(action.desired), action.replica
    if kind is Kind.SCALE:
        n = replicas_wanted(action) - len(pool.replicas)
        return grown(pool, n, at, ready) if n > 0 else shrunk(pool, -n, at)
    if name and kind in {Kind.RESTART, Kind.REPLACE, Kind.QUARANTINE}:
        return swapped(pool, name, at, ready, generation=wanted, renamed=kind is not Kind.RESTART)
    if kind in {Kind.RESTART, Kind.REPLACE}:
        return rolled(pool, at, ready, generation=wanted, renamed=kind is Kind.REPLACE)
    if kind is Kind.ROLLBACK:
        return replace(rolled(pool, at, ready), release=wanted)
    if kind is Kind.NOTIFY:
        return pool
    return replace(pool, marks={**pool.marks, mark(kind, name): wanted})


def replicas_wanted(action: Action) -> int:
    """The replica count that a SCALE asks for. Raises Unsupported when it is none."""
    if isinstance(action.desired, int) and action.desired >= 0:
        return action.desired
    raise Unsupported(f"scale {action.pool} to {action.desired!r}: ask for a whole number of replicas, 0 or more")
