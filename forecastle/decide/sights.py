"""One tick as the decision sees it: every workload of this worker looked at once.

Only workloads of which this worker sees a demand or veto series are judged: the others are other workers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from forecastle.decide.eye import Eye
from forecastle.decide.lag import learned, with_lags
from forecastle.decide.sight import Sight
from forecastle.decide.sizing import Policy, size
from forecastle.guards.context import Facts
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import Incident, Inventory, Situation


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick as the decision sees it: what was given, and a `Sight` of every workload of this worker by name, in order."""

    situation: Situation
    inventory: Inventory
    settings: DecideSettings
    guards: GuardSettings
    facts: Facts
    down: frozenset[str]
    sights: Mapping[str, Sight]

    @classmethod
    def of(
        cls,
        situation: Situation,
        inventory: Inventory,
        settings: DecideSettings,
        guards: GuardSettings,
        *,
        policy: Policy = size,
    ) -> Tick:
        """Look at every workload once."""
        lags = learned(situation.fleet)
        inventory = with_lags(inventory, lags)
        facts = Facts.of(situation.fleet, inventory, guards)
        rows = {key: i for i, key in enumerate(situation.windows.keys)}
        forecast_rows = {key: i for i, key in enumerate(situation.forecasts.keys)}
        down = sites_down(situation)
        eye = Eye(situation, inventory, settings, guards, policy, facts, rows, forecast_rows, down, lags)
        mine = sorted({key.workload for key in rows} & set(inventory.workloads))
        seen = {name: eye.look(inventory.workloads[name]) for name in mine}
        return cls(situation, inventory, settings, guards, facts, down, seen)

    def with_amiss(self, found: Mapping[str, int]) -> Tick:
        """The same with so many replicas amiss, by workload."""
        return replace(self, sights={name: s.with_amiss(n) if (n := found[name]) else s for name, s in self.sights.items()})

    @property
    def at(self) -> int:
        """Event time of the tick, ms."""
        return self.situation.tick

    @property
    def deadline(self) -> int:
        """When (ms) what is decided now is too old to be done."""
        return self.at + int(self.settings.plan_ttl_s * 1000)


def sites_down(situation: Situation) -> frozenset[str]:
    """Sites that a person reported down, or that an open incident of the whole site shows to be."""
    return situation.fleet.down | {incident.site for incident in site_incidents(situation)}


def site_incidents(situation: Situation) -> tuple[Incident, ...]:
    """The open incidents that are whole sites'."""
    return tuple(i for i in situation.incidents if i.workload == "*" and i.site and not i.closed)
