"""The agent of a site: it takes signed orders off the link, carries each out at most once, and tells what came of it.

The link may be gone for a day. Meanwhile nothing is lost that has to be told, what is observed replaces what was observed
before, and when orders arrive at last those that have expired are refused. An order is written down before its effect: after
a crash it is asked for again under the same token, or, once expired, judged by what can be seen and never asked for again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from forecastle.clouds.edge_messages import Answer, Order, Reader, Refused, Sight, Signer, Writer
from forecastle.errors import BrokerUnavailable, Conflict, ForecastleError, Malformed, NotFound, Permanent, Transient
from forecastle.ports import Clock, Cloud
from forecastle.runtime.agent_book import AgentBook, Open
from forecastle.types import Kind, Observed, Pool, Status

log = logging.getLogger(__name__)
BUG_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Post:
    """What an agent works with: its ``site``, the pools there and their adapters, the link, and what it may do."""

    site: str
    pools: Mapping[str, Pool]
    clouds: Mapping[str, Cloud]
    reader: Reader
    writer: Writer
    signer: Signer
    book: AgentBook
    clock: Clock
    kinds: frozenset[Kind] = frozenset({Kind.SCALE})
    report_s: float = 10.0


@dataclass(slots=True)
class Agent:
    """See the module. Raises StoreUnavailable when its memory fails: then nothing was begun that it does not know of.

    ``refused`` counts by reason what it refused since it began.
    """

    post: Post
    link: str = ""
    refused: Counter[str] = field(default_factory=Counter)
    _reported: float | None = None
    _pauses: dict[str, float] = field(default_factory=dict)

    def turn(self, timeout_s: float = 1.0) -> None:
        """Take what came, go on with what is open, look, and tell. ``link`` says afterwards what is wrong with it."""
        self.link = ""
        try:
            records = self.post.reader.poll(timeout_s)
        except BrokerUnavailable as error:
            records, self.link = [], str(error)
        for partition, offset, value in records:
            self._record(partition, offset, value)
        for unfinished in self.post.book.unfinished():
            self._go_on(unfinished)
        self._look()
        self._tell()

    def now(self) -> int:
        """The time in ms: a clock that was set back does not make an expired order valid again."""
        return max(self.post.clock.now(), self.post.book.latest)

    # --- orders -----------------------------------------------------------------------------------------------------

    def _record(self, partition: int, offset: int, value: bytes) -> None:
        """Take an order, or tell why not; nothing is said of a record that came before.

        Of an earlier offset a genuine order with a new number is taken as well: the topic was made anew.
        """
        book = self.post.book
        again = offset < (book.position(partition) or 0)
        try:
            order = self._genuine(value)
        except Malformed as error:
            if again:
                return
            where = f"{partition}/{offset}"
            with book.writing():
                refused = Refused(self.post.site, book.next_number(), self.now(), error.reason, str(error), where)
                book.tell("refused", self.post.signer.seal(refused))
                book.move(partition, offset)
            self.refused[error.reason] += 1
            return
        self._order(order, partition, offset)

    def _genuine(self, value: bytes) -> Order:
        """The order in ``value``. Raises Malformed when it is not control's, not for this site, or not new."""
        order: Order = self.post.signer.open(value, Order)
        if order.site != self.post.site:
            raise Malformed("other_site", order.site)
        if order.sequence <= self.post.book.sequence:
            raise Malformed("replayed", f"number {order.sequence} after {self.post.book.sequence}")
        return order

    def _order(self, order: Order, partition: int, offset: int) -> None:
        """A genuine order, not seen before: write it down and carry it out, or refuse it."""
        book = self.post.book
        if book.taken(order.token):
            with book.writing():
                book.number(order)
                book.move(partition, offset)
                self._again(order.token)
            return
        reason, detail = self._objection(order)
        before = None if reason else self._seen(order)
        if not reason:
            self._supersede(order)
        with book.writing():
            book.number(order)
            book.take(order, before)
            book.move(partition, offset)
            if reason:
                self._end(order, Status.REFUSED, reason=reason, detail=detail, error=_RAISED.get(reason, "Denied"))
        if not reason:
            self._go_on(Open(order, before))

    def _objection(self, order: Order) -> tuple[str, str]:
        """Why the order must not be carried out, as a code and in words; '' twice when it may."""
        action, pool = order.action, self.post.pools.get(order.action.pool)
        if (late_ms := max(self.now(), order.issued_at) - order.expires_at) >= 0:
            return "expired", f"{late_ms / 1000:g} s ago"
        if pool is None:
            return "unknown_pool", action.pool
        if action.kind not in self.post.kinds or action.kind not in self.post.clouds[pool.adapter].capabilities:
            return "unsupported", f"{action.kind} is not allowed here"
        most = min(pool.max, pool.quota)
        if action.kind is Kind.SCALE and not (type(action.desired) is int and pool.min <= action.desired <= most):
            return "out_of_bounds", f"{action.desired} is not within {pool.min} and {most}"
        return "", ""

    def _supersede(self, order: Order) -> None:
        """Older orders for the same pool that are still open are given up: the newer one says what is wanted now."""
        for older in self.post.book.unfinished():
            if older.order.action.pool == order.action.pool:
                with self.post.book.writing():
                    self._end(older.order, Status.UNVERIFIED, reason="superseded", before=older.before)

    def _again(self, token: str) -> None:
        """Tell the answer once more, as one that changed nothing. An order that is still open will be answered anyway."""
        sealed = self.post.book.answer(token)
        if sealed is None:
            return
        answer: Answer = self.post.signer.open(sealed, Answer)
        status = Status.ALREADY if answer.status is Status.APPLIED else answer.status
        again = replace(answer, number=self.post.book.next_number(), status=status, detail="this token was used", after=None)
        self.post.book.tell("answer", self.post.signer.seal(again))

    # --- effects ----------------------------------------------------------------------------------------------------

    def _go_on(self, unfinished: Open) -> None:
        """Carry the order out, unless it has expired since it was taken: then only look."""
        order = unfinished.order
        if self.now() >= order.expires_at:
            after = self._seen(order)
            shows = order.action.kind is Kind.SCALE and after is not None and after.replicas == order.action.desired
            with self.post.book.writing():
                self._end(
                    order,
                    Status.APPLIED if shows else Status.UNVERIFIED,
                    reason="expired",
                    detail="seen although unanswered" if shows else "expired before it was known whether it had its effect",
                    before=unfinished.before,
                    after=after,
                )
        elif self.post.clock.monotonic() >= self._pauses.get(order.token, 0.0):
            self._carry_out(order, unfinished.before)

    def _carry_out(self, order: Order, before: Observed | None) -> None:
        try:
            pool = self._pool(order)
            receipt = self.post.clouds[pool.adapter].apply(order.action, pool, token=order.token)
        except Transient as error:
            self._pauses[order.token] = self.post.clock.monotonic() + error.retry_after
            return
        except Permanent as error:
            status = Status.REFUSED if isinstance(error, Conflict) else Status.FAILED
            with self.post.book.writing():
                self._end(order, status, error=type(error).__name__, detail=str(error), before=before)
            return
        except Exception:
            log.exception("%s %s", order.action.kind, order.action.target)
            self._pauses[order.token] = self.post.clock.monotonic() + BUG_PAUSE_S
            return
        after = self._seen(order)
        status = Status.DRY_RUN if receipt.dry_run else Status.ALREADY if receipt.already else Status.APPLIED
        with self.post.book.writing():
            self._end(order, status, detail=receipt.detail, before=before, after=after)

    def _end(
        self,
        order: Order,
        status: Status,
        *,
        error: str = "",
        reason: str = "",
        detail: str = "",
        before: Observed | None = None,
        after: Observed | None = None,
    ) -> None:
        """Keep and queue the answer; inside ``writing``."""
        number = self.post.book.next_number()
        answer = Answer(self.post.site, number, order.token, self.now(), status, error, reason, detail, before, after)
        self.post.book.end(order.token, self.post.signer.seal(answer))
        if status is Status.REFUSED:
            self.refused[reason or error] += 1
        self._pauses.pop(order.token, None)

    def _pool(self, order: Order) -> Pool:
        """Raises NotFound for a pool that was taken out of the configuration since."""
        pool = self.post.pools.get(order.action.pool)
        if pool is None:
            raise NotFound(f"there is no pool '{order.action.pool}' at site '{self.post.site}' any more")
        return pool

    def _seen(self, order: Order) -> Observed | None:
        with suppress(ForecastleError):
            pool = self._pool(order)
            return self.post.clouds[pool.adapter].observe(pool)
        return None

    # --- reports ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Every ``report_s``, what each pool is like."""
        moment, now = self.post.clock.monotonic(), self.now()
        if self._reported is not None and moment - self._reported < self.post.report_s:
            return
        seen, unknown = dict[str, Observed](), dict[str, str]()
        for name, pool in self.post.pools.items():
            try:
                seen[name] = self.post.clouds[pool.adapter].observe(pool)
            except NotFound:
                continue
            except ForecastleError as error:
                unknown[name] = f"{type(error).__name__}: {error}"
        book = self.post.book
        with book.writing():
            book.tell("sight", self.post.signer.seal(Sight(self.post.site, book.next_number(), now, seen, unknown)))
        book.forget(now)
        self._reported = moment

    def _tell(self) -> None:
        """Send what is queued; what the link did not take stays queued."""
        if self.link:
            return
        while letters := self.post.book.letters():
            try:
                self.post.writer.send(self.post.site, [value for _, value in letters])
            except Transient as error:
                self.link = str(error)
                return
            self.post.book.told([number for number, _ in letters])


_RAISED = {"expired": "Conflict", "unknown_pool": "NotFound", "unsupported": "Unsupported"}
