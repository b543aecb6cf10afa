"""``forecastle forecast``: what comes out, from which rows, and what is said when a file cannot be used."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecastle.errors import ConfigError
from forecastle.predict.batch import blend, calibrate, forecast, lags, learned, naive
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import QUANTILES, Panel, forward, pinball
from forecastle.runtime.batch_forecast import forecast_file
from forecastle.runtime.batch_forecast_table import read_long
from models import batch_pretrain

BEGIN = datetime(2026, 1, 5)  # noqa: DTZ001 - files carry naive UTC
STEP = timedelta(minutes=30)
QUANTILE_COLUMNS = [f"q{level}" for level in QUANTILES]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "STOPS", (20,))


def series(width: int = 480, seed: int = 0, level: float = 50.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    at = np.arange(width)
    return level * (1 + 0.4 * np.sin(2 * np.pi * at / 48)) + rng.normal(0, 0.05 * level, width)


def write(path: Path, values: dict[str, np.ndarray], step: timedelta = STEP) -> Path:
    names, stamps, numbers = [], [], []
    for name, column in values.items():
        for k, value in enumerate(column):
            if not math.isnan(value):
                names.append(name)
                stamps.append(BEGIN + k * step)
                numbers.append(float(value))
    pq.write_table(pa.table({"series_id": names, "timestamp": pa.array(stamps, pa.timestamp("us")), "value": numbers}), path)
    return path


def run(source: Path, out: Path, *, train: int = 383, horizon: int = 6, origins: int = 5) -> dict[str, np.ndarray]:
    forecast_file(source, BEGIN + train * STEP, horizon, origins, out)
    return columns(out)


def columns(out: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(out)
    return {name: np.asarray(table.column(name).to_pylist()) for name in table.column_names}


def bands(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.column_stack([table[name] for name in QUANTILE_COLUMNS])


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_output_has_the_schema_and_a_row_for_every_series_origin_and_step(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"b": series(seed=1), "a": series(seed=2)})
    said = forecast_file(source, BEGIN + 383 * STEP, 6, 5, tmp_path / "new" / "out.parquet")
    table = pq.read_table(tmp_path / "new" / "out.parquet")
    assert table.column_names == ["series_id", "origin", "step", *QUANTILE_COLUMNS, "model"]
    assert table.schema.field("series_id").type == pa.string()
    assert table.schema.field("origin").type == pa.timestamp("ms")
    assert len(table) == 2 * 5 * 6
    rows = list(zip(*(table.column(name).to_pylist() for name in ("series_id", "origin", "step")), strict=True))
    assert rows == sorted(set(rows))
    assert "60 rows, 2 series, 5 origins" in said
    assert "2026-01-12 23:30:00" in said


def test_origins_run_from_train_until_to_where_the_horizon_still_fits_and_are_the_same_for_all(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series(), "short": series(430)})
    table = run(source, tmp_path / "out.parquet", origins=4)
    stamps = sorted(set(table["origin"]))
    assert stamps[0] == BEGIN + 383 * STEP
    assert stamps[-1] == BEGIN + (479 - 6) * STEP
    assert stamps[1:3] == [BEGIN + 413 * STEP, BEGIN + 443 * STEP]
    assert sorted(set(table["origin"][table["series_id"] == "short"])) == stamps


def test_a_train_until_between_rows_means_the_row_before_and_a_zone_is_understood(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series()})
    plain = run(source, tmp_path / "plain.parquet", origins=1)
    zoned = (BEGIN + 383 * STEP + timedelta(minutes=7)).replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5)))
    forecast_file(source, zoned, 6, 1, tmp_path / "zoned.parquet")
    assert set(plain["origin"]) == {BEGIN + 383 * STEP}
    assert np.array_equal(bands(plain), bands(columns(tmp_path / "zoned.parquet")))


def test_quantiles_never_cross_and_are_finite(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = {"cycle": series(), "bursts": rng.pareto(1.5, 480), "zeros": rng.poisson(0.05, 480).astype(float)}
    table = run(write(tmp_path / "in.parquet", values), tmp_path / "out.parquet")
    assert np.isfinite(bands(table)).all()
    assert (np.diff(bands(table), axis=1) >= 0).all()


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series(), "b": series(seed=5)})
    run(source, tmp_path / "one.parquet")
    run(source, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_cycle_is_forecast_better_than_by_the_last_value(tmp_path: Path) -> None:
    values = series()
    table = run(write(tmp_path / "in.parquet", {"a": values}), tmp_path / "out.parquet", horizon=12, origins=24)
    row = np.asarray([(at - BEGIN) // STEP for at in table["origin"]])
    actual = values[row + table["step"]]
    error = np.abs(actual - table["q0.5"]).mean()
    assert error < 0.7 * np.abs(actual - values[row]).mean()
    inside = (table["q0.1"] <= actual) & (actual <= table["q0.9"])
    assert 0.6 < inside.mean() < 0.95


def test_scale_and_unit_of_a_series_carry_over_to_its_forecast(tmp_path: Path) -> None:
    run(write(tmp_path / "in.parquet", {"a": series()}), tmp_path / "small.parquet")
    run(write(tmp_path / "big.parquet", {"a": 1e6 * series()}), tmp_path / "large.parquet")
    small, large = bands(columns(tmp_path / "small.parquet")), bands(columns(tmp_path / "large.parquet"))
    np.testing.assert_allclose(large, 1e6 * small, rtol=2e-2)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_values_after_an_origin_change_nothing_of_its_forecast(tmp_path: Path) -> None:
    before = {"a": series(), "b": series(seed=7)}
    after = {name: values.copy() for name, values in before.items()}
    for values in after.values():
        values[420:] = 1e4 * np.random.default_rng(9).random(60)
    one = run(write(tmp_path / "one.parquet", before), tmp_path / "out1.parquet", origins=8)
    two = run(write(tmp_path / "two.parquet", after), tmp_path / "out2.parquet", origins=8)
    early = one["origin"] < BEGIN + 420 * STEP
    assert early.any()
    assert np.array_equal(bands(one)[early], bands(two)[early])
    assert not np.allclose(bands(one)[~early], bands(two)[~early])


def test_measurements_taken_away_after_an_origin_change_nothing_of_its_forecast(tmp_path: Path) -> None:
    before = series()
    after = before.copy()
    after[400:470] = np.nan
    one = run(write(tmp_path / "one.parquet", {"a": before}), tmp_path / "out1.parquet", origins=1)
    two = run(write(tmp_path / "two.parquet", {"a": after}), tmp_path / "out2.parquet", origins=1)
    assert np.array_equal(bands(one), bands(two))


def test_gaps_stay_open_and_are_bridged_by_what_came_before(tmp_path: Path) -> None:
    values = series()
    values[100:130] = np.nan
    values[375:384] = np.nan
    values[::17] = np.nan
    table = run(write(tmp_path / "in.parquet", {"a": values, "b": series(seed=4)}), tmp_path / "out.parquet")
    assert len(table["step"]) == 2 * 5 * 6
    assert np.isfinite(bands(table)).all()
    assert np.abs(table["q0.5"]).max() < 200


def test_a_series_that_begins_later_is_forecast_from_its_first_row_on(tmp_path: Path) -> None:
    late = series()
    late[:410] = np.nan
    table = run(write(tmp_path / "in.parquet", {"old": series(), "late": late}), tmp_path / "out.parquet", origins=8)
    stamps = table["origin"][table["series_id"] == "late"]
    assert len(stamps) > 0
    assert stamps.min() >= BEGIN + 410 * STEP
    assert len(set(table["origin"][table["series_id"] == "old"])) == 8


def test_a_constant_series_is_forecast_as_constant(tmp_path: Path) -> None:
    values = {"flat": np.full(480, 7.0), "zero": np.zeros(480), "a": series()}
    table = run(write(tmp_path / "in.parquet", values), tmp_path / "out.parquet")
    flat, zero = table["series_id"] == "flat", table["series_id"] == "zero"
    np.testing.assert_allclose(bands(table)[flat], 7.0, atol=0.01)
    np.testing.assert_allclose(bands(table)[zero], 0.0, atol=1e-6)


def test_only_constant_series(tmp_path: Path) -> None:
    table = run(write(tmp_path / "in.parquet", {"flat": np.full(480, 3.0)}), tmp_path / "out.parquet")
    np.testing.assert_allclose(bands(table), 3.0, atol=0.01)


def test_many_series_of_different_sizes_each_stay_in_their_own_range(tmp_path: Path) -> None:
    values = {f"s{k:03}": series(seed=k, level=10.0 ** (k % 7)) for k in range(60)}
    table = run(write(tmp_path / "in.parquet", values), tmp_path / "out.parquet", origins=2)
    levels = np.asarray([10.0 ** (int(name[1:]) % 7) for name in table["series_id"]])
    assert (bands(table) > 0.2 * levels[:, None]).all()
    assert (bands(table) < 2.2 * levels[:, None]).all()


@pytest.mark.parametrize("horizon", [1, 3, 12, 40])
def test_horizons_short_and_long(tmp_path: Path, horizon: int) -> None:
    table = run(write(tmp_path / "in.parquet", {"a": series()}), tmp_path / "out.parquet", horizon=horizon, origins=3)
    assert set(table["step"]) == set(range(1, horizon + 1))
    assert np.isfinite(bands(table)).all()


def test_a_history_barely_long_enough(tmp_path: Path) -> None:
    table = run(write(tmp_path / "in.parquet", {"a": series(60)}), tmp_path / "out.parquet", train=30, horizon=4, origins=3)
    assert np.isfinite(bands(table)).all()


def test_times_as_text_seconds_or_dictionaries_are_the_same_times(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "in.parquet", {"a": series(), "b": series(seed=1)}))
    stamps = table.column("timestamp").to_pylist()
    seconds = [int(stamp.replace(tzinfo=UTC).timestamp()) for stamp in stamps]
    wanted = read_long(tmp_path / "in.parquet").panel
    for form in (pa.array([str(s) for s in stamps]), pa.array(seconds), pa.array(seconds).cast(pa.timestamp("s", "UTC"))):
        ids = table.column("series_id").combine_chunks().dictionary_encode()
        pq.write_table(pa.table({"value": table.column("value"), "timestamp": form, "series_id": ids}), tmp_path / "x.parquet")
        panel = read_long(tmp_path / "x.parquet").panel
        assert (panel.start_ms, panel.step_ms) == (wanted.start_ms, wanted.step_ms)
        assert np.array_equal(panel.values, wanted.values)


def test_row_order_is_nothing_and_rows_of_the_same_time_are_averaged(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series(), "b": series(seed=1)})
    table = pq.read_table(source)
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    twice = pa.concat_tables(
        [mixed, table.slice(0, 1).set_column(2, "value", pa.array([table.column("value")[0].as_py() + 10]))]
    )
    pq.write_table(twice, tmp_path / "mixed.parquet")
    one, two = read_long(source).panel.values, read_long(tmp_path / "mixed.parquet").panel.values
    assert two[0, 0] == pytest.approx(one[0, 0] + 5)
    one[0, 0] = two[0, 0]
    assert np.array_equal(one, two)


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(source: Path, until: datetime, horizon: int = 6, origins: int = 3) -> str:
    with pytest.raises(ConfigError) as caught:
        forecast_file(source, until, horizon, origins, source.parent / "out.parquet")
    assert not (source.parent / "out.parquet").exists()
    return str(caught.value)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"series_id": ["a"], "time": [1], "value": [1.0]}), tmp_path / "in.parquet")
    said = refused(tmp_path / "in.parquet", BEGIN)
    assert "no column 'timestamp'" in said
    assert "series_id, time, value" in said


def test_irregular_steps_are_shown_with_the_first_row_off_the_grid(tmp_path: Path) -> None:
    stamps = [BEGIN + k * STEP for k in range(200)]
    stamps[50] += timedelta(seconds=1)
    pq.write_table(pa.table({"series_id": ["a"] * 200, "timestamp": stamps, "value": series(200)}), tmp_path / "in.parquet")
    said = refused(tmp_path / "in.parquet", BEGIN + 150 * STEP)
    assert "irregular steps: 1 of 200 rows" in said
    assert "2026-01-06T01:00:01" in said
    assert "resample" in said


@pytest.mark.parametrize("until", [BEGIN - STEP, BEGIN + 480 * STEP])
def test_a_train_until_outside_the_file_shows_what_the_file_spans(tmp_path: Path, until: datetime) -> None:
    said = refused(write(tmp_path / "in.parquet", {"a": series()}), until)
    assert "outside the file" in said
    assert "2026-01-05 00:00:00 to 2026-01-14 23:30:00" in said


def test_too_little_to_learn_from_or_to_forecast_says_what_would_do(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series()})
    assert "at least 30 are needed" in refused(source, BEGIN + 20 * STEP)
    assert "at least 122 are needed" in refused(source, BEGIN + 100 * STEP, horizon=60)
    assert "at most 2026-01-14 20:30:00" in refused(source, BEGIN + 475 * STEP)
    assert "--origins 30 are more than the 11 steps" in refused(source, BEGIN + 463 * STEP, origins=30)


def test_files_that_are_no_table_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")
    assert "cannot be read as parquet" in refused(tmp_path / "text.parquet", BEGIN)
    assert "cannot be read as parquet" in refused(tmp_path / "absent.parquet", BEGIN)


@pytest.mark.parametrize(
    ("names", "stamps", "values", "said"),
    [
        ([], [], [], "no rows"),
        (["a"], [BEGIN], ["much"], "'value' a number"),
        (["a", None], [BEGIN, BEGIN], [1.0, 2.0], "empty in some rows"),
        (["a", "b"], [BEGIN, BEGIN], [1.0, 2.0], "single row"),
    ],
)
def test_tables_without_a_usable_series(tmp_path: Path, names: list, stamps: list, values: list, said: str) -> None:
    table = pa.table(
        {"series_id": pa.array(names, pa.string()), "timestamp": pa.array(stamps, pa.timestamp("ms")), "value": values}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert said in refused(tmp_path / "in.parquet", BEGIN)


def test_the_command_line_forecasts_and_its_errors_leave_with_a_status(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"a": series(200)})
    arguments = ["--input", source, "--horizon", "3", "--origins", "2", "--out", tmp_path / "out.parquet", "--train-until"]
    command = [sys.executable, "-m", "forecastle.cli", "forecast", *map(str, arguments)]
    good = subprocess.run([*command, "2026-01-08"], capture_output=True, text=True, timeout=240, check=False)
    assert good.returncode == 0, good.stderr
    assert "6 rows, 1 series, 2 origins from 2026-01-08 00:00:00" in good.stdout
    bad = subprocess.run([*command, "2027-01-08"], capture_output=True, text=True, timeout=180, check=False)
    assert bad.returncode != 0
    assert "outside the file" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_forecasting_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, forecastle.runtime.batch_forecast; print(sorted({'torch', 'pandas', 'statsmodels'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.strip() == "[]"


# --- the parts --------------------------------------------------------------------------------------------------------


def panel(*rows: np.ndarray, step_ms: int = 1_800_000) -> Panel:
    return Panel.of(np.asarray(rows, float), 0, step_ms)


def test_gaps_repeat_the_value_before_and_stay_unknown_before_the_first() -> None:
    nan = np.nan
    assert np.array_equal(forward(np.asarray([[nan, 1, nan, 2, nan]])), [[nan, 1, 1, 2, 2]], equal_nan=True)


def test_targets_after_the_end_are_unknown() -> None:
    found = panel(np.arange(6)).targets(np.asarray([2, 4]), 3)
    assert np.array_equal(found, [[[3, 4, 5], [5, np.nan, np.nan]]], equal_nan=True)


def test_pinball_is_least_at_the_true_quantiles() -> None:
    actual = np.random.default_rng(0).normal(size=4000)
    true = np.quantile(actual, QUANTILES)
    losses = [pinball(np.broadcast_to(true * scale, (4000, 9)), actual).mean() for scale in (0.5, 1.0, 1.5)]
    assert losses[1] == min(losses)


def test_seasonal_members_look_back_whole_periods_and_never_past_the_origin() -> None:
    values = np.tile(np.arange(48.0), 4)
    ahead = naive.seasonal(48)(panel(values), np.asarray([100]), 60)
    assert np.array_equal(ahead[0, 0], [(101 + k) % 48 for k in range(60)])
    hidden = values.copy()
    hidden[101:] = np.nan
    assert np.array_equal(ahead, naive.seasonal(48)(panel(hidden), np.asarray([100]), 60))


def test_members_of_a_long_cycle_need_two_of_it() -> None:
    assert set(naive.members(panel(np.zeros(60)))) == {"last-value", "level"}
    assert "seasonal-daily" in naive.members(panel(np.zeros(120)))
    assert "seasonal-weekly" in naive.members(panel(np.zeros(800)))


def test_the_network_sees_nothing_after_its_origin() -> None:
    values = series(400)
    hidden = values.copy()
    hidden[301:] = -1e6
    at = np.asarray([300])
    one, two = (lags.inputs(lags.view(panel(v), 250), np.asarray([0]), at, 12) for v in (values, hidden))
    assert np.array_equal(one, two)


def test_knots_are_steps_in_order_and_interpolation_is_exact_on_lines() -> None:
    for horizon in (12, 60, 288):
        knots = lags.knots(horizon)
        assert knots[-1] == horizon
        assert (np.diff(knots) > 0).all()
        line = 2.0 * knots + 1
        steps = np.arange(1, horizon + 1)
        expected = np.maximum(2.0 * steps + 1, line[0])
        np.testing.assert_allclose(line @ lags.between(horizon), expected, rtol=1e-5)


def test_windows_are_drawn_only_where_all_targets_lie_in_the_training_span() -> None:
    values = series(200)
    values[100:120] = np.nan
    whole = panel(values)
    drawn = learned.drawable(whole, lags.view(whole, 200), 150, 12)
    assert drawn.at.max() == 150 - 12 - 1
    assert not set(drawn.at.tolist()) & set(range(100, 110))


def test_learning_lowers_the_loss_on_what_was_learned() -> None:
    whole = panel(*(series(600, seed=k) for k in range(3)))
    seen = lags.view(whole, 600)
    nets = learned.snapshots(whole, seen, 600, 12, (150,))
    origins = np.arange(100, 580, 20)
    truth = whole.targets(origins, 12)
    losses = [np.nanmean(pinball(learned.predict(net, seen, origins, 12), truth)) for net in nets]
    assert losses[1] < 0.97 * losses[0]


def test_weights_go_to_the_better_member_and_to_the_common_one_without_evidence() -> None:
    rng = np.random.default_rng(0)
    losses = rng.random((2, 3, 300, 12))
    losses[0, 0] *= 0.2
    losses[1, 1:] *= 0.5
    losses[:, 2] = np.nan
    weight = blend.weights(losses, blend.horizon_buckets(12))
    np.testing.assert_allclose(weight.sum(axis=0), 1.0)
    assert (weight[0, 0] > 0.95).all()
    assert (weight[1, 1] > 0.95).all()
    assert np.allclose(weight[:, 2], weight[:, 2, :1], atol=0.5)


def test_a_member_that_does_not_know_a_series_leaves_its_weight_to_the_others() -> None:
    known, unknown = np.ones((1, 2, 3, 9)), np.full((1, 2, 3, 9), np.nan)
    mixed = blend.mix(np.asarray([known, unknown]), np.full((2, 1, 3), 0.5))
    assert np.array_equal(mixed, known)
    assert np.isnan(blend.mix(np.asarray([unknown, unknown]), np.full((2, 1, 3), 0.5))).all()


def test_horizon_buckets_cover_every_step_once() -> None:
    for horizon in (1, 2, 5, 12, 60):
        steps = [k for bucket in blend.horizon_buckets(horizon) for k in range(horizon)[bucket]]
        assert steps == list(range(horizon))


@pytest.mark.parametrize("width", [0.4, 2.0])
def test_bands_that_promise_too_much_or_too_little_are_stretched_to_their_level(width: float) -> None:
    rng = np.random.default_rng(0)
    normal = np.asarray([-1.2816, -0.8416, -0.5244, -0.2533, 0, 0.2533, 0.5244, 0.8416, 1.2816])
    at, origins = np.arange(0, 900, 3), np.arange(1000, 1060)
    actual = rng.normal(size=(4, len(at), 6))
    promise = np.broadcast_to(width * normal, (4, len(at), 6, 9))
    found = calibrate.stretched(np.broadcast_to(width * normal, (4, 60, 6, 9)), origins, promise, at, actual)
    np.testing.assert_allclose(found[..., 8], 1.28, atol=0.2)
    np.testing.assert_allclose(found[..., 0], -1.28, atol=0.2)
    assert (found[..., 4] == 0).all()


def test_calibration_uses_no_outcome_after_the_origin() -> None:
    rng = np.random.default_rng(1)
    at, origins = np.arange(50, 150, 2), np.asarray([100, 160])
    past, actual = np.sort(rng.normal(size=(2, 50, 4, 9)), axis=-1), rng.normal(size=(2, 50, 4))
    later = actual.copy()
    later[(np.broadcast_to(at[:, None] + np.arange(1, 5) > 100, later.shape))] = 99.0
    quantiles = np.sort(rng.normal(size=(2, 2, 4, 9)), axis=-1)
    one, two = (calibrate.stretched(quantiles, origins, past, at, outcome) for outcome in (actual, later))
    assert np.array_equal(one[:, 0], two[:, 0])
    assert not np.array_equal(one[:, 1], two[:, 1])


def test_without_outcomes_bands_stay_as_they_are() -> None:
    quantiles = np.sort(np.random.default_rng(2).normal(size=(1, 1, 3, 9)), axis=-1)
    nothing = np.full((1, 2, 3), np.nan)
    found = calibrate.stretched(quantiles, np.asarray([10]), np.zeros((1, 2, 3, 9)), np.asarray([1, 2]), nothing)
    np.testing.assert_allclose(found, quantiles)


def test_a_saved_network_forecasts_as_the_one_that_was_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = batch_pretrain.generated(rng, 6, 900, 1_800_000)
    assert np.isfinite(made.values).all()
    assert (made.values.std(axis=1) > 0).any()
    seen = lags.view(made, 900)
    drawn = learned.drawable(made, seen, 900, 12)
    net = batch_pretrain.pretrain([batch_pretrain.Source(made, seen, drawn, 12, 1.0)], 8, 32, 0)
    net.save(tmp_path / "net.npz")
    again = Net.load(tmp_path / "net.npz", len(made.values))
    origins = np.arange(200, 800, 50)
    net.average[-1] = np.zeros((len(made.values) + 1, 8), np.float32)
    one, two = (learned.predict(each, seen, origins, 12) for each in (net, again))
    size = np.abs(made.values).mean(axis=1)[:, None, None, None] + 1
    assert np.abs((one - two) / size).max() < 0.05


def test_pretraining_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        batch_pretrain.pretrain([], 0, 32, 0)
