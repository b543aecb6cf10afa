"""Intents and their ends inside one transaction: many at a time, each by the same rules as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from forecastle.errors import Conflict
from forecastle.ledger import codec, drains, leases
from forecastle.ledger.database import inserting
from forecastle.ledger.journal import Entries
from forecastle.ledger.schema import intents, outcomes
from forecastle.types import Action, Observed, Outcome

Wanted = tuple[Action, int, Observed | None]


def begin(entries: Entries, wanted: Sequence[Wanted]) -> dict[str, bool | Conflict]:
    """Record the intents of (action, epoch, before). By action id: True, False for one that has ended, or the Conflict."""
    if not wanted:
        return {}
    held = leases.holding(entries.conn, {action.target: epoch for action, epoch, _ in wanted}, entries.now)
    known, busy = _known(entries, wanted)
    found: dict[str, bool | Conflict] = {}
    fresh: list[dict[str, Any]] = []
    for action, epoch, before in wanted:
        row = known.get(action.id)
        if action.target not in held:
            found[action.id] = Conflict(f"epoch {epoch} does not hold {action.target}: another controller took over")
        elif row is not None and row.state == "done":
            found[action.id] = False
        elif busy.setdefault(action.target, action.id) != action.id:
            found[action.id] = Conflict(f"{action.target} has another action in flight: one at a time")
        else:
            found[action.id] = True
            if row is None:
                fresh.append(_intend(entries, action, epoch, before))
            else:
                entries.conn.execute(update(intents).where(intents.c.action_id == action.id).values(epoch=epoch))
                entries.add("takeover", {"action_id": action.id, "epoch": epoch})
    if fresh:
        entries.conn.execute(insert(intents), fresh)
    return found


def _known(entries: Entries, wanted: Sequence[Wanted]) -> tuple[dict[str, Any], dict[str, str]]:
    """Intents of these actions by id, and by target the action that is in flight there."""
    ids, targets = [action.id for action, *_ in wanted], [action.target for action, *_ in wanted]
    here = intents.c.action_id.in_(ids) | (intents.c.target.in_(targets) & (intents.c.state == "open"))
    query = select(intents.c.action_id, intents.c.target, intents.c.state).where(here)
    known: dict[str, Any] = {row.action_id: row for row in entries.conn.execute(query)}
    return known, {row.target: row.action_id for row in known.values() if row.state == "open"}


def _intend(entries: Entries, action: Action, epoch: int, before: Observed | None) -> dict[str, Any]:
    text = codec.encode(action)
    entries.add("intent", f'{{"action_id":"{action.id}","epoch":{epoch},"action":{text}}}')
    return {
        "action_id": action.id,
        "target": action.target,
        "pool": action.pool,
        "epoch": epoch,
        "at": entries.now,
        "state": "open",
        "action": text,
        "before": codec.encode(before) if before is not None else None,
    }


def end(entries: Entries, ends: Sequence[tuple[Outcome, int | None]]) -> None:
    """Record outcomes; those of intents that have ended, or have left the epoch given, change nothing."""
    if not ends:
        return
    query = select(intents.c.action_id, intents.c.target, intents.c.epoch, intents.c.state)
    rows = entries.conn.execute(query.where(intents.c.action_id.in_([outcome.action_id for outcome, _ in ends])))
    known = {row.action_id: row for row in rows}
    recorded: dict[str, dict[str, Any]] = {}
    done: dict[str, tuple[str, int]] = {}
    for outcome, epoch in ends:
        name, row = outcome.action_id, known.get(outcome.action_id)
        if name in done or (row is not None and (row.state == "done" or epoch not in (None, row.epoch))):
            continue
        body = codec.encode(outcome)
        seq = entries.add("outcome", body, outcome.at)
        recorded[name] = {"action_id": name, "seq": seq, "at": outcome.at, "kind": outcome.kind.value, "body": body}
        if row is not None:
            done[name] = row.target, row.epoch
    if recorded:
        new = inserting(entries.conn, outcomes)
        newer = {name: new.excluded[name] for name in ("seq", "at", "kind", "body")}
        entries.conn.execute(new.on_conflict_do_update(index_elements=["action_id"], set_=newer), list(recorded.values()))
        drains.remember(entries, [outcome for outcome, _ in ends if outcome.action_id in recorded])
    if done:
        mine = update(intents).where(intents.c.action_id == bindparam("of")).values(state="done")
        entries.conn.execute(mine, [{"of": name} for name in done])
        leases.end(entries.conn, list(done.values()))
