"""What the worker's own planner does on a trace, as a policy beside the others: sizing, reactive floor and guards of `decide`.

One site, one pool, every setting at its default but the two that are swept. The forecast is what the default settings name
where the cache holds it, else one learned from the first part of the history, see `rehearse_forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.bounds import Given
from forecastle.rehearsal.simulate import PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.rehearse_config import configured, play
from forecastle.runtime.rehearse_forecast import Lessons, source_of
from forecastle.settings import Settings

NAME = "planner"


@dataclass(frozen=True, slots=True)
class Planner:
    """The planner. The knob is ``price@utilization``: of unmet demand in prices of capacity, and what a replica is aimed at."""

    prices: tuple[float, ...] = (4.0, 20.0, 100.0)
    utilizations: tuple[float, ...] = (0.8, 0.9, 1.0)
    name: str = NAME
    notes: tuple[str, ...] = ("Every setting at its default but the price of unmet demand and the utilization aimed at.",)

    @property
    def knobs(self) -> tuple[str, ...]:
        """Every price with every utilization."""
        return tuple(f"{price:g}@{aim:g}" for price in self.prices for aim in self.utilizations)

    def prepare(self, demand: Demand, pool: PoolModel) -> Replay:
        """Play every knob value through to its end: each decision sees what was known at its tick."""
        plan = np.zeros((len(demand), len(self.knobs)), np.int64)
        learned: Lessons = {}
        said: dict[str, None] = {}
        for k, (price, aim) in enumerate((price, aim) for price in self.prices for aim in self.utilizations):
            settings = settings_of(pool, price, aim)
            conf = configured(NAME, settings)
            played = play(conf, demand, source_of(settings, demand, learned))
            plan[demand.first :, k] = played.ordered
            said |= dict.fromkeys((f"the forecast was {played.forecast}", *played.notes))
        return Replay(plan, tuple(said))


@dataclass(frozen=True, slots=True)
class Replay(Given):
    """Orders that were played before, and what is to be said about them."""

    remarks: tuple[str, ...] = ()


def settings_of(pool: PoolModel, price: float, aim: float) -> Settings:
    """Default settings for one workload in one pool like ``pool``, whose replica-hour costs 1."""
    lead = pool.lead_steps * STEP_S
    return Settings.model_validate(
        {
            "decide": {"reactive_utilization": aim},
            "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": "sim.db"}}},
            "fleet": {
                "sites": [{"name": "here", "provider": "sim", "region": "here"}],
                "workloads": [
                    {
                        "name": "rehearsed",
                        "unmet_price": price,
                        "target_utilization": aim,
                        "lead_time_s": max(lead, STEP_S),
                        "min": pool.min,
                        "max": pool.max,
                        "demands": [{"metric": "demand", "per_replica": pool.capacity}],
                        "pools": [
                            {
                                "name": "rehearsed-here",
                                "site": "here",
                                "unit_price": 1.0,
                                "startup_s": lead,
                                "min": pool.min,
                                "max": pool.max,
                                "quota": pool.max,
                            }
                        ],
                    }
                ],
            },
        }
    )
