"""HAProxy: traffic between the servers of a backend, by weight, drain and maintenance, over its runtime API.

HAProxy has no conditional write, so an action first leaves its token there, looks again, and then changes the servers and marks
the token done in one line of commands, which HAProxy carries out in order.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO

from forecastle.clouds import haproxy_servers as haproxy
from forecastle.clouds import traffic_weights as weights
from forecastle.clouds.haproxy_servers import Server, Sight, Target
from forecastle.clouds.haproxy_socket import RuntimeSocket
from forecastle.errors import CloudUnavailable, Conflict, Denied, NotFound, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt, Traffic, digest


class HaproxyCloud:
    """One HAProxy process by its stats socket (``level admin``), a path or ``host:port``.

    ``Pool.target`` has ``backend`` and, unless the pool is all of it, ``servers``: names or patterns, ``fra*,ams1``. A replica
    is a server's name. ``ramp`` is how many percent points one SHIFT moves at most: for a larger one it is to be asked again,
    as every tick does. ``timeout_s`` bounds connecting and each wait for an answer.
    """

    capabilities = frozenset({Kind.SHIFT, Kind.DRAIN, Kind.CORDON})

    def __init__(
        self, *, clock: Clock, socket: str, provider: str = "haproxy", timeout_s: float = 3.0, ramp: int = weights.ALL
    ) -> None:
        self.name = provider
        self._clock = clock
        self._told = socket
        self._socket = RuntimeSocket(socket, timeout_s)
        self._ramp = weights.checked_ramp(ramp, provider)

    def observe(self, pool: Pool) -> Observed:
        """The pool's servers; ready are those that are up and neither drained nor in maintenance, unhealthy those down."""
        sight = self._look(Target.of(pool))
        ready = sum(server.up and server.told == haproxy.READY for server in sight.servers)
        down = tuple(sorted(s.name for s in sight.servers if not s.up and s.told != haproxy.MAINT))
        at = self._clock.now()
        return Observed(pool.name, len(sight.servers), ready, at, sight.version, unhealthy=down, traffic=_traffic(sight))

    def sessions(self, pool: Pool) -> dict[str, int]:
        """Requests and connections that each of the pool's servers is busy with: 0 when a drain is over."""
        target = Target.of(pool)
        names = {server.name for server in self._look(target).servers}
        rows = csv.DictReader(StringIO(self._socket.read("show stat").removeprefix("# ")))
        return {row["svname"]: int(row["scur"]) for row in rows if row["pxname"] == target.backend and row["svname"] in names}

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no request."""
        percent, told, *_ = observed.version.split("-")
        before = percent.removesuffix("%") if action.kind is Kind.SHIFT else told
        after = str(action.desired) if action.kind is Kind.SHIFT else _order(action)
        return Change(action.id, before, after, noop=not action.replica and before == after)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, Unsupported or CloudUnavailable."""
        if action.kind not in self.capabilities:
            raise Unsupported(f"{action.kind} {action.target}: not a thing to do with servers of HAProxy")
        name, target = digest(token), Target.of(pool)
        sight = self._look(target)
        if sight.actions.get(name) or (name in sight.actions and next(iter(sight.actions)) != name):
            return Receipt(action.id, already=True, detail="this token was used")
        goals = self._goals(sight, action)
        if _is_so(sight, goals):
            return Receipt(action.id, already=True, detail="it is so already")
        _check(action, sight, goals)
        self._claim(sight, name)
        sight = self._look(target)
        if next(iter(sight.actions), "") != name:
            raise Conflict(f"{action.target}: another action took it in the same moment; observe and plan again")
        _check(action, sight, goals)
        done = haproxy.memory(target, sight.remembered(name, done=True))
        self._socket.write(*_orders(sight, goals, action.kind), *done)
        return Receipt(action.id, already=False, detail=f"{action.kind} {_told(goals, action.kind)}")

    def close(self) -> None:
        """Nothing to release: each line of commands has its own connection."""

    def _look(self, target: Target) -> Sight:
        return haproxy.parsed(self._socket.read(*haproxy.questions(target)), target, self._told)

    def _claim(self, sight: Sight, name: str) -> None:
        """Leave the token, not done. Losing the answer is not ambiguous: no server was touched."""
        try:
            self._socket.write(*haproxy.memory(sight.target, sight.remembered(name, done=False)))
        except CloudUnavailable as error:
            raise CloudUnavailable(str(error), retry_after=error.retry_after) from error

    def _goals(self, sight: Sight, action: Action) -> tuple[Server, ...]:
        """The servers that the action is about, as it wants them."""
        about = tuple(server for server in sight.servers if action.replica in {"", server.name})
        if not about:
            raise NotFound(f"{action.target}: backend '{sight.target.backend}' has no such server in this pool")
        if action.kind is not Kind.SHIFT:
            return tuple(replace(server, told=_order(action)) for server in about)
        now = replace(sight, servers=about).percent
        percent = weights.step(now, weights.wanted(action), self._ramp)
        return tuple(replace(server, weight=server.at(percent)) for server in about)


open_cloud = HaproxyCloud


def _traffic(sight: Sight) -> Traffic | None:
    """Its weight and what changes that: states where all servers have the same, so that nobody else's drain is undone.

    None in maintenance, which is for whoever ordered it to end.
    """
    if sight.told == haproxy.MAINT:
        return None
    if sight.told == haproxy.DRAIN:
        return Traffic(0, Kind.DRAIN)
    return Traffic(sight.percent, Kind.DRAIN if sight.told == haproxy.READY and sight.percent else Kind.SHIFT)


def _order(action: Action) -> str:
    """The administrative state that a DRAIN or CORDON asks for."""
    if action.kind is Kind.CORDON:
        return haproxy.MAINT
    percent = weights.wanted(action)
    if percent not in {0, weights.ALL}:
        raise Unsupported(f"drain {action.target} to {percent}: 0 drains, 100 takes back; a weight in between is a SHIFT")
    return haproxy.READY if percent else haproxy.DRAIN


def _is_so(sight: Sight, goals: tuple[Server, ...]) -> bool:
    return set(goals) <= set(sight.servers)


def _check(action: Action, sight: Sight, goals: tuple[Server, ...]) -> None:
    """Raises Conflict for a broken expectation, and Denied where nobody would be left to serve."""
    if sight.version != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {sight.version}; observe and plan again")
    changed = {server.name: server for server in goals}
    every = (*sight.servers, *sight.others)
    if any(s.serves for s in every) and not any(changed.get(s.name, s).serves for s in every):
        raise Denied(f"{action.target}: no server of backend '{sight.target.backend}' would be left; bring another up first")


def _orders(sight: Sight, goals: tuple[Server, ...], kind: Kind) -> list[str]:
    names = [(f"set server {sight.target.backend}/{server.name}", server) for server in goals if server not in sight.servers]
    if kind is Kind.SHIFT:
        return [f"{start} weight {server.weight}" for start, server in names]
    return [f"{start} state {server.told}" for start, server in names]


def _told(goals: tuple[Server, ...], kind: Kind) -> str:
    first = goals[0]
    return f"to {round(100 * first.weight / first.base) if first.base else 0}%" if kind is Kind.SHIFT else f"to {first.told}"
