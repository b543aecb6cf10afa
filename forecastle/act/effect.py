"""One effect on one cloud: told at most a few times with the same token, and judged by what can be seen afterwards.

An answer that never came is not an answer: the effect may have happened, so it is asked for again with the same token, which
cannot make it happen twice. What stays unknown ends as UNVERIFIED, never as a success.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forecastle.act.readback import difference, shows, untouched
from forecastle.act.retry import Retry
from forecastle.errors import Conflict
from forecastle.ports import Cloud
from forecastle.types import Action, Kind, Observed, Pool, Receipt, Status


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of telling the cloud: its ``receipt``, or the ``status`` that the lack of one suggests and why.

    ``doubt``: some request may have had its effect without our hearing of it.
    """

    receipt: Receipt | None
    status: Status
    detail: str = ""
    doubt: bool = False


def tell(
    cloud: Cloud,
    action: Action,
    pool: Pool,
    retry: Retry,
    *,
    left_s: Callable[[], float],
    forbidden: Callable[[], str],
) -> Answer:
    """Apply ``action`` with its id as the token, as often as ``retry`` says while the cloud says Transient.

    ``forbidden`` is asked before every request and says why it must not be made ('' when it may); ``left_s`` are the seconds
    in which the effect may still happen.
    """
    tried = retry.ask(lambda: cloud.apply(action, pool, token=action.id), left_s=left_s, forbidden=forbidden, bugs=True)
    if tried.forbidden:
        return Answer(None, Status.REFUSED, tried.forbidden, tried.doubt)
    if tried.error is None:
        return Answer(tried.answer, Status.APPLIED, doubt=tried.doubt)
    if isinstance(tried.error, Conflict):
        return Answer(None, Status.REFUSED, f"EXTERNAL_CHANGE: {tried.error}", tried.doubt)
    said = _said(tried.error)
    return Answer(None, Status.FAILED, f"{said}; {tried.gave_up}" if tried.gave_up else said, tried.doubt)


def verdict(action: Action, answer: Answer, seen: Observed | None, *, reopened: bool) -> tuple[Status, str]:
    """How the action ended, from what the cloud said and what was ``seen``; and a word about it.

    ``reopened``: the intent is of an earlier process, which may have told the cloud before it died.
    """
    visible = seen is not None and shows(action, seen)
    if answer.receipt is not None:
        return _claimed(action, answer.receipt, visible, seen, earlier=reopened or answer.doubt)
    changed = seen is not None and not untouched(action, seen)
    maybe = reopened or answer.doubt
    if maybe and visible:
        return Status.APPLIED, f"seen although unanswered: {answer.detail}"
    if (changed and (maybe or answer.status is Status.FAILED)) or (maybe and seen is None) or answer.doubt:
        return Status.UNVERIFIED, f"{answer.detail}; {difference(action, seen)}"
    return answer.status, answer.detail


def _claimed(action: Action, receipt: Receipt, visible: bool, seen: Observed | None, *, earlier: bool) -> tuple[Status, str]:
    if receipt.dry_run:
        return Status.DRY_RUN, receipt.detail
    if action.kind is Kind.NOTIFY:
        return Status.APPLIED, receipt.detail
    idle = receipt.already and not earlier
    if idle and action.kind is not Kind.SCALE and seen is not None:
        return Status.ALREADY, receipt.detail
    if visible:
        return (Status.ALREADY if idle else Status.APPLIED), receipt.detail
    return Status.UNVERIFIED, f"the cloud says it is done; {difference(action, seen)}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
