"""Which forecast a what-if plays: the cached model, what was learned from the history, or the stand-in, and what is said."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forecastle.predict.naive import QUANTILES
from forecastle.rehearsal import quantiles
from forecastle.rehearsal.boost import Shape
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime import rehearse_forecast
from forecastle.runtime.config import load
from forecastle.runtime.rehearse_config import configured, play, sights
from forecastle.runtime.rehearse_forecast import LEARNED, Learned, Model, StandIn, source_of
from forecastle.runtime.rehearse_whatif import whatif
from forecastle.runtime.rehearse_whatif_report import reading

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import forecaster_worlds as worlds

MINUTES = 3 * 1440
CONFIG = """
clouds: {sim: {adapter: "forecastle.clouds.sim:open_cloud", options: {path: sim.db}}}
window: {step_s: 60, look_back: 60}
predict: {model: MODEL, cache: CACHE, season: 1440, horizon: 6, coverage_window: 20}
fleet:
  sites: [{name: fra, provider: aws, region: eu-central-1}]
  workloads:
    - name: shop
      demands: [{metric: rps, per_replica: 10}]
      pools: [{name: shop-fra, site: fra, unit_price: 0.1, startup_s: 90}]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(quantiles, "SHAPE", Shape(4))
    monkeypatch.setattr(quantiles, "ROWS", 1500)


@pytest.fixture
def conf(tmp_path):
    def make(model="forecaster", name="now.yaml", cache="models"):
        path = tmp_path / name
        path.write_text(CONFIG.replace("MODEL", json.dumps(model)).replace("CACHE", str(tmp_path / cache)))
        return path

    return make


def settings_of(path):
    return load([path], environment={})


def demand_of(minutes=MINUTES, first=0.9):
    draw = np.random.default_rng(0)
    n = 4 * minutes
    value = 150 + 100 * np.sin(2 * np.pi * np.arange(n) / 5760) + draw.normal(0, 5, n)
    at = 1_760_000_040_000 // 60_000 * 60_000 + np.arange(n) * STEP_S * 1000
    return Demand(at, value, np.ones(n, bool), int(first * n) // 4 * 4, 60.0)


@pytest.fixture
def trace(tmp_path):
    at = np.datetime64("2026-01-05T00:00", "ms") + np.arange(MINUTES) * np.timedelta64(60_000, "ms")
    path = tmp_path / "shop.parquet"
    parquet.write_table(pa.table({"timestamp": at, "value": demand_of().value[::4]}), path)
    return path


def test_an_empty_name_is_the_stand_in_and_needs_no_excuse(conf):
    source = source_of(settings_of(conf(model="")), demand_of(), {})
    assert isinstance(source, StandIn)
    assert (source.name, source.notes) == ("seasonal-naive", ())


def test_without_the_model_what_was_learned_stands_for_it_and_says_why(conf, tmp_path):
    source = source_of(settings_of(conf()), demand_of(), {})
    assert isinstance(source, Learned)
    assert source.name == LEARNED
    (why,) = source.notes
    assert "predict.model names 'forecaster'" in why
    assert str(tmp_path / "models") in why
    assert "was played instead" in why


def test_a_history_too_short_to_learn_from_leaves_the_stand_in_and_both_reasons(conf):
    source = source_of(settings_of(conf()), demand_of(400), {})
    assert isinstance(source, StandIn)
    assert "predict.model names 'forecaster'" in source.notes[0]
    assert "at least 1 are needed" in source.notes[0]


def test_what_was_learned_for_one_is_there_for_the_other(conf, monkeypatch):
    kept, demand, calls = {}, demand_of(), []
    real = rehearse_forecast.learn_ahead
    monkeypatch.setattr(rehearse_forecast, "learn_ahead", lambda *given: calls.append(given) or real(*given))
    one, two = (source_of(settings_of(conf()), demand, kept) for _ in range(2))
    assert len(calls) == 1
    assert one.ahead is two.ahead
    assert list(kept) == [(4, 6, 1440, 60)]


def test_a_cached_model_is_played_as_in_production(conf, tmp_path):
    digest = worlds.put(tmp_path / "models", worlds.model())
    path = conf()
    source = source_of(settings_of(path), demand_of(), {})
    assert isinstance(source, Model)
    assert source.name == f"forecaster@{digest[:12]}"
    made, demand = configured("now", settings_of(path)), demand_of(first=0.99)
    ticks = np.arange(demand.first, len(demand), 4)
    told = [forecasts for _, forecasts in sights(made, demand, ticks, source)]
    assert {one.model for one in told} == {source.name}
    assert not any(one.fallback.any() for one in told)
    assert source.notes == ()
    slots = demand.value.reshape(-1, 4).mean(axis=1)
    j = int(ticks[0]) // 4
    # its middle is the largest of its look-back, and calibration leaves the middle alone
    assert told[0].values[0, :, QUANTILES.index(0.5)] == pytest.approx(slots[j - worlds.LOOK_BACK : j].max(), rel=0.01)


def test_the_calibration_is_warm_when_the_first_decision_comes(conf, tmp_path):
    worlds.put(tmp_path / "models", worlds.model())
    made, demand = configured("now", settings_of(conf())), demand_of(first=0.99)
    source = source_of(made.settings, demand, {})
    seen = []
    ask = source.forecasts
    source.forecasts = lambda windows: seen.append([one.end for one in windows]) or ask(windows)
    next(iter(sights(made, demand, np.arange(demand.first, len(demand), 4), source)))
    assert len(seen[0]) == 20
    assert seen[0][-1] + 60_000 == seen[1][0] == demand.at[demand.first]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"step_ms": 15_000}, "the stream's step is 60000 ms"), ({"horizon": 3}, "at least 6 is needed")],
)
def test_a_model_that_cannot_serve_is_not_played_and_the_reason_is_told(conf, tmp_path, changes, says):
    worlds.put(tmp_path / "models", worlds.model(), **changes)
    source = source_of(settings_of(conf()), demand_of(), {})
    assert source.name == LEARNED
    assert says in source.notes[0]


