"""What the adapter reads in HAProxy's answers: the servers of a backend and what they are told to do, as pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from forecastle.errors import CloudUnavailable, ConfigError, NotFound, Unsupported
from forecastle.types import Pool, digest

READY, DRAIN, MAINT, MIXED = "ready", "drain", "maint", "mixed"
REMEMBERED = 16
_NAME = re.compile(r"[0-9A-Za-z_.:-]{1,128}")
_PATTERN = re.compile(r"[0-9A-Za-z_.:*?,-]{1,512}")
_IN_MAINT, _IN_DRAIN = 0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x08 | 0x10
_UP = frozenset({1, 2})
_COLUMNS = 9


@dataclass(frozen=True, slots=True)
class Server:
    """A server as HAProxy has it: ``weight`` now and ``base`` from its configuration, what it is told and whether it is up."""

    name: str
    weight: int
    base: int
    told: str
    up: bool

    @property
    def serves(self) -> bool:
        """Whether a new request may go there."""
        return self.up and self.told == READY and self.weight > 0

    def at(self, percent: int) -> int:
        """The weight that is ``percent`` of the base weight. Raises Unsupported where HAProxy would round it."""
        weight, rest = divmod(self.base * percent, 100)
        if rest:
            raise Unsupported(f"server {self.name}: {percent}% of weight {self.base} is no whole number; write `weight 100`")
        return weight


@dataclass(frozen=True, slots=True)
class Target:
    """`Pool.target`, understood: the servers of ``backend`` whose names match one of ``patterns``."""

    backend: str
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, pool: Pool) -> Target:
        """Raises ConfigError that says which key of the pool's target is wrong."""
        given = {"servers": "*", **pool.target}
        if unknown := sorted(set(given) - {"backend", "servers"}):
            raise ConfigError(f"pool '{pool.name}': target has no '{unknown[0]}'; it has backend, servers")
        if not _NAME.fullmatch(given.get("backend", "")):
            raise ConfigError(f"pool '{pool.name}': target.backend is '{given.get('backend', '')}'; write a backend's name")
        if not _PATTERN.fullmatch(given["servers"]):
            raise ConfigError(f"pool '{pool.name}': target.servers is '{given['servers']}'; write names or patterns: fra*,ams1")
        return cls(given["backend"], tuple(given["servers"].split(",")))

    @property
    def variable(self) -> str:
        """The process-wide variable in which HAProxy remembers our last actions on these servers."""
        return f"proc.forecastle_{digest(self.backend, *self.patterns)[:16]}"

    def holds(self, server: Server) -> bool:
        """Whether the server is one of the pool's."""
        return any(fnmatchcase(server.name, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Sight:
    """A backend as it was read: the pool's ``servers``, the ``others``, and our actions, newest first (True: done)."""

    target: Target
    servers: tuple[Server, ...]
    others: tuple[Server, ...]
    actions: dict[str, bool]

    @property
    def percent(self) -> int:
        """The pool's weight in percent of its base weight."""
        base = sum(server.base for server in self.servers)
        return round(100 * sum(server.weight for server in self.servers) / base) if base else 0

    @property
    def told(self) -> str:
        """What all its servers are told to do, or MIXED."""
        every = {server.told for server in self.servers}
        return every.pop() if len(every) == 1 else MIXED

    @property
    def version(self) -> str:
        """``percent%-told-hash``: changes with weights, administrative states and our effects; not with health."""
        last = next((token for token, done in self.actions.items() if done), "")
        parts = (f"{s.name} {s.weight} {s.base} {s.told}" for s in self.servers)
        return f"{self.percent}%-{self.told}-{digest(last, *parts)[:12]}"

    def remembered(self, token: str, *, done: bool) -> str:
        """The variable's value with ``token`` on top."""
        every = {token: done, **{other: was for other, was in self.actions.items() if other != token}}
        return ".".join(name if was else f"{name}-" for name, was in list(every.items())[:REMEMBERED])


def parsed(answer: str, target: Target, told: str) -> Sight:
    """A `Sight` from the answer to `questions`. Raises NotFound for no such backend or server, or CloudUnavailable."""
    if "Can't find backend" in answer:
        raise NotFound(f"haproxy at {told} has no backend '{target.backend}'")
    found = re.search(rf"^{re.escape(target.variable)}: type=str value=<([^>]*)>", answer, re.MULTILINE)
    if found is None and "Variable not found" not in answer:
        raise CloudUnavailable(f"haproxy at {told}: the answer is cut short or not understood: {answer[-80:]!r}")
    rows = (line.split() for line in answer.splitlines() if not line.startswith("#"))
    every = [_server(row) for row in rows if len(row) > _COLUMNS and row[1] == target.backend]
    mine = tuple(server for server in every if target.holds(server))
    if not mine:
        raise NotFound(f"haproxy at {told}: backend '{target.backend}' has no server {', '.join(target.patterns)}")
    words = found[1].split(".") if found and found[1] else []
    actions = {word.removesuffix("-"): not word.endswith("-") for word in words}
    return Sight(target, mine, tuple(server for server in every if not target.holds(server)), actions)


def questions(target: Target) -> tuple[str, ...]:
    """What to ask for a `Sight`; the variable last, so that its answer shows that the answers are whole."""
    return f"show servers state {target.backend}", f"get var {target.variable}"


def memory(target: Target, value: str) -> tuple[str, ...]:
    """The commands that leave ``value`` in the target's variable."""
    return "experimental-mode on", f"set var {target.variable} str({value})"


def _server(row: list[str]) -> Server:
    state, flags, weight, base = (int(row[column]) for column in (5, 6, 7, 8))
    told = MAINT if flags & _IN_MAINT else DRAIN if flags & _IN_DRAIN else READY
    return Server(row[3], weight, base, told, state in _UP)
