"""What a placement asks of what runs now: what may stay where it is, and where what is lacking should start.

Cheaper places are worth waiting for: demand's own swings carry a workload there. Allowed ones are not: while replicas run where
a rule (spread, survival, nearness, spot, a maximum) does not let them, the promise behind that rule is broken, however many
there are in all. As many are started where they are allowed, and the others leave when there are more than enough.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forecastle.decide.offers import Cap, Order, room
from forecastle.types import Fleet


@dataclass(frozen=True, slots=True)
class Pace:
    """``target`` replicas by open pool: as many of those that run as the rules allow, and what is lacking beside them.

    ``amiss`` of those that run are not among them, for all that they are needed, because of the ``rules``.
    """

    target: Mapping[str, int]
    amiss: int = 0
    rules: tuple[str, ...] = ()

    def says(self, name: str) -> str:
        """The replicas of the workload ``name`` that are amiss, in words."""
        return f"{self.amiss} replicas of {name} run where {' and '.join(self.rules)} does not let them"


def pace(wanted: Order, placed: Mapping[str, int], fleet: Fleet) -> Pace:
    """The next stage on the way to ``placed``. What that itself exceeds, for want of room or money, breaks no rule here."""
    running = {name: fleet.observed[name].replicas for name in wanted.low}
    number = sum(placed[name] for name in running)
    stage = _Stage.of(wanted, {name: min(count, placed[name]) for name, count in running.items()}, placed)
    stage.fill(running, number)
    kept = sum(stage.held.values())
    stage.fill(placed, number)
    stage.limits = [math.inf] * len(stage.limits)
    stage.fill(placed, number)
    amiss = min(number, sum(running.values())) - kept
    return Pace(stage.held, amiss, tuple(dict.fromkeys(_broken(wanted, running))) if amiss else ())


def _broken(wanted: Order, running: Mapping[str, int]) -> Iterator[str]:
    """The rules that what runs exceeds."""
    yield from (cap.rule for cap in wanted.caps if cap.exceeded(running))
    yield from (f"at most {room(wanted.pools[name])} in {name}" for name, n in running.items() if n > room(wanted.pools[name]))


def _limit(cap: Cap, best: int) -> float:
    """How many the pools of ``cap`` may hold: one that the best placement exceeds is no reason to move.

    Survival is: what can be saved of it is worth having.
    """
    if best <= cap.limit:
        return cap.limit
    return best if cap.rule.startswith("survive") else math.inf


@dataclass(slots=True)
class _Stage:
    """Replicas ``held`` so far; of every cap its limit and how many it holds, and by pool which caps it is under."""

    order: Order
    held: dict[str, int]
    limits: Sequence[float]
    used: list[int]
    under: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, wanted: Order, held: dict[str, int], placed: Mapping[str, int]) -> _Stage:
        under: dict[str, list[int]] = defaultdict(list)
        for i, cap in enumerate(wanted.caps):
            for name in cap.pools:
                under[name].append(i)
        limits = [_limit(cap, sum(placed[name] for name in cap.pools)) for cap in wanted.caps]
        return cls(wanted, held, limits, [sum(held[name] for name in cap.pools) for cap in wanted.caps], under)

    def fill(self, most: Mapping[str, int], number: int) -> None:
        """Raise pools up to ``most`` and to ``number`` in all, inside the caps, cheapest first."""
        left = number - sum(self.held.values())
        reach = Counter[str]()
        for offer in self.order.offers:
            name = offer.pool.name
            reach[name] += offer.room
            more = min(left, min(most[name], reach[name]) - self.held[name])
            if more <= 0:
                continue
            more = int(min([more, *(self.limits[i] - self.used[i] for i in self.under[name])]))
            if more > 0:
                self.held[name] += more
                left -= more
                for i in self.under[name]:
                    self.used[i] += more
