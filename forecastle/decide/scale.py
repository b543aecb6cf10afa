"""From a placement to scalings: grow what is missing, shrink what is too much, and never both to save a little.

A placement says where the wanted replicas would best be. Getting there at once would pay for the fleet twice while it moves,
so growth is limited to what the workload lacks and shrinking to what it has too much: demand's own swings carry a workload to
its better places. Only what runs where a rule does not let it is paid for twice, since the rule is broken until it has left.
Growth may be in many domains in one tick, since it cannot hurt what runs; shrinking is in one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from forecastle.decide.court import Court
from forecastle.decide.place import Placement
from forecastle.decide.sight import Sight
from forecastle.decide.sights import Tick
from forecastle.types import Action, Inventory, Kind, Pool


@dataclass(frozen=True, slots=True)
class Scaling:
    """A SCALE, of whose growth ``moves`` replicas are not lacking: they make up for others that are to leave."""

    action: Action
    moves: int = 0


def scalings(tick: Tick, placed: Placement) -> list[Scaling]:
    """A SCALE for every pool that should change, the most important workloads first."""
    found = []
    observed = tick.situation.fleet.observed
    for sight in sorted(tick.sights.values(), key=lambda s: (-s.load.priority, s.load.name)):
        reason = f"{sight.size.wanted} wanted, {sight.ordered} ordered: {sight.size.binding}"
        if (pace := placed.paces[sight.load.name]).amiss:
            reason += f"; {pace.says(sight.load.name)}"
        for pool, target, moves in _paced(sight, placed, tick):
            current = observed[pool.name].replicas
            action = Action(Kind.SCALE, sight.load.name, pool.name, target, current, tick.at, tick.deadline, reason=reason)
            found.append(Scaling(action, moves))
    return found


def shrinking(action: Action) -> bool:
    """Whether a SCALE asks for fewer replicas than there are."""
    return int(action.desired) < int(action.expected)


def _paced(sight: Sight, placed: Placement, tick: Tick) -> Iterator[tuple[Pool, int, int]]:
    """(pool, target, moves) of the pools to change: growth cheapest first, shrinking dearest first to the surplus.

    Growth is what is lacking, and what has to make up for replicas that are amiss before they may leave. A pool below its
    minimum, a missing site, a pool above its maximum and one outside the residency move regardless.
    """
    inventory, fleet = tick.inventory, tick.situation.fleet
    context, load, pace = sight.context, sight.load, placed.paces[sight.load.name]
    pools = [inventory.pools[name] for name in load.pools if name in placed.replicas and name in fleet.observed]
    pools = [p for p in pools if not context.down(p.name)]
    current = {p.name: fleet.observed[p.name].replicas for p in pools}
    change = 0 if sight.settled else sight.size.wanted - sight.ordered
    lacking, extra, surplus = max(0, change), pace.amiss, max(0, -change)
    sites = {p.site for p in pools if current[p.name] and context.serves(p.name)}
    for pool in sorted(pools, key=lambda p: (_saves(p, current[p.name] + 1), p.name)):
        now, best = current[pool.name], placed.replicas[pool.name]
        missing = pool.site not in sites and len(sites) < load.min_sites
        low = max(0, min(best, pool.min) - now)
        grown = max(min(pace.target.get(pool.name, 0) - now, lacking + extra), min(best - now, 1 if missing else 0), low)
        if grown > 0:
            needed = min(grown, max(lacking, low))
            lacking -= min(grown, lacking)
            extra -= min(grown - needed, extra)
            sites.add(pool.site)
            yield pool, now + grown, grown - needed
    for pool in sorted(pools, key=lambda p: (_saves(p, current[p.name]), p.name), reverse=True):
        now = current[pool.name]
        fewer = now - pace.target.get(pool.name, 0)
        must = fewer if not context.serves(pool.name) else now - min(pool.max, pool.quota)
        removed = min(fewer, max(surplus, must))
        if removed > 0:
            surplus -= min(removed, surplus)
            yield pool, now - removed, 0


def _saves(pool: Pool, number: int) -> float:
    """Money per hour that the pool's how-manieth replica costs: egress alone up to what is committed."""
    return (0.0 if number <= pool.committed else pool.unit_price) + pool.egress_h


def grow(court: Court, found: Sequence[Scaling]) -> None:
    """Hear growth, until as many replicas as may change places in a tick do; what is lacking is never a move.

    What a guard refuses uses up nothing.
    """
    most = court.tick.settings.max_moves
    left = math.inf if most is None else most
    for scaling in found:
        action, growth = scaling.action, int(scaling.action.desired) - int(scaling.action.expected)
        over = int(max(0, scaling.moves - left))
        if over:
            asked = int(action.desired)
            why = f"at most {most} replicas of the fleet change places per tick: {asked} -> {asked - over}"
            court.refuse("max_moves", why, action)
            action = replace(action, desired=asked - over)
        if over < growth and court.hear(action):
            granted = int(court.granted[-1][0].desired) - int(action.expected)
            left -= max(0, granted - (growth - scaling.moves))


def shrink(court: Court, actions: Sequence[Action]) -> None:
    """Hear scale-ins of one failure domain: of those where something may shrink, the one that waited longest.

    Domains whose every scale-in is refused do not use up the turn; ties go to the one that saves most.
    """
    inventory = court.tick.inventory
    by_domain: dict[str, list[Action]] = defaultdict(list)
    for action in actions:
        by_domain[inventory.domain(action.pool)].append(action)
    turn, last = court.disrupted(), _last_scale_ins(court.tick)
    for domain in sorted(by_domain, key=lambda d: (last.get(d, 0), -_saved(by_domain[d], inventory), d)):
        if turn not in {"", domain}:
            for action in by_domain[domain]:
                court.refuse("one_domain", f"this tick shrinks or heals {turn}; {domain} waits", action)
        elif sum(court.hear(action) for action in by_domain[domain]):
            turn = domain


def _saved(actions: Sequence[Action], inventory: Inventory) -> float:
    return sum(inventory.pools[a.pool].cost(int(a.expected)) - inventory.pools[a.pool].cost(int(a.desired)) for a in actions)


def _last_scale_ins(tick: Tick) -> dict[str, int]:
    """When (ms) something last shrank, by failure domain; without those where that is beyond memory."""
    last: dict[str, int] = {}
    for pool, changes in tick.facts.changed.items():
        for o in changes if pool in tick.inventory.pools else ():
            if o.before is not None and o.after is not None and o.after.replicas < o.before.replicas:
                domain = tick.inventory.domain(pool)
                last[domain] = max(o.at, last.get(domain, 0))
    return last
