"""Why a plan was made, in words, from nothing but what the plan itself recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from forecastle.decide.sight import Sight
from forecastle.types import Action, Kind, Plan

TOLD = 3
"""Workloads told in full; more of them would make no paragraph."""


def explain(plan: Plan) -> str:
    """The plan's paragraph, its actions, and every refusal with the guard that made it."""
    at = datetime.fromtimestamp(plan.tick / 1000, UTC).isoformat(timespec="seconds")
    lines = [f"Plan {plan.id} of {at}" + (f" in {plan.domain}" if plan.domain else ""), "", plan.reason, ""]
    lines += [f"- {_told(action)}" for action in plan.actions] or ["- no action"]
    if plan.approvals:
        lines.append(f"Waits for {plan.approvals} people to approve it, {(plan.expires_at - plan.tick) / 1000:g} s long.")
    lines += ["", "Refused or limited:" if plan.refusals else "Nothing was refused."]
    lines += [f"- {r.guard}{f' ({r.pool or r.workload})' if r.pool or r.workload else ''}: {r.why}" for r in plan.refusals]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Why:
    """What a paragraph tells besides the actions.

    ``evidence`` by workload, ``cost`` of the fleet per hour afterwards, the workloads that are ``quiet`` (well as they are),
    what the placement noted, and what was noted about sites that are down or back.
    """

    evidence: Mapping[str, Any]
    cost: float
    quiet: Sequence[Sight] = ()
    notes: Sequence[str] = ()
    moved: Sequence[tuple[str, str, str]] = ()


def paragraph(domain: str, actions: Sequence[Action], because: Why) -> str:
    """What is done in ``domain`` and why, as one paragraph."""
    evidence, sentences = because.evidence, [_summary(domain, actions)]
    names = list(dict.fromkeys(a.workload for a in actions if a.kind is Kind.SCALE)) or sorted(evidence)
    sentences += [sentence for name in names[:TOLD] for sentence in (why(name, evidence[name]), *_placed(name, evidence[name]))]
    if len(names) > TOLD:
        sentences.append(f"{len(names) - TOLD} more workloads have their numbers in the evidence.")
    sentences += dict.fromkeys(f"{a.reason.rstrip('.')}." for a in actions if a.kind is not Kind.SCALE)
    sentences += _moved(because.moved)
    if because.quiet:
        sentences.append(_quiet(because.quiet))
    if because.notes:
        sentences.append(f"The placement says: {'; '.join(because.notes)}.")
        sentences += remedy(because.notes)
    sentences.append(f"Afterwards the fleet costs {because.cost:.4g} per hour.")
    return " ".join(sentences)


def why(name: str, e: Mapping[str, Any]) -> str:
    """The sizing of one workload: forecast, quantile, what binds, and what would change it."""
    text = f"{name} wants {e['wanted']} ready replicas and has {e['ordered']} ordered, {e['ready']} ready."
    if not e["metric"]:
        return f"{text} None of its demand metrics can be trusted now, so it holds until one can."
    reactive = e.get("reactive", e["floor"])  # plans recorded before planned minimums have the floor alone
    text += f" What binds is: {e['binding']}. {e['metric']} is {e['demand']:g}, for which the reactive rule asks {reactive}"
    if e["peak"] is None:
        return f"{text}; there is no usable forecast, so it may grow but not shrink.{_known(e)}{_change(e)}"
    return (
        f"{text}; {e['model'] or 'the forecast'} expects {e['median']:g} after the lead time of {e['lead_time_s']:g} s and "
        f"insures against {e['peak']:g}, its quantile {e['quantile']:.3g} (a replica-hour costs {e['price']:g}, one missing "
        f"{e['unmet_price']:g}).{_known(e)}{_change(e)}"
    )


def _quiet(found: Sequence[Sight]) -> str:
    """What the workloads to which nothing is done were sized by, and what would change that."""
    models = _counted(sight.model or "no forecast" if sight.size.peak is not None else "no forecast" for sight in found)
    levels = sorted(sight.size.quantile for sight in found)
    span = f"{levels[0]:.3g}" if levels[0] == levels[-1] else f"{levels[0]:.3g} to {levels[-1]:.3g}"
    return (
        f"Workloads that have what they need, within the tolerance: {len(found)}. They are sized by {models}, the quantile is "
        f"{span}, and what binds is {_counted(sight.size.binding for sight in found)}. Replicas follow when demand or forecast "
        "asks for more or fewer than the tolerance allows."
    )


def _counted(names: Iterable[str]) -> str:
    """The most frequent ones with their numbers."""
    found = Counter(names)
    told = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:TOLD]
    more = len(found) - len(told)
    return ", ".join(f"{name} ({number})" for name, number in told) + (f" and {more} more" if more else "")


