"""A site that is driven by its own agent: orders go out signed, answers and sights come back, and silence is not an answer.

The link may be down for a day. What is observed is the agent's last report, and only while it is fresh; an order is given only
to a site that was heard of, and is worth nothing after its deadline.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque

from forecastle.clouds.edge_messages import Answer, Order, Reader, Refused, Sight, Signer, Writer
from forecastle.clouds.edge_sequence import Sequence
from forecastle.errors import (
    BrokerUnavailable,
    CloudUnavailable,
    ConfigError,
    Conflict,
    Denied,
    Malformed,
    NotFound,
    Permanent,
    QuotaExceeded,
    Transient,
    Unsupported,
)
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt, Status

log = logging.getLogger(__name__)
KEPT = 1000
SKEW_S = 60.0
POLL_S = 0.2
_ERRORS: dict[str, type[Permanent]] = {
    error.__name__: error for error in (ConfigError, Conflict, Denied, NotFound, QuotaExceeded, Unsupported)
}


class EdgeCloud:
    """The pools of ``site``, by the agent there. Used from one thread.

    ``stale_s`` is the age in seconds beyond which its last report counts for nothing, ``wait_s`` how long an answer is waited
    for. ``kinds`` are what the agent is allowed to do there. ``refused`` counts what the agent told that it refused, by
    reason, and ``rejected`` what came from there and is not believed; other threads may read both.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        site: str,
        writer: Writer,
        reader: Reader,
        signer: Signer,
        sequence: Sequence,
        kinds: frozenset[Kind] = frozenset({Kind.SCALE}),
        stale_s: float = 120.0,
        wait_s: float = 5.0,
        provider: str = "edge",
    ) -> None:
        self.name = provider
        self.capabilities = kinds
        self.refused: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.refusals: deque[Refused] = deque(maxlen=KEPT)
        self._clock, self._site = clock, site
        self._writer, self._reader, self._signer, self._sequence = writer, reader, signer, sequence
        self._stale_s, self._wait_s = stale_s, wait_s
        self._sight: Sight | None = None
        self._later: dict[str, Answer] = {}
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def observe(self, pool: Pool) -> Observed:
        """The pool as the agent saw it last; ``at`` says when. Raises CloudUnavailable when that is too long ago."""
        problem = self._listen(0.0)
        sight = self._fresh(problem)
        answer = self._later.get(pool.name)
        if answer is not None and answer.after is not None:
            return answer.after
        if pool.name in sight.unknown:
            raise CloudUnavailable(f"site '{self._site}' cannot observe '{pool.name}': {sight.unknown[pool.name]}")
        found = sight.pools.get(pool.name)
        if found is None:
            raise NotFound(f"the agent at site '{self._site}' has no pool '{pool.name}'; add it to `fleet` there")
        return found

    def age_s(self) -> float:
        """Seconds since the newest report was made at the site; infinite when there is none."""
        newest = [self._sight.at] if self._sight else []
        newest += [answer.at for answer in tuple(self._later.values())]
        return (self._clock.now() - max(newest)) / 1000 if newest else float("inf")

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; nothing is sent."""
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Order it and wait for the answer. Raises what the agent raised, or CloudUnavailable (ambiguous) without one."""
        if action.kind not in self.capabilities:
            raise Unsupported(f"site '{self._site}' may not {action.kind}; allow it in `kinds` here and at the agent")
        if action.kind is Kind.SCALE and isinstance(action.desired, int) and action.desired > pool.quota:
            raise QuotaExceeded(f"{pool.name}: {action.desired} replicas asked for, the quota is {pool.quota}")
        problem = self._listen(0.0)
        if token in self._answers:
            return self._receipt(action, self._answers[token], earlier=True)
        self._fresh(problem)
        now = self._clock.now()
        if now >= action.deadline:
            raise Conflict(f"{action.target}: its deadline has passed; observe and plan again")
        order = Order(self._site, self._sequence.next(now), token, now, action.deadline, action)
        try:
            self._writer.send(self._site, [self._signer.seal(order)])
        except Transient as error:
            raise CloudUnavailable(f"site '{self._site}': {error}", ambiguous=True) from error
        return self._receipt(action, self._awaited(token, order.sequence), earlier=False)

    def close(self) -> None:
        """Drop both connections. Idempotent."""
        self._writer.close()
        self._reader.close()

    def _awaited(self, token: str, sequence: int) -> Answer:
        ends, problem = time.monotonic() + self._wait_s, ""
        while token not in self._answers:
            left = ends - time.monotonic()
            if left <= 0:
                what = f"site '{self._site}' has not answered order {sequence} for {self._wait_s:g} s"
                raise CloudUnavailable(f"{what}{problem and f' ({problem})'}", ambiguous=True)
            problem = self._listen(min(left, POLL_S))
            if problem:
                time.sleep(min(left, POLL_S))
        return self._answers[token]

    def _receipt(self, action: Action, answer: Answer, *, earlier: bool) -> Receipt:
        if answer.status in {Status.APPLIED, Status.ALREADY}:
            return Receipt(action.id, already=earlier or answer.status is Status.ALREADY, detail=answer.detail)
        if answer.status is Status.DRY_RUN:
            return Receipt(action.id, already=False, detail=answer.detail, dry_run=True)
        told = f"site '{self._site}': {answer.reason or answer.error or answer.status}: {answer.detail}"
        if answer.status is Status.UNVERIFIED:
            raise CloudUnavailable(told, ambiguous=True)
        raise _ERRORS.get(answer.error, Denied)(told)

    def _fresh(self, problem: str) -> Sight:
        age_s = self.age_s()
        if self._sight is not None and -SKEW_S <= age_s <= self._stale_s:
            return self._sight
        if self._sight is None:
            what = "has not reported yet"
        elif age_s < 0:
            what = f"reports from {-age_s:.0f} s in the future: a clock is wrong"
        else:
            what = f"last reported {age_s:.0f} s ago, more than {self._stale_s:g} s"
        raise CloudUnavailable(f"site '{self._site}' {what}{problem and f' ({problem})'}")

    def _listen(self, timeout_s: float) -> str:
        """Take in what came; a word about the link when it is down."""
        try:
            records = self._reader.poll(timeout_s)
        except BrokerUnavailable as error:
            return str(error)
        for _, _, value in records:
            try:
                self._take(self._signer.open(value, Answer, Refused, Sight))
            except Malformed as error:
                self._reject(error.reason)
        return ""

    def _take(self, message: Answer | Refused | Sight) -> None:
        if message.site != self._site:
            self._reject("other_site")
        elif isinstance(message, Refused):
            self.refusals.append(message)
            self.refused[message.reason] += 1
            log.warning("site '%s' refused a record at %s: %s", self._site, message.where, message.detail)
        elif isinstance(message, Answer):
            self._keep(message)
        elif self._sight is None or message.number > self._sight.number:
            self._sight = message
            self._later = {name: answer for name, answer in self._later.items() if answer.number > message.number}

    def _reject(self, reason: str) -> None:
        self.rejected[reason] += 1
        if self.rejected[reason] == 1:  # the first says it; whoever can write to the topic must not fill our log
            log.warning("a report of site '%s' is not believed: %s", self._site, reason)

    def _keep(self, answer: Answer) -> None:
        if answer.token not in self._answers:
            self._answers[answer.token] = answer
            if answer.status is Status.REFUSED:
                self.refused[answer.reason or answer.error] += 1
        if len(self._answers) > KEPT:
            self._answers.popitem(last=False)
        if answer.after is None or (self._sight is not None and answer.number < self._sight.number):
            return
        known = self._later.get(answer.after.pool)
        if known is None or known.number < answer.number:
            self._later[answer.after.pool] = answer
