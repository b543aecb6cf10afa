"""The side door to the simulated cloud: what happens to a fleet that nobody ordered, for the demo's world and for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from forecastle.clouds.sim_file import SimFile
from forecastle.clouds.sim_pool import SimPool, grown, mark, rolled
from forecastle.errors import NotFound
from forecastle.types import Kind, Pool


@dataclass(frozen=True, slots=True)
class PoolState:
    """The truth about a pool: replicas ``ordered`` and ``ready``, its ``release`` and when (ms) each replica ``started``.

    ``started`` is the time of the order; a replica serves a start-up time later. ``weight`` is its traffic weight in percent.
    """

    ordered: int
    ready: int
    release: str
    started: tuple[int, ...]
    weight: int = 100


class SimWorld:
    """Events in the file ``path`` of a `forecastle.clouds.sim.SimCloud`. A context manager; use it from one thread.

    What changes a pool raises NotFound when there is none of that name, and CloudUnavailable when the file is busy.
    """

    def __init__(self, path: str) -> None:
        self._file = SimFile(path)

    def __enter__(self) -> SimWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def provision(self, pool: Pool, replicas: int, at: int, release: str = "r1") -> None:
        """Set the pool up anew with ``replicas`` that serve from ``at``."""
        with self._file.writing():
            old = self._file.pool(pool.name)
            version, born = (old.version + 1, old.born) if old else (1, 0)
            fresh = SimPool(pool.name, int(pool.startup_s * 1000), release, version, born=born)
            self._file.save(grown(fresh, replicas, at, lambda: at))

    def ready(self, at: int) -> dict[str, int]:
        """Replicas that carry traffic at ``at``, by pool."""
        return {pool.name: len(pool.serving(at)) for pool in self._file.pools()}

    def states(self, at: int) -> dict[str, PoolState]:
        """Every pool's state at ``at``."""
        return {pool.name: _state(pool, at) for pool in self._file.pools()}

    def fail_site(self, pools: Iterable[str], at: int) -> None:
        """All of these pools stop serving at ``at``; what is ordered meanwhile does not start."""
        self._change(pools, lambda pool: replace(pool, down_at=pool.down_at or at))

    def restore_site(self, pools: Iterable[str], at: int) -> None:
        """All of these pools that had failed start anew at ``at``."""
        self._change(pools, lambda pool: replace(_from_scratch(pool, at), down_at=0) if pool.down_at else pool)

    def deploy(self, pool: str, release: str, at: int) -> None:
        """Somebody rolls ``release`` out at ``at``; the pool's version changes."""
        self._change([pool], lambda old: replace(rolled(old, at, _in_time(old, at)), release=release, version=old.version + 1))

    def sicken(self, pool: str, n: int, at: int) -> tuple[str, ...]:
        """``n`` replicas serving at ``at`` fall sick, the oldest first, until they are restarted or replaced; their names."""
        chosen: list[str] = []

        def infected(old: SimPool) -> SimPool:
            chosen.extend(r.name for r in sorted(old.serving(at), key=lambda r: r.started)[:n])
            return replace(old, replicas=tuple(r._replace(sick=r.sick or r.name in chosen) for r in old.replicas))

        self._change([pool], infected)
        return tuple(chosen)

    def remove(self, pool: str, at: int) -> None:
        """Somebody deletes the pool; whoever observes it is told NotFound."""
        self._change([pool], lambda old: replace(old, removed_at=at, replicas=()))

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _change(self, pools: Iterable[str], to: Callable[[SimPool], SimPool]) -> None:
        with self._file.writing():
            for name in pools:
                old = self._file.pool(name)
                if old is None or old.removed_at:
                    raise NotFound(f"the sim cloud {self._file.path} has no pool '{name}'; provision it first")
                self._file.save(to(old))


def _state(pool: SimPool, at: int) -> PoolState:
    weight = int(pool.marks.get(mark(Kind.SHIFT), "100"))
    started = tuple(r.started for r in pool.replicas)
    return PoolState(len(pool.replicas), len(pool.serving(at)), pool.release, started, weight)


def _in_time(pool: SimPool, at: int) -> Callable[[], int]:
    return lambda: at + pool.startup_ms


def _from_scratch(pool: SimPool, at: int) -> SimPool:
    return replace(pool, replicas=tuple(r._replace(started=at, serves=at + pool.startup_ms, sick=False) for r in pool.replicas))
