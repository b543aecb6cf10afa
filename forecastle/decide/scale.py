"""From a placement to scalings: grow what is missing, shrink what is too much, and never both to save a little.

A placement says where the wanted replicas would best be. Getting there at once would pay for the fleet twice while it moves,
so growth is limited to what the workload lacks and shrinking to what it has too much: demand's own swings carry a workload to
its better places. Growth may be in many domains in one tick, since it cannot hurt what runs; shrinking is in one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from forecastle.decide.court import Court
from forecastle.decide.sight import Sight
from forecastle.decide.sights import Tick
from forecastle.types import Action, Inventory, Kind, Pool


def scalings(tick: Tick, placed: Mapping[str, int]) -> list[Action]:
    """A SCALE for every pool that should change; growth first, the most important workloads first."""
    actions = []
    observed = tick.situation.fleet.observed
    for sight in sorted(tick.sights.values(), key=lambda s: (-s.load.priority, s.load.name)):
        reason = f"{sight.size.wanted} wanted, {sight.ordered} ordered: {sight.size.binding}"
        for pool, target in _paced(sight, placed, tick):
            current = observed[pool.name].replicas
            actions.append(
                Action(Kind.SCALE, sight.load.name, pool.name, target, current, tick.at, tick.deadline, reason=reason)
            )
    return sorted(actions, key=shrinking)


def shrinking(action: Action) -> bool:
    """Whether a SCALE asks for fewer replicas than there are."""
    return int(action.desired) < int(action.expected)


def _paced(sight: Sight, placed: Mapping[str, int], tick: Tick) -> Iterator[tuple[Pool, int]]:
    """(pool, target) of the pools to change: growth cheapest first up to the deficit, shrinking dearest first to the surplus.

    A pool below its minimum, a missing site, a pool above its maximum and one outside the residency move regardless.
    """
    inventory, fleet = tick.inventory, tick.situation.fleet
    context, load = sight.context, sight.load
    pools = [inventory.pools[name] for name in load.pools if name in placed and name in fleet.observed]
    pools = [p for p in pools if not context.down(p.name)]
    current = {p.name: fleet.observed[p.name].replicas for p in pools}
    change = 0 if sight.settled else sight.size.wanted - sight.ordered
    deficit, surplus = max(0, change), max(0, -change)
    sites = {p.site for p in pools if current[p.name] and context.serves(p.name)}
    for pool in sorted(pools, key=lambda p: (_saves(p, current[p.name] + 1), p.name)):
        more = placed[pool.name] - current[pool.name]
        if more <= 0:
            continue
        first = pool.site not in sites and len(sites) < load.min_sites
        grown = max(min(more, deficit), min(more, 1 if first else 0), min(more, pool.min - current[pool.name]))
        if grown > 0:
            deficit -= min(grown, deficit)
            sites.add(pool.site)
            yield pool, current[pool.name] + grown
    for pool in sorted(pools, key=lambda p: (_saves(p, current[p.name]), p.name), reverse=True):
        fewer = current[pool.name] - placed[pool.name]
        must = fewer if not context.serves(pool.name) else current[pool.name] - min(pool.max, pool.quota)
        removed = min(fewer, max(surplus, must))
        if removed > 0:
            surplus -= min(removed, surplus)
            yield pool, current[pool.name] - removed


def _saves(pool: Pool, number: int) -> float:
    """Money per hour that the pool's how-manieth replica costs: nothing up to what is committed."""
    return 0.0 if number <= pool.committed else pool.unit_price


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
