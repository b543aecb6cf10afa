"""A site with its agent, control, and a link between them that can be cut, bent and recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forecastle.clouds.edge import EdgeCloud
from forecastle.clouds.edge_messages import Answer, Order, Refused, Sight, Signer
from forecastle.clouds.edge_sequence import Sequence
from forecastle.clouds.sim import SimCloud
from forecastle.errors import BrokerUnavailable
from forecastle.runtime.agent import Agent, Post
from forecastle.runtime.agent_book import AgentBook
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
SECOND = 1_000
HOUR = 3_600 * SECOND
KEY, OTHER = b"k" * 32, b"o" * 32
POOL = Pool("shop-ams", "shop", "ams", "local", 0.1, startup_s=0, min=1, max=20, quota=12)


class Wire:
    """One way of the link: an append-only log, as a partition is. Nothing passes while it is ``down``."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.down = False

    def send(self, site: str, values: list[bytes]) -> None:
        if self.down:
            raise BrokerUnavailable("no connection")
        self.log += [(site, value) for value in values]

    def close(self) -> None:
        """Nothing to drop."""


class Tap:
    """Reads a wire from ``at``; ``before`` happens first, so that one thread can play both ends."""

    def __init__(self, wire: Wire, site: str, at: int = 0, before: Any = lambda: None) -> None:
        self.wire, self.site, self.at, self.before = wire, site, at, before

    def poll(self, timeout_s: float) -> list[tuple[int, int, bytes]]:
        self.before()
        if self.wire.down:
            raise BrokerUnavailable("no connection")
        begin, self.at = self.at, len(self.wire.log)
        rows = list(enumerate(self.wire.log))[begin:]
        return [(0, offset, value) for offset, (site, value) in rows if site == self.site]

    def close(self) -> None:
        """Nothing to drop."""


@dataclass
class Edge:
    """Control here, an agent there, the sim cloud behind it."""

    folder: Path
    clock: EventClock = field(default_factory=lambda: EventClock(START))
    orders: Wire = field(default_factory=Wire)
    reports: Wire = field(default_factory=Wire)
    pools: tuple[Pool, ...] = (POOL,)
    kinds: frozenset[Kind] = frozenset({Kind.SCALE})
    faults: dict[str, float] = field(default_factory=dict)
    alive: bool = True

    def __post_init__(self) -> None:
        self.local: Any = SimCloud(clock=self.clock, path=str(self.folder / "sim.db"), **self.faults)
        self.local.observe(POOL)
        self.agent = self.start()
        self.cloud = self.control()

    def start(self, **changes: Any) -> Agent:
        """A new process of the agent, which has only what is on its disk."""
        book = AgentBook(str(self.folder / "agent.db"))
        tap = Tap(self.orders, "ams", book.position(0) or 0)
        pools = {pool.name: pool for pool in self.pools}
        signer = Signer({"k1": KEY}, "k1")
        post = Post("ams", pools, {"local": self.local}, tap, self.reports, signer, book, self.clock, self.kinds)
        self.agent = Agent(replace(post, **changes))
        return self.agent

    def control(self, **changes: Any) -> EdgeCloud:
        """A new process of control."""
        told: dict[str, Any] = {
            "clock": self.clock,
            "site": "ams",
            "writer": self.orders,
            "reader": Tap(self.reports, "ams", before=self.pump),
            "signer": Signer({"k1": KEY}, "k1"),
            "sequence": Sequence(str(self.folder / "sequence")),
            "kinds": self.kinds,
            "wait_s": 0.05,
        }
        self.cloud = EdgeCloud(**told | changes)
        return self.cloud

    def pump(self) -> None:
        if self.alive:
            self.agent.turn(0.0)

    def wait(self, seconds: float) -> None:
        self.clock.advance(self.clock.now() + round(seconds * SECOND))

    def action(self, desired: int | str, *, kind: Kind = Kind.SCALE, expected: Any = None, life_s: float = 300) -> Action:
        """On the pool as it is there."""
        self.wait(1)
        seen, tick = self.local.observe(POOL), self.clock.now()
        wanted = seen.replicas if kind is Kind.SCALE else seen.version
        deadline = tick + round(life_s * SECOND)
        return Action(kind, "shop", POOL.name, desired, wanted if expected is None else expected, tick, deadline)

    def do(self, desired: int) -> Receipt:
        action = self.action(desired)
        self.cloud.observe(POOL)
        return self.cloud.apply(action, POOL, token=action.id)

    def order(self, desired: int = 3, *, key: bytes = KEY, key_id: str = "k1", **changes: Any) -> bytes:
        """An order as control would send it, bent by ``changes``."""
        action = self.action(desired)
        now = self.clock.now()
        made = Order("ams", now, action.id, now, action.deadline, action)
        return Signer({key_id: key}, key_id).seal(replace(made, **changes))

    def deliver(self, *values: bytes, site: str = "ams") -> None:
        self.orders.log += [(site, value) for value in values]
        self.agent.turn(0.0)

    def told(self, kind: type) -> list[Any]:
        """What the agent said, of one kind."""
        every = [Signer({"k1": KEY}, "k1").open(value, Answer, Refused, Sight) for _, value in self.reports.log]
        return [message for message in every if isinstance(message, kind)]

    def refused(self) -> list[str]:
        return [message.reason for message in self.told(Refused)]

    def replicas(self) -> int:
        seen: Observed = self.local.observe(POOL)
        return seen.replicas
