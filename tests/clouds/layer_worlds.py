"""A clock whose sleeps are its time, and a provider that answers by a script, for tests of the layers over adapters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
POOL = Pool("shop-fra", "shop", "fra", "sim", 0.1, min=3, max=20, quota=20)


class Time:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.at += seconds


class Scripted:
    """Raises what ``script`` holds, one entry a request (None: answers); ``took`` seconds pass meanwhile."""

    name = "scripted"
    capabilities = frozenset({Kind.SCALE, Kind.RESTART})

    def __init__(self, time: Time) -> None:
        self.time = time
        self.script: deque[BaseException | None] = deque()
        self.asked: list[str] = []
        self.took = 0.0
        self.closed = 0
        self.replicas = 3
        self.during: Callable[[], object] = lambda: None

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        self.time.at += self.took
        self.during()
        error = self.script.popleft() if self.script else None
        if error is not None:
            raise error

    def observe(self, pool: Pool) -> Observed:
        self._answer("observe")
        return Observed(pool.name, self.replicas, self.replicas, START, f"v{self.replicas}")

    def preview(self, action: Action, observed: Observed) -> Change:
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        self._answer(f"apply {token}")
        if action.kind is Kind.SCALE:
            self.replicas = int(action.desired)
        return Receipt(action.id, already=False)

    def close(self) -> None:
        self.closed += 1


def scale(desired: int = 5, expected: int = 3) -> Action:
    return Action(Kind.SCALE, "shop", POOL.name, desired, expected, START, START + 300_000)
