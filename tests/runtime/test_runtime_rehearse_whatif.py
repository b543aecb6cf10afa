"""Two configurations on one history: the books by hand, the loop against a slow one, and what is refused."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.errors import ConfigError
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.config import load
from forecastle.runtime.rehearse_config import Played, configured, play, serving, sights
from forecastle.runtime.rehearse_forecast import StandIn
from forecastle.runtime.rehearse_whatif import MONTH_H, Bill, bill, differences, whatif
from forecastle.runtime.rehearse_whatif_report import daily, reading

MINUTES = 2000
BASE = """
clouds: {sim: {adapter: "forecastle.clouds.sim:open_cloud", options: {path: sim.db}}}
window: {step_s: 60, look_back: 300}
predict: {model: "", season: 240, horizon: 20}
guards: {GUARDS}
policies: {default: {POLICY}}
fleet:
  sites:
    - {name: fra, provider: aws, region: eu-central-1}
    - {name: ams, provider: gcp, region: europe-west4}
  workloads:
    - name: shop
      demands: [{metric: rps, per_replica: 10}]
      pools:
        - {name: shop-fra, site: fra, unit_price: FRA, startup_s: 90}
        - {name: shop-ams, site: ams, unit_price: 0.2, startup_s: 30, max: 5}
"""


def write(path, *, guards="{}", policy="{}", fra="0.1", more=""):
    path.write_text(BASE.replace("{GUARDS}", guards).replace("{POLICY}", policy).replace("FRA", fra) + more)
    return path


@pytest.fixture
def files(tmp_path):
    def make(name="now.yaml", **changes):
        return write(tmp_path / name, **changes)

    return make


def prepared(path, **more):
    return configured("now", load([path], environment={}), **more)


def demand_of(values, first=0, known=None):
    values = np.asarray(values, float)
    at = 1_760_000_040_000 // 60_000 * 60_000 + np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


def waves(n=4 * MINUTES, seed=0):
    """A rhythm of four hours with noise, and bursts that nobody sees coming."""
    draw = np.random.default_rng(seed)
    calm = 150 + 100 * np.sin(np.arange(n) / 960 * 2 * np.pi) + draw.normal(0, 8, n)
    for begin in draw.integers(0, n, n // 400):
        calm[begin : begin + 24] *= 1.9
    return np.maximum(calm, 0)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    at = np.datetime64("2026-01-05T00:00", "ms") + np.arange(MINUTES) * np.timedelta64(60_000, "ms")
    path = tmp_path_factory.mktemp("trace") / "shop.parquet"
    parquet.write_table(pa.table({"series_id": ["shop"] * MINUTES, "timestamp": at, "value": waves()[::4]}), path)
    return path


@pytest.fixture(scope="module")
def compared(trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whatif")
    now = write(folder / "now.yaml")
    then = write(
        folder / "then.yaml",
        guards="{cooldown_down_s: 120, step_down_fraction: 0.5, stabilization_down_s: 120}",
        policy="{unmet_price: 5, target_utilization: 0.95}",
    )
    arguments = ["rehearse", "--trace", str(trace), "--config", str(now), "--against", str(then), "--out", str(folder / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return folder / "out", result.output, json.loads((folder / "out" / "summary.json").read_text())


def test_the_difference_is_one_minus_the_other_in_every_part(compared):
    _, _, summary = compared
    now, then = (summary["configurations"][name] for name in ("config", "against"))
    for part in ("replica_cost", "unmet_cost", "total"):
        assert summary["difference"][part] == pytest.approx(then[part] - now[part])
        assert summary["difference"][f"{part}_per_month"] == pytest.approx(
            (then[part] - now[part]) * MONTH_H / summary["hours"]
        )
    assert now["total"] == pytest.approx(now["replica_cost"] + now["unmet_cost"])


def test_less_insurance_and_faster_scale_in_cost_fewer_replicas_and_serve_less(compared):
    _, _, summary = compared
    assert summary["difference"]["replica_cost"] < 0
    assert summary["difference"]["unmet_cost"] > 0
    assert summary["configurations"]["against"]["unmet_share"] > summary["configurations"]["config"]["unmet_share"]


def test_both_pay_the_same_for_unmet_demand_and_the_other_price_is_told(compared):
    _, output, summary = compared
    assert summary["unmet_price"] == 20
    other = summary["difference_at_the_other_price"]
    assert other["unmet_price"] == 5
    assert other["unmet_cost"] == pytest.approx(summary["difference"]["unmet_cost"] / 4)
    assert other["replica_cost"] == pytest.approx(summary["difference"]["replica_cost"])
    assert "at 5" in output


def test_what_differs_is_named_and_nothing_else(compared):
    _, output, summary = compared
    assert {row["setting"]: (row["config"], row["against"]) for row in summary["settings"]} == {
        "guards.cooldown_down_s": (600.0, 120.0),
        "guards.step_down_fraction": (0.1, 0.5),
        "guards.stabilization_down_s": (600.0, 120.0),
        "workload.target_utilization": (0.8, 0.95),
        "workload.unmet_price": (20.0, 5.0),
    }
    assert "guards.cooldown_down_s: 600.0 -> 120.0" in output


def test_the_timeline_holds_the_books(compared):
    out, _, summary = compared
    table = parquet.read_table(out / "timeline.parquet").to_pandas()
    for name in ("config", "against"):
        rows, found = table[table["policy"] == name], summary["configurations"][name]
        assert rows["cost"].sum() == pytest.approx(found["replica_cost"])
        assert rows["unmet"].sum() / 10 * STEP_S / 3600 * 20 == pytest.approx(found["unmet_cost"])
        assert (rows["starting"] >= 0).all()
        assert len(rows) == summary["hours"] * 3600 / STEP_S


def test_the_report_says_it_in_money(compared):
    out, _, summary = compared
    page = (out / "report.html").read_text()
    for part in ("Money", "What differs", "guards.cooldown_down_s", "Where they differ most", "how often a guard said no"):
        assert part in page
    total = summary["difference"]["total_per_month"]
    assert f"{abs(total):,.2f} {'more' if total > 0 else 'less'} than" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_same_configuration_twice_makes_no_difference(trace, files, tmp_path, capsys):
    path = files()
    summary = whatif(trace, config=[path], against=[path], train_fraction=0.9, out=tmp_path / "out")
    assert summary["settings"] == []
    assert set(summary["difference"].values()) == {0.0}
    assert summary["difference_at_the_other_price"] is None
    assert "both do the same" in capsys.readouterr().out
    assert "both do the same" in reading(summary)


def test_a_pools_price_alone_changes_the_bill(trace, files, tmp_path):
    now, then = files(), files("then.yaml", fra="0.05")
    summary = whatif(trace, config=[now], against=[then], train_fraction=0.9, out=tmp_path / "out")
    assert [row["setting"] for row in summary["settings"]] == ["pools.shop-fra.unit_price"]
    assert summary["difference"]["replica_cost"] < 0


def test_a_later_file_wins_over_an_earlier_one(trace, files, tmp_path):
    now = files()
    (tmp_path / "change.yaml").write_text("guards: {tolerance: 0.3}\n")
    summary = whatif(trace, config=[now], against=[now, tmp_path / "change.yaml"], train_fraction=0.9, out=tmp_path / "out")
    assert summary["settings"] == [{"setting": "guards.tolerance", "config": 0.1, "against": 0.3}]


def test_a_given_capacity_holds_for_both(trace, files, tmp_path):
    path = files()
    summary = whatif(trace, config=[path], against=[path], capacity_per_replica="25", train_fraction=0.9, out=tmp_path / "out")
    assert summary["capacity_per_replica"] == 25
    assert 5 < summary["configurations"]["config"]["mean_replicas"] < 20


WORKLOAD = """
    - name: stock
      demands: [{metric: rps, per_replica: 5}]
      pools: [{name: stock-fra, site: fra, unit_price: 0.3}]
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"against": []}, r"--against is missing.*--against THEN.yaml"),
        ({"config": []}, r"--config is missing.*--config NOW.yaml"),
        ({"workload": "cart"}, r"--config.*no workload 'cart'; choose one of: shop"),
        ({"capacity_per_replica": "-3"}, "above 0"),
        ({"capacity_per_replica": "lots"}, "write a number"),
        ({"series": "nobody"}, "no series 'nobody'"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_fix(trace, files, tmp_path, change, says):
    path, out = files(), tmp_path / "out"
    with pytest.raises(ConfigError, match=says):
        whatif(trace, **({"config": [path], "against": [path], "out": out} | change))
    assert not out.exists()


@pytest.mark.parametrize("option", [("--lead-time", "60s"), ("--policies", "hpa")])
def test_an_option_that_a_what_if_does_not_heed_is_refused(trace, files, tmp_path, option):
    given = ["rehearse", "--trace", trace, "--config", files(), "--against", files(), "--out", tmp_path / "out", *option]
    found = CliRunner().invoke(app, [str(part) for part in given])
    assert found.exit_code != 0
    assert "startup_s" in f"{found.output}{found.exception}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (WORKLOAD, "has 2 workloads; choose one with --workload: shop, stock"),
        ("window: {step_s: 50}", "window"),
    ],
)
def test_a_configuration_that_cannot_be_played_names_its_option(trace, files, tmp_path, more, says):
    good = files()
    bad = write(tmp_path / "bad.yaml", more=more)
    with pytest.raises(ConfigError, match=f"--against: .*{says}"):
        whatif(trace, config=[good], against=[bad], out=tmp_path / "out")


