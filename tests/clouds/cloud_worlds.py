"""One simulated provider with its world and its clock."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace

from forecastle.clouds.sim import SimCloud
from forecastle.clouds.sim_world import PoolState, SimWorld
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
SECOND = 1_000
POOL = Pool("shop-fra", "shop", "fra", "sim", 0.1, startup_s=60, min=3, max=20, quota=12)
EDGE = replace(POOL, name="shop-edge", min=0, startup_s=5)


@dataclass
class Sim:
    """One provider: a connection, its world and its clock."""

    cloud: SimCloud
    world: SimWorld
    clock: EventClock
    path: str

    def seen(self, pool: Pool = POOL) -> Observed:
        return self.cloud.observe(pool)

    def action(self, kind: Kind, desired: int | str, *, replica: str = "", pool: Pool = POOL) -> Action:
        """On the pool as it is."""
        seen = self.seen(pool)
        expected = seen.replicas if kind is Kind.SCALE else seen.version
        tick = self.clock.now()
        return Action(kind, "shop", pool.name, desired, expected, tick, tick + 300 * SECOND, replica)

    def do(self, kind: Kind, desired: int | str, *, replica: str = "", pool: Pool = POOL) -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, replica=replica, pool=pool)
        return self.cloud.apply(action, pool, token=f"{action.id}/{self.seen(pool).version}")

    def wait(self, seconds: float) -> None:
        self.clock.advance(self.clock.now() + int(seconds * SECOND))

    def orders(self) -> list[tuple[object, ...]]:
        return self.select("select token, pool, at, kind, desired from orders order by rowid")

    def state(self, pool: Pool = POOL) -> PoolState:
        return self.world.states(self.clock.now())[pool.name]

    def names(self) -> list[str]:
        """The replicas of `POOL`."""
        self.seen()
        ((state,),) = self.select(f"select state from pools where name = '{POOL.name}'")
        return [replica[0] for replica in json.loads(str(state))["replicas"]]

    def select(self, query: str) -> list[tuple[object, ...]]:
        """Read the file from outside."""
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(query).fetchall()
