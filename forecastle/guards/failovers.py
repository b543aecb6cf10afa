"""The brake on failovers: what a person says may be emptied whole, what a sensor says only as far as a sensor can be believed.

Emptying a lost site takes nothing out of service and is undone when the site is back, so the brakes on healing, which limit
how much an automation may break, do not apply. What could break something is a site that was not lost. A person who says `down`
names one site, and who said it and why stays in the ledger: that word may empty all of it, as a person's word may stop
everything. A detection is bounded: by its signals, by the data, by failure domains and, in `forecastle.guards.approvals`, by
what the cloud itself still calls ready.
"""

from __future__ import annotations

from forecastle.guards.context import HAPPENED, GuardContext, gives_back
from forecastle.guards.gates import Objection
from forecastle.types import Action, Outcome


def failover(action: Action, ctx: GuardContext) -> Objection | None:
    """A person's word empties a whole site; a detection needs its quorum, data that can be trusted, and one domain only."""
    if action.base is None:
        return None
    site = ctx.pool(action).site
    if ctx.down(action.pool) is gives_back(action):
        return Objection(f"site {site} is {'down' if gives_back(action) else 'not down any more'}")
    if gives_back(action) or site in ctx.fleet.down:
        return None
    return _doubt(action, ctx)


def _doubt(action: Action, ctx: GuardContext) -> Objection | None:
    """What makes a detection too little to empty a site on; a person's report is enough whatever is found here."""
    s, sites = ctx.settings, ctx.inventory.sites
    if action.signals < s.quorum:
        return Objection(f"{action.signals} of {s.quorum} independent signals")
    if ctx.view.late or ctx.view.suspect:
        return Objection("demand data is late or suspect: a person must report the site")
    silent = (sites[name] for name in ctx.view.down - ctx.fleet.down if name in sites)
    domains = sorted({"/".join((site.provider, site.region, site.zone)) for site in silent})
    if len(domains) > 1:
        return Objection(f"{' and '.join(domains)} seem down at once: suspect the sensor; a person must report them")
    seen = ctx.observed(action)
    begins = seen is None or seen.traffic is None or seen.traffic.weight == action.base
    past = [o for o in ctx.fleet.outcomes if o.pool == action.pool and _began(o) and ctx.age_s(o.at) < s.escalation_s]
    if begins and len(past) >= s.escalation_attempts:
        return Objection(f"emptied {len(past)} times in {s.escalation_s:g} s: a human is needed")
    return None


def _began(outcome: Outcome) -> bool:
    """Whether a failover began with it: before there was all of the traffic, and afterwards there was not, or may not."""
    before, after = (state.traffic if state else None for state in (outcome.before, outcome.after))
    if outcome.base is None or outcome.status not in HAPPENED or before is None:
        return False
    return before.weight == outcome.base and (after is None or after.weight < before.weight)