def test_a_step_that_the_clock_cannot_show_is_refused(files):
    path = files()
    path.write_text(path.read_text().replace("step_s: 60", "step_s: 50"))
    with pytest.raises(ConfigError, match=r"step_s is 50.*write a multiple"):
        prepared(path)


def test_a_fleet_without_workloads_is_refused(tmp_path):
    (tmp_path / "bare.yaml").write_text("window: {step_s: 60}\n")
    with pytest.raises(ConfigError, match=r"has no workload; add one under fleet\.workloads"):
        configured("now", load([tmp_path / "bare.yaml"], environment={}))


def test_one_of_several_workloads_is_played_alone(tmp_path):
    path = write(tmp_path / "two.yaml", more=WORKLOAD)
    found = prepared(path, workload="stock")
    assert found.capacity == 5
    assert set(found.stock.pools) == {"stock-fra"}
    assert set(found.stock.workloads) == {"stock"}


def test_what_the_trace_lacks_is_left_out_and_said(files):
    path = files()
    text = path.read_text().replace(
        "per_replica: 10}]", "per_replica: 10}, {metric: queue, per_replica: 3}]\n      vetoes: [{metric: p99, above: 1}]"
    )
    path.write_text(text)
    found = prepared(path)
    assert len(found.load.demands) == 1
    assert found.load.vetoes == ()
    assert any("queue" in note for note in found.notes)
    assert any("p99" in note for note in found.notes)


