"""The worker's planner as a policy of a rehearsal: the same books as the configuration played by itself, and no foresight."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forecastle.errors import ConfigError
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.rehearse import rehearse
from forecastle.runtime.rehearse_config import configured, play
from forecastle.runtime.rehearse_forecast import source_of
from forecastle.runtime.rehearse_planner import Planner, settings_of

DAY = 86_400 // STEP_S
POOL = PoolModel(10.0, 120.0)
SMALL = Planner(prices=(20.0,), utilizations=(0.8, 1.0))


def demand_of(n=3 * DAY // 2, first=DAY, seed=0):
    draw = np.random.default_rng(seed)
    values = 150 + 100 * np.sin(np.arange(n) / DAY * 4 * np.pi) + draw.normal(0, 5, n)
    at = 1_760_000_040_000 // 60_000 * 60_000 + np.arange(n) * STEP_S * 1000
    return Demand(at, values, np.ones(n, bool), first, 60.0)


@pytest.fixture(scope="module")
def line():
    return simulate(SMALL, demand_of(), POOL)


@pytest.mark.parametrize(("k", "aim"), [(0, 0.8), (1, 1.0)])
def test_the_loop_keeps_the_books_that_the_configuration_keeps_by_itself(line, k, aim):
    demand, settings = demand_of(), settings_of(POOL, 20.0, aim)
    played = play(configured("alone", settings), demand, source_of(settings, demand, {}))
    assert (line.desired[:, k] == played.ordered).all()
    begun = POOL.lead_steps  # until then each serves with what it began with
    assert (line.ready[begun:, k] == played.ready[begun:]).all()
    assert line.unmet[begun:, k] == pytest.approx(played.unmet[begun:])
    assert float(line.total_cost[k]) == pytest.approx(float(played.cost.sum()))
    assert any("forecast was" in note for note in line.notes)


def test_a_higher_utilization_costs_less_and_serves_less(line):
    assert line.knobs == ("20@0.8", "20@1")
    assert line.total_cost[1] < line.total_cost[0]
    assert line.unmet_share[1] > line.unmet_share[0]


def test_it_serves_what_an_hpa_of_the_same_target_serves(line):
    hpa = simulate(Hpa((0.8,), (60,)), demand_of(), POOL)
    assert line.unmet_share[0] <= hpa.unmet_share[0]


def test_what_comes_later_does_not_change_what_was_ordered(line):
    demand = demand_of()
    cut = len(demand) - DAY // 4
    changed = Demand(demand.at, np.where(np.arange(len(demand)) < cut, demand.value, 900.0), demand.known, demand.first, 60.0)
    other = simulate(SMALL, changed, POOL)
    upto = cut - demand.first
    assert (other.desired[:upto] == line.desired[:upto]).all()
    assert (other.desired[upto:] > line.desired[upto:]).any()


def test_it_is_rehearsed_by_name_and_named_among_the_policies(tmp_path):
    n = 2 * 1440
    at = np.datetime64("2026-01-05T00:00", "ms") + np.arange(n) * np.timedelta64(60_000, "ms")
    values = 150 + 100 * np.sin(np.arange(n) / 1440 * 2 * np.pi)
    parquet.write_table(pa.table({"series_id": ["shop"] * n, "timestamp": at, "value": values}), tmp_path / "t.parquet")
    given = {"capacity_per_replica": "10", "train_fraction": 0.95}
    rehearse(tmp_path / "t.parquet", policies=("planner",), out=tmp_path / "out", **given)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [row["knob"] for row in summary["policies"]["planner"]["knobs"]] == list(Planner().knobs)
    with pytest.raises(ConfigError, match=r"no policy 'magic'.*planner"):
        rehearse(tmp_path / "t.parquet", policies=("magic",), out=tmp_path / "other", **given)
