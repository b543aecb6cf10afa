"""The promises, checked after every step and at every effect by code that shares nothing with the guards.

The numbers of the comments are those of the invariants; what is compared with is the world's own knowledge, the raw rows
of the database and the people's memory, never a guard, and never the ledger's own reading of itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from simulation_faults import Effect
from simulation_world import DEMANDS, HISTORY, PER_REPLICA, PLAY, REACTIVE, STALE_S, TICKS, number, tick

from forecastle.runtime.loop import Turned
from forecastle.types import DISRUPTIVE, Action, Kind, Mode, Status

if TYPE_CHECKING:
    from simulation_run import Controller, World

CLASS = {"A": 0, "B": 1, "C": 2}
GENESIS = "0" * 64


class Checks:
    """Finds broken promises of one run; ``broken`` says which, and by what."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.controllers: list[Controller] = []
        self.broken: list[str] = []
        self.plans: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.intents: dict[str, int] = {}
        self.ended: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.epochs: dict[str, int] = {}
        self._head = (0, GENESIS)
        self._told: set[str] = set()

    def broke(self, promise: str, how: str) -> None:
        """One promise is broken; the first ten are kept."""
        if len(self.broken) < 10:
            self.broken.append(f"{promise}: {how}")

    def expect(self, holds: bool, promise: str, how: object) -> None:
        """Break ``promise`` unless it ``holds``."""
        if not holds:
            self.broke(promise, str(how))

    def rows(self, query: str, *values: object) -> list[Any]:
        """Raw rows of the ledger's database."""
        with self.world.ledger.database.read() as conn:
            return list(conn.exec_driver_sql(query, values).all())

    # --- at every tick of a controller ----------------------------------------------------------------------------------

    def turned(self, who: Controller, turned: Turned) -> None:
        """5: the newest slot of every series is what the log says, once. 10: a plan is in one domain; 1: and within limits."""
        closed, demand = turned.closed, self.world.demand
        slot = number(closed.tick)
        for row, key in enumerate(closed.windows.keys):
            if key not in DEMANDS.values():
                continue
            expected, mask = demand.folded.get((key, slot)), bool(closed.windows.mask[row, -1])
            self.expect((expected is not None) == mask, "5 exactly once", f"{key} in slot {slot}: observed is {mask}")
            if expected is not None and mask:
                found = closed.windows.values[row, -1]
                same = abs(found - expected) <= 1e-5 * expected
                self.expect(same, "5 exactly once", f"{key} slot {slot}: {found} {expected}")
        for plan in turned.plans:
            where = {self.world.stock.domain(action.pool) for action in plan.actions}
            self.expect(where <= {plan.domain}, "10 one domain per plan", f"{plan.domain}: {where}")
            for refusal in plan.refusals:
                self.world.sometimes[f"guard: {refusal.guard}"] += 1
        for outcome in turned.outcomes:
            self.world.sometimes[f"outcome: {outcome.kind.value} {outcome.status.value}"] += 1
            self.world.sometimes[f"refused at the effect: {outcome.detail.partition(':')[0]}"] += (
                outcome.status is Status.REFUSED
            )

    # --- at every effect -----------------------------------------------------------------------------------------------

    def effect(self, e: Effect) -> None:
        """Everything that must be true of the world at the moment something happens in it."""
        self.read_chain()
        action, people = e.action, self.world.operator
        where = f"{e.who} {action.kind.value} {action.target} {e.before}->{e.after} at +{(e.at - tick(HISTORY)) / 60000:.2f}"
        pool = self.world.stock.pools[action.pool]
        self.expect(sum(o.token == e.token for o in self.world.truth.effects) == 1, "6 once per action id", where)
        expected = action.kind is not Kind.SCALE or e.before == action.expected
        self.expect(expected, "a broken expectation is a conflict", where)
        if e.late:  # the cloud knows no clock and no switch of ours: the token and the expectation are all there is
            return
        self.expect(action.id in self.intents, "7 the intent is durable before the effect", where)
        self.expect(not self._over(action.id), "8 no effect after the end", where)
        self.expect(e.at <= action.deadline, "8 no effect after the deadline", where)
        others = self.rows("select 1 from intents where state = 'open' and target = ?", action.target)
        self.expect(len(others) == 1, "10 one in flight", f"{where}: {len(others)} open")
        row = self.rows("select epoch from leases where target = ?", action.target)
        mine = next(c.store.epochs.get(action.target) for c in self.controllers if c.name == e.who)
        self.expect(bool(row) and row[0].epoch == mine, "9 the newest epoch alone acts", f"{where}: {row} {mine}")
        self.expect(not people.killed, "11 the kill switch means zero effects", where)
        names = {action.workload, action.pool, pool.site, self.world.stock.domain(pool.name)}
        self.expect(not names & people.held, "11 a hold means zero effects", where)
        self.expect(pool.workload == action.workload, "15 only one's own", where)
        self._approved(e, where)
        if action.kind is Kind.SCALE:
            self._scaled(e, where)
        if action.kind in DISRUPTIVE:
            self._healed(e, where)

    def _over(self, action_id: str) -> bool:
        return bool(self.ended[action_id]) and self.ended[action_id][-1]["seq"] > self.intents.get(action_id, 0)

    def _approved(self, e: Effect, where: str) -> None:
        """12: as many distinct people as the kind and the mode ask for; nothing at all in shadow."""
        action, people = e.action, self.world.operator
        mode = people.modes[action.workload]
        self.expect(mode is not Mode.SHADOW, "shadow only recommends", where)
        needed = CLASS[action.approval or "A"] if action.kind in DISRUPTIVE else 0
        needed = max(needed, 1 if mode is Mode.ADVISE else 0)
        plans = self.plans.get(action.id, [])  # two controllers may have decided the same
        said = max((people.approvals.get(plan["id"], set()) - {"forecastle"} for plan in plans), key=len, default=set())
        self.expect(bool(plans), "only a plan in the ledger is authority", where)
        self.expect(len(said) >= needed, "12 approvals", f"{where}: {needed} needed, {sorted(said)} approved")

    def _scaled(self, e: Effect, where: str) -> None:
        pool = self.world.stock.pools[e.action.pool]
        low, high = min(pool.min, e.before), max(min(pool.max, pool.quota), e.before)
        self.expect(low <= e.after <= high, "1 min <= desired <= max <= quota", where)
        self.expect(e.after <= e.before or self._resident(pool.name), "14 allowed regions only", where)
        past = [o for o in self.world.truth.effects[:-1] if o.action.pool == pool.name and not o.late]
        past = [o for o in past if o.action.kind is Kind.SCALE]
        if e.after > e.before:
            added = sum(max(0, o.after - o.before) for o in past if e.at - o.at < 60_000)
            allowed = max(4, math.floor(0.5 * (e.before - added) + 1e-9))
            self.expect(added + e.after - e.before <= allowed, "4 steps up", f"{where}: {added} before, {allowed} allowed")
        if e.after < e.before:
            self._shrunk(e, where, [o for o in past if o.after < o.before])

    def _shrunk(self, e: Effect, where: str, past: list[Effect]) -> None:
        removed = sum(o.before - o.after for o in past if e.at - o.at < 120_000)
        base = e.before + removed
        allowed = max(math.floor(0.1 * base + 1e-9), 1 if base >= 3 else 0)
        self.expect(removed + e.before - e.after <= allowed, "4 steps down", f"{where}: {removed} before, {allowed} allowed")
        self.expect(all(e.at - o.at >= 180_000 for o in past), "4 cool-down", f"{where}: {[e.at - o.at for o in past]}")
        self._trusted(e.action, where)
        value = self._newest(e.action)
        if value is not None and self._resident(e.action.pool):
            left = sum(self.world.truth.replicas(p) for p in self._serving(e.action.workload))
            need = math.ceil(value / (PER_REPLICA * REACTIVE) * (1 - 1e-6))
            self.expect(left >= need, "2 never below the fresh reactive floor", f"{where}: {left} left, {need} needed")

    def _healed(self, e: Effect, where: str) -> None:
        """13 and the budgets of 10: two signals, and so many an hour in a domain."""
        self.expect(e.action.signals >= 2, "13 destructive means two signals", where)
        self._trusted(e.action, where)
        domain = self.world.stock.domain(e.action.pool)
        same = [o for o in self.world.truth.effects if o.action.kind in DISRUPTIVE]
        same = [o for o in same if self.world.stock.domain(o.action.pool) == domain]
        self.expect(sum(e.at - o.at < 1_800_000 for o in same) <= 2 + 1, "10 domain budgets", f"{where}: {len(same)}")

    def _trusted(self, action: Action, where: str) -> None:
        """3: the decision's data was neither missing nor forged."""
        key, slot = DEMANDS[action.workload], number(action.tick)
        seen = [s for s in range(slot, -1, -1) if (key, s) in self.world.demand.folded]
        silent_s = (action.tick - (tick(seen[0]) - 20_000)) / 1000 if seen else math.inf
        self.expect(silent_s <= STALE_S, "3 nothing is taken away on stale data", f"{where}: {silent_s:g} s")
        forged = bool(seen) and (action.workload, seen[0]) in self.world.demand.odd
        self.expect(not forged, "3 nothing is taken away on suspect data", f"{where}: slot {slot}")

    def _newest(self, action: Action) -> float | None:
        key, slot = DEMANDS[action.workload], number(action.tick)
        return next(
            (self.world.demand.folded[key, s] for s in range(slot, slot - 3, -1) if (key, s) in self.world.demand.folded), None
        )

    def _resident(self, pool: str) -> bool:
        stock = self.world.stock
        load = stock.workloads[stock.pools[pool].workload]
        return not load.residency or bool(load.residency & stock.sites[stock.pools[pool].site].residency)

    def _serving(self, workload: str) -> list[str]:
        return [p for p in self.world.stock.workloads[workload].pools if self._resident(p)]

    # --- after every step ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """7: the chain links. 9: epochs never decrease. 10: one in flight per target."""
        self.read_chain()
        for row in self.rows("select target, epoch from leases"):
            self.expect(row.epoch >= self.epochs.get(row.target, 0), "9 epochs never decrease", f"{row.target}: {row.epoch}")
            self.epochs[row.target] = row.epoch
        query = "select target, count(*) as n from intents where state = 'open' group by target"
        for row in self.rows(query):
            self.expect(row.n == 1, "10 one in flight", f"{row.target}: {row.n}")

    def read_chain(self) -> None:
        """Follow the chain from where we were, with hashes of our own."""
        query = "select seq, at, kind, body, prev, hash from entries where seq > ? order by seq"
        for row in self.rows(query, self._head[0]):
            line = f"{self._head[1]}\n{row.seq}\n{row.at}\n{row.kind}\n{row.body}"
            linked = row.seq == self._head[0] + 1 and row.prev == self._head[1]
            good = linked and row.hash == hashlib.sha256(line.encode()).hexdigest()
            self.expect(good, "7 the chain verifies", f"entry {row.seq}")
            self._head = row.seq, row.hash
            self.world.weather.note("entry", row.seq, row.hash)
            self._entry(row.seq, row.kind, json.loads(row.body))

    def _entry(self, seq: int, kind: str, body: dict[str, Any]) -> None:
        if kind == "tick":
            for plan in body["plans"]:
                for action in plan["actions"]:
                    self.plans[self._id(action)].append(plan)
        elif kind == "intent":
            self.expect(body["action_id"] not in self.intents, "6 one intent per action id", body["action_id"])
            self.intents[body["action_id"]] = seq
        elif kind == "outcome":
            self._outcome(seq, body)

    def _outcome(self, seq: int, body: dict[str, Any]) -> None:
        """7: the outcome follows the effect, once. 16: unknown is not success."""
        action_id, status = body["action_id"], body["status"]
        intended = action_id in self.intents
        self.expect(not (intended and self._over(action_id)), "7 one outcome per intent", f"{action_id}: {status}")
        self.ended[action_id].append({"seq": seq, **body})
        if not intended or body["kind"] == "notify":
            return
        done = [e for e in self.world.truth.effects if e.token == action_id and not e.late]
        if status == "APPLIED" and body["kind"] == "scale":
            plan = self.plans[action_id][0]
            asked = next(a["desired"] for a in plan["actions"] if self._id(a) == action_id)
            self.expect(body["after"]["replicas"] == asked, "16 unknown is not success", body)
        if status in {"REFUSED", "FAILED"} and done and done[-1].before != done[-1].after:
            self.broke(
                "16 an effect is not forgotten", f"{status} {body['detail']} although {done[-1].before}->{done[-1].after}"
            )

    @staticmethod
    def _id(action: dict[str, Any]) -> str:
        target = f"{action['pool']}/{action['replica']}" if action.get("replica") else action["pool"]
        return hashlib.sha256("\x1f".join((target, action["kind"], str(action["tick"]))).encode()).hexdigest()[:32]

    # --- at the end ----------------------------------------------------------------------------------------------------

    def liveness(self) -> None:
        """With the faults off: every intent ends, the floor is reached, lag clears, pages are delivered, the past verifies."""
        world = self.world
        self.expect(
            not self.rows("select 1 from intents where state = 'open'"),
            "every intent ends",
            self.rows("select * from intents where state = 'open'"),
        )
        self.expect(world.ledger.verify() == self._head[0], "7 the chain matches its witness", self._head)
        for controller in self.controllers:
            behind = tick(TICKS - 2) - controller.loop.last_tick if controller.alive else 1
            self.expect(behind <= 0, "lag clears", f"{controller.name} is {behind / 60000:g} ticks behind")
            refused = len(controller.memory.dead_letters)
            self.expect(refused == world.log.refused, "5 dead-lettered once", f"{refused} of {world.log.refused}")
        if world.choice[2] is None:
            for workload in world.stock.workloads:
                self._floor_reached(workload)
        self._pages()

    def _floor_reached(self, workload: str) -> None:
        world, pools = self.world, self._serving(workload)
        need = min(world.demand.true(workload, s) for s in range(TICKS - 5, TICKS)) / (PER_REPLICA * REACTIVE)
        most = sum(world.stock.pools[p].max for p in pools)
        there = sum(world.truth.replicas(p) for p in pools)
        self.expect(there >= min(math.floor(need / 1.1), most), "the floor is reached", f"{workload}: {there} for {need:.1f}")

    def _pages(self) -> None:
        """A page that came too late, since the faults had only just ended, is told again by a later plan."""
        last, first = tick(TICKS - 4), tick(HISTORY + PLAY)
        pages = [(plans[0], self._action_of(plans[0], action_id), action_id) for action_id, plans in self.plans.items()]
        quiet = [(plan["tick"], a, name) for plan, a, name in pages if a["kind"] == "notify" and first <= plan["tick"]]
        reached = [
            (at, (a["pool"], a["replica"])) for at, a, name in quiet if any(b["status"] == "APPLIED" for b in self.ended[name])
        ]
        for at, action, _ in quiet:
            if at <= last:
                told = any(then >= at and to == (action["pool"], action["replica"]) for then, to in reached)
                self.world.sometimes["a page delivered in the quiet part"] += told
                self.expect(told, "pages are delivered", f"{action['pool']}: {action['desired']}")

    def _action_of(self, plan: dict[str, Any], action_id: str) -> dict[str, Any]:
        return next(action for action in plan["actions"] if self._id(action) == action_id)