def test_a_shadow_workload_is_played_as_if_it_acted(files):
    assert prepared(files()).load.mode == "auto"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 6))
def test_serving_is_what_a_replica_by_replica_replay_says(ordered, lead):
    replicas = [0] * ordered[0]
    for step, wanted in enumerate(ordered):
        while len(replicas) < wanted:
            replicas.append(step + lead)
        while len(replicas) > wanted:
            replicas.remove(max(replicas))
        ready = sum(1 for serves_from in replicas if serves_from <= step)
        assert serving(np.array(ordered), lead)[step] == ready


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=12, max_size=60),
    st.integers(0, 7),
)
def test_a_decision_sees_the_slot_that_closed_before_it_and_nothing_later(rows, first):
    from pathlib import Path
    from tempfile import TemporaryDirectory  # a fixture cannot be used with hypothesis

    values, known = [v for v, _ in rows], [k for _, k in rows]
    with TemporaryDirectory() as folder:
        conf = prepared(write(Path(folder) / "now.yaml"))
    demand = demand_of(values, first, known)
    ticks, source = np.arange(first, len(values), conf.step), StandIn(conf.settings.predict)
    for tick, (window, forecast) in zip(ticks, sights(conf, demand, ticks, source), strict=True):
        assert window.end == demand.at[tick] == forecast.issued_at
        span = [i for i in range(max(tick - 4, 0), tick) if known[i]]
        assert bool(window.mask[0, -1]) == bool(span)
        if span:
            assert window.values[0, -1] == pytest.approx(np.mean([values[i] for i in span]), rel=1e-5, abs=1e-6)


