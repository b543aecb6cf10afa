"""Occasions known beforehand as columns: those that decide would multiply by, the same in batch, stream and training."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from forecastle.decide.events import Ahead
from forecastle.errors import ConfigError, ModelRefused
from forecastle.ports import Artifact
from forecastle.predict import known as almanacs
from forecastle.predict.engine import Predictor
from forecastle.predict.known import Almanac, check_columns, columns, read_known, statics
from forecastle.predict.members import Member
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.settings import PredictSettings
from forecastle.testing.check_forecaster import check_forecaster, occasions
from forecastle.types import Demand, Event, Foreknown, Holidays, SeriesKey, Window, Workload

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

HOUR = 3_600_000
BOTH = (Foreknown("holiday", 0, 1), Foreknown("event", -3, 3))
BERLIN = Holidays("DE", "Europe/Berlin")


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


def key(name: str, metric: str = "m", **labels: str) -> SeriesKey:
    return SeriesKey(name, metric, tuple(sorted(labels.items())))


def workload(name: str, *events: Event, holidays: Holidays | None = None) -> Workload:
    return Workload(name, (Demand(key(name), 1.0),), (), events=events, holidays=holidays)


def event(start: int, slots: int, factor: float, step: int = worlds.STEP) -> Event:
    """Starts ``start`` slots after the windows' end."""
    return Event("sale", worlds.END + start * step, worlds.END + (start + slots) * step, factor)


# --- columns ---


@given(
    st.lists(st.tuples(st.integers(0, 15 * 60), st.integers(1, 15 * 60), st.floats(0.1, 10)), max_size=5), st.integers(1, 20)
)
@settings(max_examples=100, deadline=None)
def test_the_column_is_the_factor_that_decide_would_apply(found: list[tuple[int, int, float]], steps: int) -> None:
    tick, step = worlds.END, worlds.STEP
    events = tuple(Event("e", tick + 1000 * start, tick + 1000 * (start + length), factor) for start, length, factor in found)
    ahead = Ahead.of(workload("w", *events), tick, step, steps)
    window = Window(key("w"), tick, step, np.ones(5, np.float32), np.ones(5, bool))
    told = columns(ahead.occasions, ("event",), tick, step, steps)
    assert np.exp(told[:, 0]) == pytest.approx(ahead.factors(steps, window), rel=1e-5)


def test_a_holiday_is_the_local_day_of_the_workload_however_long_it_is() -> None:
    """Berlin's Easter Monday and New York's Veterans Day of 2026."""
    start = at(2026, 4, 5)
    told = Almanac([workload("shop", holidays=BERLIN)], HOUR).at(BOTH, (key("shop"),), start, 0, 48)[0:1][0]
    days = np.flatnonzero(told[:, 0])
    assert (days.min(), days.max(), len(days)) == (22, 45, 24)  # 22:00 UTC is midnight in Berlin's summer
    assert not told[:, 1].any()
    york = Holidays("US", "America/New_York")
    veterans = Almanac([workload("shop", holidays=york)], HOUR).series(BOTH, [key("shop")], at(2026, 11, 14), 24 * 14)[0]
    assert np.flatnonzero(veterans[:, 0]).tolist() == list(range(24 * 11 + 5, 24 * 12 + 5))


def test_the_factor_of_a_holiday_is_told_too_and_the_largest_counts() -> None:
    halved = Holidays("DE", "Europe/Berlin", factor=0.5)
    party = Event("party", at(2026, 4, 6, 18), at(2026, 4, 6, 20), 3.0)
    told = Almanac([workload("shop", party, holidays=halved)], HOUR).series(BOTH, [key("shop")], at(2026, 4, 7), 24)[0]
    assert told[:18, 1] == pytest.approx(np.log(0.5))
    assert told[18:20, 1] == pytest.approx(np.log(3))
    assert told[:22, 0].all()


def test_a_series_of_no_workload_is_told_nothing_and_equal_calendars_are_kept_once() -> None:
    sale = event(2, 3, 2.0)
    almanac = Almanac([workload("a", sale), workload("b", sale), workload("c"), workload("d", event(1, 1, 3.0))], worlds.STEP)
    a, b, c, stranger, d = almanac.series(
        BOTH, [key(one) for one in ("a", "b", "c", "x", "d")], worlds.END + 10 * worlds.STEP, 20
    )
    assert a.base is b.base
    assert np.shares_memory(a, b)
    assert not c.any()
    assert not stranger.any()
    assert a.any()
    assert not np.array_equal(a, d)