def test_a_model_that_answers_nonsense_is_replaced_tick_by_tick_and_counted(conf, tmp_path):
    table = np.tile(worlds.SPREAD, (worlds.HORIZON, 1)) * 1000
    worlds.put(tmp_path / "models", worlds.model(table=table))
    made, demand = configured("now", settings_of(conf())), demand_of(first=0.995)
    source = source_of(made.settings, demand, {})
    played = play(made, demand, source)
    assert played.forecast.startswith("forecaster@")
    assert played.notes == ("in 100.0 % of the ticks the seasonal stand-in answered for the model",)


def test_the_learned_forecast_is_of_the_tick_it_is_told_at(conf):
    made, demand = configured("now", settings_of(conf())), demand_of(first=0.99)
    source = source_of(made.settings, demand, {})
    ticks = np.arange(demand.first, len(demand), 4)
    told = [forecasts for _, forecasts in sights(made, demand, ticks, source)]
    np.testing.assert_array_equal(np.concatenate([one.values for one in told]), source.ahead.at(ticks))
    assert [one.issued_at for one in told] == demand.at[ticks].tolist()
    assert {one.model for one in told} == {LEARNED}


def test_the_forecast_played_is_in_the_summary_the_terminal_and_the_report(conf, trace, tmp_path, capsys):
    digest = worlds.put(tmp_path / "theirs", worlds.model())
    now, then = conf(), conf(name="then.yaml", cache="theirs")
    summary = whatif(trace, config=[now], against=[then], train_fraction=0.9, out=tmp_path / "out")
    found = summary["configurations"]
    assert found["config"]["forecast"] == LEARNED
    assert found["against"]["forecast"] == f"forecaster@{digest[:12]}"
    assert any("was played instead" in note for note in found["config"]["notes"])
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    for name, forecast in (("config", LEARNED), ("against", f"forecaster@{digest[:12]}")):
        assert f"{name}: the forecast was {forecast}" in printed
        assert f"--{name}: the forecast was {forecast}" in reading(summary)
        assert f"--{name}: the forecast was {forecast}" in page
    assert [row["setting"] for row in summary["settings"]] == ["predict.cache"]
    assert summary["difference"]["total"] != 0
