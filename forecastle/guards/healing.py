"""Brakes on healing: an automation that restarts what is fine does more harm than the fault it saw."""

from __future__ import annotations

import math
from collections.abc import Iterator

from forecastle.guards.context import Facts, GuardContext, heals
from forecastle.guards.gates import Objection
from forecastle.settings import GuardSettings
from forecastle.types import Action, Outcome

HOUR_S = 3600.0


def quorum(action: Action, ctx: GuardContext) -> Objection | None:
    """Destructive actions need independent signals: a broken sensor must not be able to destroy anything alone."""
    if heals(action) and action.signals < ctx.settings.quorum:
        return Objection(f"{action.signals} of {ctx.settings.quorum} independent signals")
    return None


def panicking(facts: Facts, settings: GuardSettings) -> str:
    """Why the sensor is in doubt rather than the fleet, '' when it is not.

    More than the panic share of a domain is sick, or two domains have more sick replicas than may heal at once. A single
    sick replica is never a panic, however small its domain.
    """
    for domain, sick in sorted(facts.sick.items()):
        total = facts.replicas[domain]
        if sick > max(1, math.floor(settings.panic_fraction * total + 1e-9)):
            return f"{sick} of {total} replicas in {domain} are sick at once"
    domains = sorted(d for d, sick in facts.sick.items() if sick > ejectable(facts.replicas[d], settings))
    return f"{len(domains)} domains are sick at once: {', '.join(domains)}" if len(domains) > 1 else ""


def ejectable(replicas: int, settings: GuardSettings) -> int:
    """How many of a domain's replicas may heal at once: max(1, floor(share))."""
    return max(1, math.floor(settings.ejection_fraction * replicas + 1e-9))


def panic(action: Action, ctx: GuardContext) -> Objection | None:
    """Too much sick at once puts the sensor in doubt: healing stops and a human is paged."""
    why = panicking(ctx.facts, ctx.settings) if heals(action) else ""
    return Objection(f"{why}: suspect the sensor") if why else None


def panic_clear(action: Action, ctx: GuardContext) -> Objection | None:
    """After a panic, healing resumes when nothing has looked like one for a while."""
    if not heals(action) or not ctx.fleet.panicked_at:
        return None
    left = ctx.settings.panic_clear_s - ctx.age_s(ctx.fleet.panicked_at)
    return (
        Objection(f"healthy again only since {ctx.age_s(ctx.fleet.panicked_at):g} s; next in {left:g} s") if left > 0 else None
    )


def ejection(action: Action, ctx: GuardContext) -> Objection | None:
    """Only a small share of a domain heals at once.

    Healing are what this tick granted, unfinished intents, and what was healed less than a start-up time ago. A whole pool
    counts as one: adapters restart, replace and roll back a pool replica by replica.
    """
    if not heals(action):
        return None
    domain = ctx.inventory.domain(action.pool)
    granted = sum(1 for a in _granted(ctx) if ctx.inventory.domain(a.pool) == domain)
    unfinished = sum(1 for pool in ctx.fleet.in_flight if pool in ctx.inventory.pools and ctx.inventory.domain(pool) == domain)
    starting = sum(1 for o in _in(ctx, domain) if ctx.age_s(o.at) < ctx.inventory.pools[o.pool].startup_s)
    cap = ejectable(ctx.facts.replicas.get(domain, 0), ctx.settings)
    healing = granted + unfinished + starting
    return Objection(f"{healing} in {domain} are healing, at most {cap} at once") if healing >= cap else None


def one_domain(action: Action, ctx: GuardContext) -> Objection | None:
    """Whatever disrupts stays in one failure domain per tick."""
    if not heals(action):
        return None
    domain = ctx.inventory.domain(action.pool)
    other = next((d for d in (ctx.inventory.domain(a.pool) for a in _granted(ctx)) if d != domain), None)
    return Objection(f"this tick disrupts {other}; {domain} waits") if other is not None else None


def heal_budget(action: Action, ctx: GuardContext) -> Objection | None:
    """So many heals an hour, per domain and in the fleet. The durable bucket decides at the effect; this spares the attempt."""
    if not heals(action):
        return None
    domain = ctx.inventory.domain(action.pool)
    here = sum(1 for o in _in(ctx, domain) if ctx.age_s(o.at) < HOUR_S)
    here += sum(1 for a in _granted(ctx) if ctx.inventory.domain(a.pool) == domain)
    everywhere = sum(1 for o in ctx.facts.heals if ctx.age_s(o.at) < HOUR_S) + sum(1 for _ in _granted(ctx))
    if here >= ctx.settings.heals_per_domain_h:
        return Objection(f"{here} heals in {domain} within the hour, at most {ctx.settings.heals_per_domain_h}")
    if everywhere >= ctx.settings.heals_global_h:
        return Objection(f"{everywhere} heals within the hour, at most {ctx.settings.heals_global_h}")
    return None


def escalation(action: Action, ctx: GuardContext) -> Objection | None:
    """What healing did not cure goes to a human: two attempts on a target, or the third same symptom in a day.

    The symptom is what is done about it, on the same pool.
    """
    if not heals(action):
        return None
    s, past = ctx.settings, [o for o in ctx.facts.heals if o.pool == action.pool]
    attempts = sum(1 for o in past if ctx.age_s(o.at) < s.escalation_s)
    if attempts >= s.escalation_attempts:
        return Objection(f"{attempts} attempts on {action.pool} in {s.escalation_s:g} s did not help: a human is needed")
    same = sum(1 for o in past if o.kind is action.kind and ctx.age_s(o.at) < s.repeat_symptom_h * HOUR_S)
    if same + 1 >= s.repeat_symptoms:
        return Objection(
            f"{action.kind} of {action.pool} wanted {same + 1} times in {s.repeat_symptom_h:g} h: a human is needed"
        )
    return None


def _granted(ctx: GuardContext) -> Iterator[Action]:
    return (a for a in ctx.accepted if heals(a))


def _in(ctx: GuardContext, domain: str) -> Iterator[Outcome]:
    known = ctx.inventory.pools
    return (o for o in ctx.facts.heals if o.pool in known and ctx.inventory.domain(o.pool) == domain)
