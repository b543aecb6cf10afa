"""``forecastle rehearse`` from a file to the three files, and what it says when it cannot."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.errors import ConfigError
from forecastle.runtime.rehearse import rehearse

MINUTES = 3 * 1440


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Three days of a daily rhythm with noise, one point a minute, beside a second series."""
    draw = np.random.default_rng(2)
    at = np.datetime64("2026-01-05T00:00", "ms") + np.arange(MINUTES) * np.timedelta64(60_000, "ms")
    value = np.maximum(300 + 200 * np.sin(np.arange(MINUTES) / 1440 * 2 * np.pi) + draw.normal(0, 20, MINUTES), 0)
    path = tmp_path_factory.mktemp("trace") / "data.parquet"
    names = ["shop/requests"] * MINUTES + ["other"] * 3
    table = {"series_id": names, "timestamp": np.concatenate([at, at[:3]]), "value": np.concatenate([value, [1, 2, 3]])}
    parquet.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def played(trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    arguments = ["rehearse", "--trace", str(trace), "--series", "shop/requests", "--policies", "hpa,forecastle,oracle"]
    arguments += ["--capacity-per-replica", "20", "--lead-time", "2m", "--train-fraction", "0.8", "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return out, result.output


def test_the_timeline_adds_up(played):
    out, _ = played
    table = parquet.read_table(out / "timeline.parquet")
    assert table.column_names == ["policy", "knob", "at", "demand", "desired", "ready", "starting", "unmet", "cost"]
    column = {name: np.asarray(table.column(name).to_pylist()) for name in table.column_names}
    assert set(column["policy"]) == {"hpa", "forecastle", "oracle"}
    np.testing.assert_allclose(column["unmet"], np.maximum(column["demand"] - column["ready"] * 20.0, 0), atol=1e-9)
    np.testing.assert_allclose(column["cost"], column["desired"] * 15 / 3600)
    np.testing.assert_array_equal(column["starting"], column["desired"] - column["ready"])
    assert (column["starting"] >= 0).all()


def test_ready_is_what_was_ordered_over_the_whole_lead_time(played):
    out, _ = played
    table = parquet.read_table(out / "timeline.parquet").to_pandas()
    lead = 8
    for _, line in table.groupby(["policy", "knob"], observed=True):
        expected = line["desired"].rolling(lead + 1).min().to_numpy()[lead:]
        np.testing.assert_array_equal(line["ready"].to_numpy()[lead:], expected)
        assert line["at"].diff().dropna().eq(np.timedelta64(15, "s")).all()


def test_the_summary_agrees_with_the_timeline(played):
    out, _ = played
    summary = json.loads((out / "summary.json").read_text())
    table = parquet.read_table(out / "timeline.parquet").to_pandas()
    sums = table.groupby(["policy", "knob"], observed=True)[["unmet", "cost", "demand"]].sum()
    for policy, found in summary["policies"].items():
        for row in found["knobs"]:
            total = sums.loc[(policy, row["knob"])]
            assert row["cost"] == pytest.approx(total["cost"])
            assert row["unmet_share"] == pytest.approx(total["unmet"] / total["demand"], abs=1e-12)
    full = next(row for row in summary["policies"]["oracle"]["knobs"] if row["knob"] == "inf")
    assert full["unmet_share"] == 0
    assert full["cost"] == pytest.approx(summary["oracle_cost"])
    everyone = [row for found in summary["policies"].values() for row in found["knobs"] if row["unmet_share"] == 0]
    assert min(row["cost"] for row in everyone) == pytest.approx(full["cost"])


def test_a_wrong_forecast_costs_money_never_service(played):
    out, _ = played
    summary = json.loads((out / "summary.json").read_text())
    hpa = max(t["unmet_share"] for t in summary["faults"] if t["fault"] == "none" and t["policy"] == "hpa")
    wrong = [t for t in summary["faults"] if t["fault"].startswith("forecast ")]
    assert {t["fault"] for t in wrong} == {"forecast constant", "forecast 10x", "forecast NaN"}
    for trial in wrong:
        assert trial["unmet_share"] <= max(hpa, 1e-3), trial
    said = next(t["notes"] for t in wrong if t["fault"] == "forecast NaN")
    assert any("not trusted" in note for note in said)


def test_forecastle_is_cheaper_than_the_hpa_on_a_rhythm(played):
    out, output = played
    summary = json.loads((out / "summary.json").read_text())
    assert summary["forecastle_over"]["hpa"]["median"] < 1.0
    assert "at equal unmet demand" in output


def test_the_comparison_with_as_many_knob_values_stands_beside_it(played):
    out, output = played
    summary = json.loads((out / "summary.json").read_text())
    found = summary["forecastle_over"]["hpa"]
    equal = found["at_equal_values"]
    assert equal["values"] == len(summary["policies"]["hpa"]["knobs"]) == 12
    assert len(summary["policies"]["forecastle"]["knobs"]) > 12
    assert equal["reached"] <= found["reached"]
    text = f"with 12 knob values of ours, as many as it has: {equal['median']:.3f}"
    assert text in output
    assert text in (out / "report.html").read_text()


def test_without_ours_nothing_is_compared(trace, tmp_path):
    given = {"series": "shop/requests", "policies": ("hpa",), "capacity_per_replica": "20", "train_fraction": 0.95}
    assert rehearse(trace, **given, out=tmp_path)["forecastle_over"] == {}


def test_the_report_stands_alone(played):
    out, _ = played
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("hpa", "forecastle", "oracle", "Cost against unmet demand", "When something fails"):
        assert name in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"series": ""}, "choose one with --series"),
        ({"series": "nobody"}, "no series 'nobody'"),
        ({"policies": ("magic",)}, "no policy 'magic'"),
        ({"policies": ()}, "--policies"),
        ({"capacity_per_replica": "many"}, "write a number"),
        ({"capacity_per_replica": "-1"}, "above 0"),
        ({"lead_time_s": -5.0}, "--lead-time"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_fix(trace, tmp_path, change, says):
    given = {"series": "shop/requests", "policies": ("hpa",), "capacity_per_replica": "20", "out": tmp_path} | change
    with pytest.raises(ConfigError, match=says):
        rehearse(trace, **given)
    assert not list(tmp_path.iterdir())


def test_csv_with_a_single_series(tmp_path):
    rows = "\n".join(f"2026-01-01T{h:02d}:{m:02d}:00,{50 + 10 * (h % 3)}" for h in range(24) for m in range(60))
    (tmp_path / "t.csv").write_text("timestamp,value\n" + rows + "\n")
    summary = rehearse(tmp_path / "t.csv", policies=("hpa",), capacity_per_replica=10.0, out=tmp_path / "out")
    assert summary["series"] == "t"
    assert summary["test_steps"] > 1000
