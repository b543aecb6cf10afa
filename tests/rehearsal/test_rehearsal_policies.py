"""Every policy by name passes the conformance suite, which itself catches those that should not pass."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from forecastle.decide.sizing import size
from forecastle.errors import ConfigError
from forecastle.rehearsal.bounds import Given
from forecastle.rehearsal.policies import POLICIES, policy_named
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.testing.check_policy import _demand, check_policy, check_rehearsed

FORESEE = {"oracle", "static-peak"}


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "forecastle"])
def test_conforms(name):
    check_rehearsed(lambda: policy_named(name), foresees=name in FORESEE)


def test_the_sizing_policy_conforms():
    check_policy(size)


@dataclass
class Bad:
    """Breaks one promise."""

    how: str
    name: str = "bad"
    notes: tuple = ()
    knobs: tuple = ("a",)

    def prepare(self, demand, pool):
        plan = pool.need(demand.value)[:, None]
        if self.how == "random":
            plan = np.random.default_rng().integers(1, 50, plan.shape)
        return Given(-plan if self.how == "negative" else plan)


@pytest.mark.parametrize(("how", "says"), [("future", "future"), ("random", "same wishes"), ("negative", "replica counts")])
def test_a_policy_that_breaks_a_promise_is_caught(how, says):
    with pytest.raises(AssertionError, match=says):
        check_rehearsed(lambda: Bad(how))


def test_a_sizing_policy_that_trusts_its_forecast_below_the_need_is_caught():
    def blind(load, metrics, terms):
        found = size(load, metrics, terms)
        return replace(found, wanted=found.forecast or found.wanted) if found.forecast else found

    with pytest.raises(AssertionError, match=r"below the reactive need|outside"):
        check_policy(blind)


def test_a_sizing_policy_that_shrinks_without_a_forecast_is_caught():
    def eager(load, metrics, terms):
        found = size(load, metrics, terms)
        return replace(found, wanted=max(load.min, found.floor, 2)) if metrics and found.forecast is None else found

    with pytest.raises(AssertionError, match="without a forecast"):
        check_policy(eager)


def test_an_unknown_policy_names_those_there_are():
    with pytest.raises(ConfigError, match="seasonal-naive"):
        policy_named("magic")


def test_a_bolder_knob_costs_less_and_leaves_more():
    demand, pool = _demand(3), PoolModel(10.0, 120.0)
    for name in ("hpa", "keda", "target-tracking", "aws-predictive"):
        line = simulate(policy_named(name), demand, pool)
        cost = {knob: line.total_cost[k] for k, knob in enumerate(line.knobs)}
        first, last = line.knobs[0], line.knobs[-1].replace("/300s", "/60s")
        assert cost[last] < cost[first], name