def test_what_is_no_demand_is_told_nothing() -> None:
    almanac = Almanac([workload("a", event(2, 3, 2.0))], worlds.STEP)
    keys = (key("a"), key("a", "latency"), key("a", pod="a-1"))
    assert almanac.at(BOTH, keys, worlds.END, 10, 6).told.tolist() == [True, False, False]


def test_batch_stream_and_training_are_the_same_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kept columns end, in an order of rows that changes, and for a tick that is not on the grid kept."""
    monkeypatch.setattr(almanacs, "MARGIN", 7)
    loads = [
        workload("a", event(-30, 20, 2.0), event(4, 3, 0.5)),
        workload("b", event(-8, 40, 3.0), holidays=BERLIN),
        workload("c", event(11, 2, 1.5)),
    ]
    keys = tuple(key(name) for name in ("c", "a", "x", "b", "a"))
    back, ahead, step = 24, 6, worlds.STEP
    end = worlds.END + 40 * step
    trained = Almanac(loads, step).series(BOTH, keys, end, 100)
    stream = Almanac(loads, step)
    for tick in (*range(50), 20, 3):
        now = worlds.END - 20 * step + tick * step
        rows = stream.at(BOTH, keys, now, back, ahead)
        first = 100 - (end - now) // step - back
        wanted = np.stack([one[first : first + back + ahead] for one in trained])
        np.testing.assert_array_equal(rows[0:5], wanted)
        np.testing.assert_array_equal(rows[1:3], wanted[1:3])
        assert rows.told.tolist() == wanted.any(axis=(1, 2)).tolist()
        turned = stream.at(BOTH, keys[::-1], now, back, ahead)
        np.testing.assert_array_equal(turned[0:5], wanted[::-1])
    odd = stream.at(BOTH, keys, worlds.END + step // 2, back, ahead)[0:5]
    np.testing.assert_array_equal(odd, Almanac(loads, step).at(BOTH, keys, worlds.END + step // 2, back, ahead)[0:5])


def test_ticks_do_not_look_workloads_up_again() -> None:
    """Ten thousand series: columns are made for calendars, and rows are found once for as long as the series stay."""
    loads = [workload(f"w{i}", event(3, 5, 2.0)) for i in range(2000)]
    almanac, keys = Almanac(loads, worlds.STEP), tuple(key(f"w{i % 4000}") for i in range(10_000))
    almanac.at(BOTH, keys, worlds.END, 1500, 30)
    kept = almanac._kept
    index = kept._index
    for tick in range(1, 200):
        rows = almanac.at(BOTH, keys, worlds.END + tick * worlds.STEP, 1500, 30)
    assert almanac._kept is kept
    assert kept._index is index
    assert kept.table.shape[0] == 2
    assert rows[0:256].shape == (256, 1530, 2)


# --- what is learned, and who answers ---


def history(
    *events: Event, slots: int = 200, holidays: Holidays | None = None, seen: np.ndarray | None = None, step: int = worlds.STEP
):
    mask = np.ones((1, slots), bool) if seen is None else seen
    return Almanac([workload("w", *events, holidays=holidays)], step).learned(
        ("holiday", "event"), [key("w")], worlds.END, mask
    )


def test_a_range_goes_as_far_as_two_occasions() -> None:
    found = history(event(-150, 5, 2.0), event(-120, 5, 3.0), event(-90, 5, 8.0), event(-60, 5, 0.5), event(-30, 5, 0.8))
    assert found[1] == Foreknown("event", pytest.approx(np.log(0.8)), pytest.approx(np.log(3.0)))
    assert found[0] == Foreknown("holiday", 0.0, 0.0)


def test_one_occasion_may_be_chance() -> None:
    assert history(event(-150, 5, 2.0))[1] == Foreknown("event", 0.0, 0.0)
    assert history(event(-150, 5, 2.0), event(-40, 5, 0.5))[1] == Foreknown("event", 0.0, 0.0)


def test_what_was_not_measured_or_lies_beyond_the_history_is_not_learned() -> None:
    gap = np.ones((1, 200), bool)
    gap[0, 47:60] = False
    assert history(event(-150, 5, 2.0), event(-100, 5, 2.0), seen=gap)[1].high == 0.0
    assert history(event(-150, 5, 2.0), event(-2, 5, 2.0))[1].high == 0.0
    assert history(event(-150, 5, 2.0), event(-100, 5, 2.0))[1].high == pytest.approx(np.log(2))


def test_holidays_are_learned_from_two_of_them() -> None:
    """Good Friday and Easter Monday."""
    almanac = Almanac([workload("w", holidays=BERLIN)], HOUR)
    for days, learned in ((3, 0.0), (6, 1.0)):
        end = at(2026, 4, 8)
        found = almanac.learned(("holiday",), [key("w")], end, np.ones((1, 24 * days), bool))
        assert found == (Foreknown("holiday", 0.0, learned),)


def test_an_occasion_that_was_not_learned_is_not_told() -> None:
    narrow = (Foreknown("event", 0.0, np.log(2)),)
    loads = [workload("w", event(-5, 3, 2.0), event(1, 3, 4.0), event(4, 2, 0.5))]
    told = Almanac(loads, worlds.STEP).at(narrow, (key("w"),), worlds.END, 10, 8)[0:1][0, :, 0]
    assert np.flatnonzero(told).tolist() == [5, 6, 7]
    assert not Almanac(loads, worlds.STEP).at((Foreknown("event"),), (key("w"),), worlds.END, 10, 8).told.any()


# --- static columns ---


def test_a_static_column_is_a_condition_on_the_key() -> None:
    keys = [key("a", "rps", tier="web"), key("b", "cpu", tier="db"), key("c", "rps")]
    told = statics(keys, ("metric=rps", "label.tier=web", "label.tier=a=b"))
    assert told.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert statics([], ("metric=rps",)).shape == (0, 1)


@pytest.mark.parametrize("text", ["metric", "metric=", "tier=web", "label.=x", "label.tier"])
def test_what_is_no_condition_says_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write metric=NAME or label\.NAME=VALUE"):
        check_columns((), (text,))


# --- served ---

MORE = {"known": [{"name": "holiday", "low": 0, "high": 1}, {"name": "event", "low": -3, "high": 3}]}


def told_model(static: int = 0):
    """The last value times the planned factor of each step, and 1 + the first static column."""
    columns_ = (("known", ["n", worlds.LOOK_BACK + worlds.HORIZON, 2]),) + ((("static", ["n", static]),) if static else ())
    after = [
        worlds.const("from", np.array([worlds.LOOK_BACK, 1], np.int64)),
        worlds.const("to", np.array([2**31, 2], np.int64)),
        worlds.const("along", np.array([1, 2], np.int64)),
        helper.make_node("Slice", ["known", "from", "to", "along"], ["logs"]),
        helper.make_node("Exp", ["logs"], ["factors"]),
        helper.make_node("Mul", ["scaled", "factors"], ["known_of"]),
    ]
    if static:
        after += [
            worlds.const("zero", np.array([0], np.int64)),
            worlds.const("one", np.array([1], np.int64)),
            helper.make_node("Slice", ["static", "zero", "one", "one"], ["first"]),
            helper.make_node("Unsqueeze", ["first", "one"], ["trait"]),
            helper.make_node("Mul", ["known_of", "trait"], ["extra"]),
            helper.make_node("Add", ["known_of", "extra"], ["more"]),
        ]
    proto = worlds.model(after=after, final="more" if static else "known_of")
    proto.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in columns_)
    return proto


def made(tmp_path: Path, almanac: Almanac | None, static: tuple[str, ...] = (), **changes) -> OnnxForecaster:
    path = tmp_path / "model.onnx"
    path.write_bytes(told_model(len(static)).SerializeToString())
    inputs = ["values", "mask", "end_minute", "known", *(["static"] if static else [])]
    more = MORE | {"inputs": inputs} | ({"static": list(static)} if static else {}) | changes
    artifact = Artifact("forecaster", "1", path, "ab" * 32, worlds.manifest(**more))
    return OnnxForecaster(artifact, step_ms=worlds.STEP, horizon=worlds.HORIZON, quantiles=QUANTILES, almanac=almanac)


def test_a_model_is_told_of_the_occasions_of_each_series_in_chunks(tmp_path: Path) -> None:
    almanac = Almanac([workload("w0001", event(2, 2, 2.0)), workload("w0300", event(0, 1, 0.5))], worlds.STEP)
    values = worlds.waves(600)
    answer = made(tmp_path, almanac).infer(worlds.windows(values))
    plain = values[:, -worlds.LOOK_BACK :].max(axis=1)[:, None, None] * worlds.SPREAD * np.ones((1, worlds.HORIZON, 1))
    factors = np.ones((600, worlds.HORIZON, 1))
    factors[1, 2:4], factors[300, 0] = 2.0, 0.5
    assert answer == pytest.approx(plain * factors, rel=1e-5)


def test_a_model_is_told_what_each_series_is(tmp_path: Path) -> None:
    values = worlds.waves(2)
    keys = (key("a", "rps"), key("b", "cpu"))
    answer = made(tmp_path, Almanac((), worlds.STEP), ("metric=cpu",)).infer(worlds.windows(values, keys=keys))
    plain = values[:, -worlds.LOOK_BACK :].max(axis=1)[:, None, None] * worlds.SPREAD * np.ones((1, worlds.HORIZON, 1))
    assert answer == pytest.approx(plain * np.array([1.0, 2.0])[:, None, None], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"known": [{"name": "weather", "low": 0, "high": 1}] * 2},
            r"unknown known inputs \['weather', 'weather'\]; there are",
        ),
        ({"known": ["event", "holiday"]}, "needs name, low and high"),
        ({"known": [{"name": "event", "low": 0, "high": float("nan")}]}, "a range must hold 0"),
        ({"known": [{"name": "event", "low": 1, "high": 2}]}, "a range must hold 0"),
        ({"known": [{"name": "event", "low": 0, "high": 2}] * 2}, "must not name a column twice"),
        ({"known": []}, r"inputs .*they are \['values', 'mask', 'end_minute'\]"),
        ({"known": MORE["known"][:1]}, "failed its trial"),
        ({"static": ("tier=web",)}, "write metric=NAME"),
    ],
)
def test_a_model_that_asks_for_what_nobody_gives_is_refused_by_name(tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(ModelRefused, match=says):
        made(tmp_path, Almanac((), worlds.STEP), **changes)


def test_without_an_almanac_a_model_that_asks_for_known_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="asks for the known inputs holiday, event, which nothing gives here"):
        made(tmp_path, None)


def test_what_a_manifest_does_not_list_is_not_asked_for() -> None:
    assert read_known(worlds.manifest()) == ()


def test_a_member_does_not_answer_where_the_network_is_told_of_an_occasion(tmp_path: Path) -> None:
    """The one that smooths says 100 and something; of the two listed series one has a sale ahead."""
    keys = (key("w0000"), key("w0001"))
    members = [Member(one, "ets", (0.5, 0.1, 0.9)).told() for one in keys]
    almanac = Almanac([workload("w0001", event(2, 2, 2.0))], worlds.STEP)
    values = worlds.waves(2)
    network = made(tmp_path, almanac).infer(worlds.windows(values, keys=keys))
    answer = made(tmp_path, almanac, members=members).infer(worlds.windows(values, keys=keys))
    np.testing.assert_array_equal(answer[1], network[1])
    assert not np.array_equal(answer[0], network[0])


def predictor(tmp_path: Path, almanac: Almanac | None) -> Predictor:
    asked = PredictSettings(cache=str(tmp_path), horizon=worlds.HORIZON, timeout_s=60, season=24)
    return Predictor(asked, worlds.STEP, clock=lambda: 0.0, almanac=almanac)


def test_forecasts_say_what_their_model_was_told_of(tmp_path: Path) -> None:
    worlds.put(tmp_path, told_model(), **MORE, inputs=["values", "mask", "end_minute", "known"])
    windows = worlds.windows(worlds.waves(3))
    told = predictor(tmp_path, Almanac((), worlds.STEP)).forecast(windows)
    assert not told.fallback.any()
    assert told.known == BOTH
    refused = predictor(tmp_path, None).forecast(windows)
    assert refused.fallback.all()
    assert refused.known == ()
    assert "known inputs holiday, event" in refused.notes[0]


def test_a_model_with_known_inputs_passes_the_conformance_suite(tmp_path: Path) -> None:
    worlds.put(tmp_path, told_model(), **MORE, inputs=["values", "mask", "end_minute", "known"])
    check_forecaster(lambda: predictor(tmp_path, occasions()))
