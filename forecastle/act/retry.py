"""Asking again: whom, how often and after how long, in one place for reads and effects.

A cloud that says Transient says when to come back, and that is honoured; what is added to it grows and is random, so that those
who were turned away together do not come back together. Adapters and the layers over them never ask twice: only here can
be checked before each request whether it may still be made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from forecastle.errors import Permanent, Transient
from forecastle.ports import Cloud
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Tried(Generic[Answer]):
    """What came of asking: the ``answer``, or the last ``error`` and why it was not asked again (``gave_up``).

    ``doubt``: some request may have had its effect without our hearing of it. ``forbidden`` is why a request must not be made.
    """

    answer: Answer | None = None
    error: Exception | None = None
    gave_up: str = ""
    doubt: bool = False
    forbidden: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask up to ``attempts`` times while the answer is Transient, waiting ``retry_after`` and up to ``backoff_s`` * 2^n more.

    Who wants to be left alone for more than ``longest_wait_s`` seconds is. ``uniform`` draws from 0 to 1.
    """

    attempts: int
    longest_wait_s: float
    sleep: Callable[[float], None]
    uniform: Callable[[], float]
    backoff_s: float = 0.25

    def ask(
        self,
        request: Callable[[], Answer],
        *,
        left_s: Callable[[], float],
        forbidden: Callable[[], str] = str,
        bugs: bool = False,
    ) -> Tried[Answer]:
        """Ask until there is an answer, a Permanent error or no sense in asking again.

        ``left_s`` is how many seconds an answer is still of use: no wait goes beyond them. ``forbidden`` is asked before every
        request and says why it must not be made. With ``bugs`` an error that no adapter should raise is a doubtful Transient.
        """
        doubt = False
        error: Exception | None = None
        for attempt in range(self.attempts):
            if reason := forbidden():
                return Tried(error=error, doubt=doubt, forbidden=reason)
            try:
                return Tried(request(), doubt=doubt)
            except Transient as found:
                doubt, error, wait_s = doubt or found.ambiguous, found, found.retry_after
            except Exception as found:  # noqa: BLE001 - a bug in an adapter must not take every other target down with it
                if not bugs or isinstance(found, Permanent):
                    return Tried(error=found, doubt=doubt)
                doubt, error, wait_s = True, found, 0.0
            if reason := self._senseless(wait_s, left_s()):
                return Tried(error=error, doubt=doubt, gave_up=reason)
            if attempt + 1 < self.attempts:
                jitter_s = self.uniform() * self.backoff_s * 2**attempt
                self.sleep(min(wait_s + jitter_s, max(wait_s, left_s())))
        return Tried(error=error, doubt=doubt, gave_up=f"gave up after {self.attempts} attempts")

    def _senseless(self, wait_s: float, left_s: float) -> str:
        if wait_s > self.longest_wait_s:
            return f"not to be tried again for {wait_s:g} s"
        return f"no time to wait for {wait_s:g} s" if wait_s > left_s else ""


class Retried:
    """A cloud whose pools are observed again while that fails for a moment, within ``within_s`` seconds.

    An effect passes as it is: who tells it checks before each attempt whether it may still happen.
    """

    def __init__(self, inner: Cloud, retry: Retry, *, within_s: float, monotonic: Callable[[], float]) -> None:
        self._inner, self._retry, self._within_s, self._monotonic = inner, retry, within_s, monotonic
        self.name: str = inner.name
        self.capabilities: frozenset[Kind] = inner.capabilities

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now. Raises the last error when it cannot be had in time."""
        until = self._monotonic() + self._within_s
        tried = self._retry.ask(lambda: self._inner.observe(pool), left_s=lambda: until - self._monotonic())
        if tried.error is not None:
            raise tried.error
        return cast(Observed, tried.answer)

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do; no effect."""
        return self._inner.preview(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so, asked once."""
        return self._inner.apply(action, pool, token=token)

    def close(self) -> None:
        """Release connections. Idempotent."""
        self._inner.close()