def _moved(notes: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A sentence for every site that is down or back: what becomes of the workloads there."""
    for site in dict.fromkeys(site for _, site, _ in notes):
        said = [f"of {name}, {text}" for name, found, text in notes if found == site]
        more = f"; {len(said) - TOLD} more workloads alike" if len(said) > TOLD else ""
        yield f"Site {site}: {'; '.join(said[:TOLD])}{more}."


def _placed(name: str, e: Mapping[str, Any]) -> Iterator[str]:
    """Which rules keep it out of cheaper places, and which are broken by what runs."""
    if e.get("bound"):
        yield f"Where {name} is placed is bound by {'; by '.join(e['bound'])}."
    if e.get("misplaced"):
        yield f"{e['misplaced']}: as many start elsewhere before they leave."


_REMEDIES = (
    ("budget is spent", "a larger budget_per_hour, its own or the fleet's"),
    ("may use is full", "a larger max, quota or site capacity, or another site inside its residency"),
    (" sites is at ", "room at its other sites, or a smaller min_sites"),
    (" sites", "another site in service, or a smaller min_sites"),
    ("is on spot", "room that is not on spot, or a larger spot_share"),
    ("served within", "room near these users, or a larger max_latency_ms"),
    ("the loss of", "room in other domains, or a smaller survive_share"),
    ("below its minimum", "more capacity at its site, or a smaller min of the pool"),
)
"""What a note says, and what would change it; the first that fits counts."""


def remedy(notes: Sequence[str]) -> Iterator[str]:
    """One sentence about what would change what the placement notes; the residency is never part of it."""
    found = [next((text for mark, text in _REMEDIES if mark in note), "") for note in notes]
    if known := dict.fromkeys(text for text in found if text):
        yield f"What would change that: {'; '.join(known)}."


def _known(e: Mapping[str, Any]) -> str:
    """What sizing knew besides the forecast: commitments, how capacity and start-up lags were learned, occasions, budgets."""
    said = []
    if e.get("paid"):
        said.append(
            f" Commitments pay for {e['paid']} replicas whether used or not: up to those one more costs nothing, so the "
            "quantile is the highest that is forecast."
        )
    said += [f" Capacity of {metric}: {text}." for metric, text in e.get("capacity", {}).items()]
    lags = ", ".join(
        f"{pool} {lag['p90_s']:g} s (90 % of {lag['orders']} orders)" for pool, lag in e.get("startup", {}).items()
    )
    said += [f" Start-up lags are learned: {lags}."] if lags else []
    said += [f" Known ahead: {', '.join(e['occasions'])}."] if e.get("occasions") else []
    said += [f" {e['budget_left']:.0%} of the error budget is left."] if "budget_left" in e else []
    return "".join(said)


_SETTLED = "within tolerance of what is ordered ("
_CHANGES = (
    ("the loss of any", "Fewer would do with a smaller survive_share, or with more domains of that level to be in"),
    ("planned: ", "Fewer follow when the occasion is over, or with smaller replicas of it in events or holidays"),
    ("planned factor", "Fewer follow with a smaller factor of the occasion, or when there is a forecast for it to multiply"),
    (
        "what commitments pay for",
        "Fewer follow where less is committed; more than are paid for need a higher forecast or price",
    ),
    ("latency target", "Fewer would do with less demand, a larger latency_target_s or wait, or a shorter service_time_s"),
)
"""What binds where no one number says what would change it, and what would."""


def _change(e: Mapping[str, Any]) -> str:
    """What would make the answer one replica smaller or larger."""
    wanted, carries, binding = e["wanted"], e["per_replica"], e["binding"]
    if binding.startswith(_SETTLED):
        binding = binding[len(_SETTLED) : -1]
    for mark, change in _CHANGES:
        if binding.startswith(mark):
            return f" {change}."
    if "minimum" in binding or "maximum" in binding:
        return f" Only {binding} ({wanted}) changes that."
    if "look-ahead" in binding:
        return f" Fewer follow when the look-ahead no longer asks for {wanted}."
    if "no forecast" in binding:
        return " Fewer follow when there is a forecast again."
    if carries is None or not binding.startswith(("reactive", "expected", "forecast")):
        return ""
    share, what = {
        "reactive": (e["reactive_utilization"], "demand"),
        "expected": (e["utilization"], "expected demand"),
    }.get(binding.partition(" ")[0], (1.0, "insured demand"))
    less, more = (wanted - 1) * carries * share, wanted * carries * share
    return f" One fewer would do below {what} of {less:.4g}, one more is needed above {more:.4g}."


def _summary(domain: str, actions: Sequence[Action]) -> str:
    if not actions:
        return "Nothing is done here."
    shown = ", ".join(_told(a) for a in actions[:TOLD])
    more = f" and {len(actions) - TOLD} more" if len(actions) > TOLD else ""
    return f"In {domain}: {shown}{more}."


def _told(action: Action) -> str:
    if action.kind is Kind.NOTIFY:
        return f"tell a human about {action.pool} ({action.replica})"
    if action.kind is Kind.SCALE:
        return f"scale {action.pool} from {action.expected} to {action.desired}"
    return f"{action.kind} {action.target} ({action.desired})"
