"""Forecasts, incidents and the fleet to plans: pure, so that a recorded situation gives the same plans again.

The order within a tick: what each workload needs, where it would best be, growth, failover, heals, scale-in, pages. Growth is
first because it cannot hurt what runs; a failover only keeps traffic from where nobody serves it; a heal and a scale-in take
something away, so they share one failure domain per tick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from forecastle.decide.court import Court
from forecastle.decide.explain import Why, paragraph
from forecastle.decide.failover import failover
from forecastle.decide.heal import Remedy, remedies
from forecastle.decide.offers import Need
from forecastle.decide.pages import notices, pages
from forecastle.decide.place import Placement, place
from forecastle.decide.scale import grow, scalings, shrink, shrinking
from forecastle.decide.sight import Sight
from forecastle.decide.sights import Tick
from forecastle.guards.healing import panicking
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import Action, Inventory, Kind, Plan, Refusal, Situation, digest


def decide(situation: Situation, inventory: Inventory, settings: DecideSettings, guards: GuardSettings) -> tuple[Plan, ...]:
    """Plans of one tick, one failure domain each; a last one without a domain speaks of the workloads nothing is done to.

    No plan at all only when this worker sees no workload.
    """
    tick = Tick.of(situation, inventory, settings, guards)
    if not tick.sights:
        return ()
    placed = _placement(tick)
    tick = tick.with_amiss({name: pace.amiss for name, pace in placed.paces.items()})
    wanted = scalings(tick, placed)
    court = Court(tick)
    grow(court, [scaling for scaling in wanted if not shrinking(scaling.action)])
    moved = failover(tick)
    for action in moved.actions:
        court.hear(action)
    healing = tuple(remedies(tick))
    _heal(court, healing)
    shrink(court, [scaling.action for scaling in wanted if shrinking(scaling.action)])
    for action in notices(tick, pages(tick, healing, court, placed)):
        court.hear(action)
    return _Scribe(tick, placed, moved.notes).plans(court)


def _placement(tick: Tick) -> Placement:
    """Where the wanted replicas would best be; of a settled workload, no more than it has."""
    needs = [
        Need(
            name,
            min(sight.size.wanted, sight.ordered) if sight.settled else sight.size.wanted,
            sight.view.floor,
            sight.size.keep,
        )
        for name, sight in tick.sights.items()
    ]
    return place(needs, tick.inventory, tick.situation.fleet, down=tick.down, settings=tick.settings)


def _heal(court: Court, healing: Sequence[Remedy]) -> None:
    """Hear every remedy. A panic is recorded at every tick it lasts, asked for or not: its end is counted from the last."""
    for remedy in healing:
        for action in remedy.actions:
            court.hear(action)
    tick = court.tick
    why = panicking(tick.facts, tick.guards)
    if why and not any(refusal.guard == "panic" for refusal in court.refusals):
        observed = tick.situation.fleet.observed.values()
        pool = tick.inventory.pools[min(o.pool for o in observed if o.unhealthy and o.pool in tick.inventory.pools)]
        court.refusals.append(Refusal("panic", f"{why}: suspect the sensor", pool.name, pool.workload))


QUIET = 50
"""Workloads to which nothing is done that a plan has numbers of, the most important ones: so it stays small in any fleet."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A plan in the making: the ``people`` who must approve its ``actions``; ``silent`` workloads are well as they are."""

    domain: str
    actions: Sequence[Action]
    refusals: Sequence[Refusal]
    people: int = 0
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Scribe:
    """Writes down what was granted and refused."""

    tick: Tick
    placed: Placement
    moved: Sequence[tuple[str, str, str]]

    def plans(self, court: Court) -> tuple[Plan, ...]:
        """One plan per failure domain and number of people to ask, in the order granted; then the rest."""
        groups: dict[tuple[str, int], list[Action]] = defaultdict(list)
        for action, people in court.granted:
            groups[self.tick.inventory.domain(action.pool), people].append(action)
        refused: dict[str, list[Refusal]] = defaultdict(list)
        for refusal in court.refusals:
            refused[self.tick.inventory.domain(refusal.pool) if refusal.pool else ""].append(refusal)
        cost = self.tick.facts.cost
        plans: list[Plan] = []
        spoken: set[str] = set()
        for (domain, people), actions in groups.items():
            cost += sum(self._cost(action) for action in actions)
            refusals = refused.pop(domain, [])
            plans.append(self._plan(_Draft(domain, actions, refusals, people), cost))
            spoken |= set(plans[-1].recommended)
        silent = frozenset(self.tick.sights) - spoken
        rest = [refusal for domain in refused for refusal in refused[domain]]
        if silent or rest:
            plans.append(self._plan(_Draft("", (), rest, silent=silent), cost))
        return tuple(plans)

    def _cost(self, action: Action) -> float:
        if action.kind is not Kind.SCALE:
            return 0.0
        pool = self.tick.inventory.pools[action.pool]
        return pool.cost(int(action.desired)) - pool.cost(int(action.expected))

    def _plan(self, draft: _Draft, cost: float) -> Plan:
        at, actions = self.tick.at, tuple(draft.actions)
        named = {a.workload for a in actions} | {r.workload for r in draft.refusals if r.workload}
        names = sorted(named | draft.silent)
        evidence = {name: self._evidence(self.tick.sights[name]) for name in sorted(named)}
        quiet = sorted((self.tick.sights[name] for name in draft.silent - named), key=lambda s: (-s.load.priority, s.load.name))
        mine = [note for note in self.placed.notes if note.partition(":")[0] in names]
        moved = [note for note in self.moved if note[0] in names]
        why = Why(evidence, cost, quiet, mine, moved)
        return Plan(
            digest("plan", at, draft.domain, draft.people, *names, *(a.id for a in actions)),
            at,
            draft.domain,
            actions,
            paragraph(draft.domain, actions, why),
            evidence | {sight.load.name: sight.in_short() for sight in quiet[:QUIET]},
            tuple(draft.refusals),
            {name: self.tick.sights[name].size.wanted for name in names},
            cost,
            self.tick.deadline,
            draft.people,
        )

    def _evidence(self, sight: Sight) -> dict[str, object]:
        observed, pools = self.tick.situation.fleet.observed, sight.load.pools
        now = {p: observed[p].replicas for p in pools if p in observed}
        best = {p: self.placed.replicas[p] for p in pools if p in self.placed.replicas}
        rules: dict[str, object] = {}
        if sight.load.name in self.placed.bound:
            rules["bound"] = list(self.placed.bound[sight.load.name])
        pace = self.placed.paces[sight.load.name]
        if pace.amiss:
            rules["misplaced"] = pace.says(sight.load.name)
        return sight.evidence() | {"pools": now, "placed": best, "placement": self.placed.method} | rules