def test_the_future_does_not_change_what_was_decided(files):
    conf, values = prepared(files()), waves()[:1600]
    other = values.copy()
    other[1200:] *= 3
    one, two = (play(conf, demand_of(v, 800)) for v in (values, other))
    np.testing.assert_array_equal(one.ordered[:400], two.ordered[:400])
    assert (one.ordered[400:] != two.ordered[400:]).any()


def test_the_books_of_two_pools_by_hand(files):
    conf = prepared(files())
    played = play(conf, demand_of(np.full(400, 100.0), 100))
    # both stay inside what their limits allow, and the dearer pool is not used while the cheap one has room
    assert (played.ordered >= 10).all()
    assert played.unmet.sum() == 0
    hours = 300 * STEP_S / 3600
    assert played.cost.sum() == pytest.approx(played.ordered.mean() * 0.1 * hours)


def test_committed_replicas_are_paid_whether_used_or_not(files):
    path = files()
    path.write_text(path.read_text().replace("startup_s: 90}", "startup_s: 90, committed: 40}"))
    played = play(prepared(path), demand_of(np.full(300, 50.0), 100))
    assert played.ordered.max() < 40
    assert played.cost[0] == pytest.approx(40 * 0.1 * STEP_S / 3600)


def test_a_hole_costs_nothing_and_nothing_is_removed_in_it(files):
    known = np.ones(1200, bool)
    known[600:900] = False
    played = play(prepared(files()), demand_of(waves()[:1200], 400, known))
    assert played.cost[200:500].sum() == 0
    assert played.unmet[200:500].sum() == 0
    inside = played.ordered[220:500]
    assert (np.diff(inside) >= 0).all()


def test_a_longer_start_up_leaves_more_unserved(files):
    steps = np.concatenate([np.full(400, 60.0), np.linspace(60, 900, 80), np.full(100, 900.0)])
    path = files()
    quick = play(prepared(path), demand_of(steps, 300))
    path.write_text(path.read_text().replace("startup_s: 90", "startup_s: 600"))
    slow = play(prepared(path), demand_of(steps, 300))
    assert slow.unmet.sum() > quick.unmet.sum() > 0


def test_a_bill_is_the_unserved_replica_hours_at_the_price(files):
    conf = prepared(files())
    n = 240
    at = np.arange(n) * 15_000
    flat = np.full(n, 30.0)
    played = Played(conf, at, flat, np.ones(n, bool), np.full(n, 2), np.full(n, 2), np.full(n, 0.5), np.full(n, 10.0), 0, {})
    found = bill(played, 20.0, 10.0)
    assert found.replicas == pytest.approx(120.0)
    assert found.unmet == pytest.approx(1.0 * 20.0)  # one replica short for an hour
    assert found.figures(1.0)["total_per_month"] == pytest.approx(140.0 * MONTH_H)
    assert Bill(3.0, 4.0).minus(Bill(1.0, 5.0)) == Bill(2.0, -1.0)


def test_differences_see_pools_that_only_one_has(files, tmp_path):
    now = prepared(files())
    text = (tmp_path / "now.yaml").read_text()
    path = tmp_path / "then.yaml"
    path.write_text("\n".join(line for line in text.splitlines() if "shop-ams" not in line))
    found = {row["setting"]: row for row in differences(now, prepared(path))}
    assert found["pools.shop-ams.unit_price"] == {"setting": "pools.shop-ams.unit_price", "config": 0.2, "against": None}
    assert "workload.pools" in found


def test_daily_sums_keep_the_whole():
    x = np.arange(86_400 // STEP_S * 2 + 7.0)
    assert len(daily(x)) == 3
    assert daily(x).sum() == pytest.approx(x.sum())


def test_the_start_is_what_the_first_minutes_need(files):
    conf = prepared(files())
    played = play(conf, demand_of(np.full(200, 240.0), 100))
    assert played.ordered[0] >= math.ceil(240 / (10 * 0.8))
    assert played.ready[0] == played.ordered[0]
