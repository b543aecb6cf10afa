"""How two forecasters differ in what they would have us order, counted as sizing counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.capacity import capacity_reasons, recommended
from forecastle.settings import Settings
from forecastle.types import SeriesKey

LEVELS = (0.05, 0.5, 0.95, 0.99)
KEYS = (SeriesKey("shop", "rps"), SeriesKey("cart", "rps", (("site", "fra"),)), SeriesKey("shop", "cpu"))


def fleet(*loads: dict[str, Any]) -> Settings:
    return Settings.model_validate({"fleet": {"sites": [{"name": "fra", "provider": "a", "region": "b"}], "workloads": loads}})


def shop(**more: Any) -> dict[str, Any]:
    plain = {
        "name": "shop",
        "min": 0,
        "lead_time_s": 180,
        "target_utilization": 0.8,
        "demands": [{"metric": "rps", "per_replica": 10}],
        "pools": [{"name": "p", "site": "fra", "unit_price": 1.0}],
    }
    return plain | more


def said(*demand: float, steps: int = 5) -> np.ndarray:
    """One origin for each demand of the first series; quantiles are 0.5, 1, 2 and 3 times it."""
    rows = np.zeros((len(demand), len(KEYS), steps, len(LEVELS)), np.float32)
    rows[:, 0] = np.asarray(demand, np.float32)[:, None, None] * np.array([0.5, 1, 2, 3], np.float32)
    return rows


@pytest.mark.parametrize(("unmet", "replicas"), [(20.0, 20), (2.0, 10), (1000.0, 30), (1.0, 5)])
def test_the_quantile_follows_from_the_prices(unmet: float, replicas: int) -> None:
    assert recommended(fleet(shop(unmet_price=unmet)), KEYS, said(80.0), LEVELS) == {"shop": replicas}


def test_the_largest_need_within_the_lead_time_counts_and_none_after_it() -> None:
    rows = said(80.0)
    rows[:, 0, 2] *= 1.5
    rows[:, 0, 3:] *= 9
    assert recommended(fleet(shop()), KEYS, rows, LEVELS) == {"shop": 30}
    assert recommended(fleet(shop(lead_time_s=60)), KEYS, rows, LEVELS) == {"shop": 20}
    assert recommended(fleet(shop(lead_time_s=3600)), KEYS, rows, LEVELS) == {"shop": 180}, "no further than it is forecast"


def test_origins_are_averaged_within_the_limits_of_the_workload() -> None:
    assert recommended(fleet(shop()), KEYS, said(40, 80, 120), LEVELS) == {"shop": 20}
    assert recommended(fleet(shop(max=15)), KEYS, said(40, 80), LEVELS) == {"shop": 12.5}
    assert recommended(fleet(shop(min=15)), KEYS, said(40, 80), LEVELS) == {"shop": 17.5}


def test_of_several_demands_the_largest_need_wins() -> None:
    rows = said(80.0)
    rows[:, 2] = 100.0
    both = shop(demands=[{"metric": "rps", "per_replica": 10}, {"metric": "cpu", "per_replica": 1}])
    assert recommended(fleet(both), KEYS, rows, LEVELS) == {"shop": 125}


def test_a_workload_without_a_forecast_is_left_out_and_labels_count() -> None:
    cart = shop(
        name="cart", demands=[{"metric": "rps", "per_replica": 10}], pools=[{"name": "c", "site": "fra", "unit_price": 1}]
    )
    assert set(recommended(fleet(shop(), cart), KEYS, said(80.0), LEVELS)) == {"shop"}
    cart["demands"] = [{"metric": "rps", "per_replica": 10, "labels": {"site": "fra"}}]
    assert set(recommended(fleet(shop(), cart), KEYS, said(80.0), LEVELS)) == {"shop", "cart"}


def test_demand_below_nothing_needs_nothing() -> None:
    assert recommended(fleet(shop()), KEYS, said(-80.0), LEVELS) == {"shop": 0}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (10.0, 12.4, None),
        (10.0, 12.5, None),
        (10.0, 13.0, "shop would be recommended 13.0 replicas instead of 10.0, 30% more; at most 25%"),
        (10.0, 7.0, "shop would be recommended 7.0 replicas instead of 10.0, 30% fewer; at most 25%"),
        (0.0, 0.2, None),
        (0.0, 2.0, "shop would be recommended 2.0 replicas instead of 0.0, 200% more; at most 25%"),
        (10.0, float("nan"), "shop would be recommended nan replicas"),
    ],
)
def test_a_change_beyond_the_limit_is_told_in_words(before: float, after: float, says: str | None) -> None:
    reasons = capacity_reasons({"shop": before}, {"shop": after}, 0.25)
    assert (reasons == ()) if says is None else reasons[0].startswith(says)


def test_each_workload_is_judged_by_itself_and_one_that_is_new_has_no_before() -> None:
    reasons = capacity_reasons({"a": 10, "b": 10, "gone": 4}, {"a": 20, "b": 10, "c": 99}, 0.25)
    assert [reason.split()[0] for reason in reasons] == ["a"]


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_more_demand_never_asks_for_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    few, many = (recommended(fleet(shop()), KEYS, said(demand), LEVELS)["shop"] for demand in (low, high))
    assert few <= many
