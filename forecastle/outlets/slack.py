"""Events as messages for a chat that takes Slack's incoming webhooks. Text is escaped as Slack asks: ``&``, ``<`` and ``>``.

Nothing of what a label or a cloud says can become a link, a mention or a channel-wide call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forecastle.outlets.cloudevents import Event, timestamp
from forecastle.outlets.events import ANOMALY, CHANGED, CLOSED, OPENED, OUTCOME, PLAN

LONGEST_TEXT = 2900
MOST_LINES = 20
_MARKS = {"critical": ":red_circle:", "warning": ":large_orange_circle:", "info": ":large_blue_circle:"}
_TITLES = {
    PLAN: "Plan",
    OUTCOME: "Action concluded",
    ANOMALY: "Anomaly",
    OPENED: "Incident opened",
    CHANGED: "Incident changed",
    CLOSED: "Incident closed",
}


def message(event: Event) -> dict[str, Any]:
    """The body of an incoming webhook: blocks, and ``text`` for notifications and clients without them."""
    title = f"{_TITLES.get(event.type, event.type)}: {event.subject}"
    lines = _lines(event)
    body = _cut("\n".join(escaped(line) for line in lines[:MOST_LINES]))
    context = f"{event.type}  {timestamp(event.at)}  {event.id}"
    blocks: list[dict[str, Any]] = [_section(f"{_mark(event)}*{escaped(title)}*")]
    if body:
        blocks.append(_section(body))
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": escaped(context)}]})
    return {"text": _cut(escaped(f"{title} - {lines[0]}" if lines else title)), "blocks": blocks}


def escaped(text: str) -> str:
    """Text that Slack shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(event: Event) -> list[str]:
    data: Mapping[str, Any] = event.data
    if event.type == PLAN:
        actions = [f"{a['kind']} {a['target']}: {a['expected']} \u2192 {a['desired']}" for a in data["actions"]]
        refusals = [f"refused by {r['guard']}: {r['why']}" for r in data["refusals"]]
        approvals = [f"waits for {data['approvals']} approvals of plan {data['plan']}"] if data["approvals"] else []
        return [str(data["reason"]), *actions, *refusals, *approvals]
    if event.type == OUTCOME:
        return [f"{data['kind']} {data['pool']}: {data['status']}", *([data["detail"]] if data["detail"] else [])]
    if event.type == ANOMALY:
        return [f"{data['key']['metric']} {data['kind']}: score {data['score']:.3g}, threshold {data['threshold']:.3g}"]
    if event.type in {OPENED, CHANGED, CLOSED}:
        where = f" at {data['site']}" if data["site"] else ""
        return [str(data["cause"]), f"{data['severity']}{where}, {data['signals']} independent signals"]
    return []


def _mark(event: Event) -> str:
    if event.type == CLOSED:
        return ":white_check_mark: "
    found = _MARKS.get(str(event.data.get("severity", "")), "")
    return f"{found} " if found else ""


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _cut(text: str) -> str:
    """At most what a block takes, without half an entity at its end."""
    if len(text) <= LONGEST_TEXT:
        return text
    kept = text[: LONGEST_TEXT - 1]
    start = kept.rfind("&", len(kept) - 5)
    return (kept[:start] if start >= 0 and ";" not in kept[start:] else kept) + "\u2026"
