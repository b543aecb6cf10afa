from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.detect import trails
from forecastle.detect.auditions import OWN
from forecastle.detect.selector import Choice, Pair
from forecastle.errors import ConfigError
from forecastle.runtime.batch_detect import LASTING, detect_file, habituation, judge, thresholds
from forecastle.runtime.batch_detect_events import QUIET, Events, alerts, onsets, rhythm_lost, season

TRAIN, ROWS = 600, 2000
MINUTE = 60_000
EPOCH, STEP = 1_700_000_000_000, 300_000


def wave(rows=ROWS, seed=0, noise=0.1):
    at = np.arange(rows)
    return np.sin(2 * np.pi * at / 144) + np.random.default_rng(seed).normal(0, noise, rows)


def write(path, columns, label=True):
    rows = len(next(iter(columns.values())))
    stamps = pa.array(np.arange(rows) * STEP + EPOCH).cast(pa.timestamp("ms"))
    table = pa.table({"timestamp": stamps, **columns})
    if label:
        table = table.append_column("label", pa.array(np.zeros(rows, np.int8)))
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def detect(tmp_path, columns, train=TRAIN, name="in.parquet"):
    out = tmp_path / "out.parquet"
    said = detect_file(write(tmp_path / name, columns), train, out)
    return pq.read_table(out), said


@pytest.mark.parametrize(("train", "rows", "scorer"), [(600, 2000, "shape"), (8000, 11000, "residual")])
def test_an_event_is_found_named_and_explained(tmp_path, train, rows, scorer):
    values = wave(rows)
    at = train + 900
    values[at] += 4.0
    found, said = detect(tmp_path, {"value": values}, train)
    assert scorer in said
    assert found.column_names == ["timestamp", "score", "threshold", "anomaly", "kind", "evidence"]
    assert found.num_rows == rows
    assert found["anomaly"][at].as_py()
    assert found["kind"][at].as_py() == "spike"
    evidence = json.loads(found["evidence"][at].as_py())
    assert evidence["actual"] == pytest.approx(values[at], abs=1e-5)
    flags = np.array(found["anomaly"])
    assert flags[: at - 1].mean() < 0.01
    score = np.array(found["score"])
    assert score[at] == score[: at + 1].max()
    assert (score > np.array(found["threshold"]))[flags].all()


def test_training_rows_are_not_judged(tmp_path):
    found, _ = detect(tmp_path, {"value": wave()})
    assert not np.array(found["score"])[:TRAIN].any()
    assert np.isinf(np.array(found["threshold"])[:TRAIN]).all()
    assert not np.array(found["anomaly"])[:TRAIN].any()


@pytest.mark.parametrize("cut", [601, 1023, 1024, 1537, 1999])
@pytest.mark.parametrize("columns", [1, 5])
def test_cutting_the_file_changes_no_score_before_the_cut(cut, columns):
    values = np.column_stack([wave(seed=c) for c in range(columns)])
    values[1500:1520] += 3.0
    values[900:903, 0] = np.nan
    if columns > 1:
        values[1300:, 1], values[1450:1480, 2] = np.nan, values[1450, 2]
    names = [f"m{c}" for c in range(columns)]
    whole = judge(values, TRAIN, 5 * MINUTE, names, 0.1)
    part = judge(values[:cut].copy(), TRAIN, 5 * MINUTE, names, 0.1)
    assert np.array_equal(whole.score[:cut], part.score)
    assert np.array_equal(whole.threshold[:cut], part.threshold)
    assert whole.kind[:cut] == part.kind
    assert whole.evidence[:cut] == part.evidence


@pytest.mark.parametrize("cut", [8100, 8703, 9999])
def test_cutting_changes_nothing_for_a_long_training_either(cut):
    values = wave(10_000)[:, None]
    whole, part = (judge(v, 8000, MINUTE, ["v"], 0.1) for v in (values, values[:cut]))
    assert np.array_equal(whole.score[:cut], part.score)


def test_the_future_has_no_say():
    values = wave()[:, None]
    other = values.copy()
    other[1800:] = 1e9
    one, two = (judge(v, TRAIN, MINUTE, ["v"], 0.1) for v in (values, other))
    assert np.array_equal(one.score[:1800], two.score[:1800])


def test_many_columns_name_the_culprit(tmp_path):
    rng = np.random.default_rng(0)
    columns = {f"m{c}": rng.normal(0.3, 0.02, ROWS) for c in range(8)}
    columns["m5"][1500:1530] += 0.5
    found, said = detect(tmp_path, columns)
    assert "subspace" in said
    at = 1500 + int(np.argmax(np.array(found["anomaly"])[1500:]))
    assert at < 1503
    assert found["kind"][at].as_py() == "multivariate"
    assert next(iter(json.loads(found["evidence"][at].as_py())["columns"])) == "m5"
    assert np.array(found["anomaly"])[1500:1530].sum() == 1, "one event, one alert"
    assert np.array(found["anomaly"])[:1500].mean() < 0.02


def crowd(rows=3000, columns=3):
    return np.random.default_rng(0).normal(0, 1, (rows, columns))


def told(verdicts):
    """Row of each alert -> its kind and evidence."""
    return {row: (verdicts.kind[row], json.loads(verdicts.evidence[row])) for row in np.flatnonzero(verdicts.anomaly).tolist()}


@pytest.mark.parametrize("scorer", ["subspace", "shapes", "cross"])
def test_a_dead_column_is_named_and_blinds_no_other(scorer):
    values = crowd()
    values[1200:, 2] = np.nan
    values[2000, 0] += 80.0
    said = told(judge(values, TRAIN, MINUTE, list("abc"), 0.1, choice=Choice(Pair(scorer, OWN[scorer]), "asked")))
    kind, evidence = said[1202]
    assert kind == "dropout"
    assert evidence["columns"] == {"c": 1.0}
    assert evidence["actual"] == {"c": None}
    kind, evidence = said[2000]
    assert kind == "multivariate"
    assert next(iter(evidence["columns"])) == "a"
    assert "c" not in evidence["columns"]
    assert evidence["missing"] == ["c"]
    assert evidence["expected"]["a"] == pytest.approx(0.0, abs=0.5)


def test_what_a_missing_column_said_last_does_not_stay_in_the_score():
    values = crowd()
    values[1500, 2] = 50.0
    quiet = judge(values, TRAIN, MINUTE, list("abc"), 0.1).score[1700:]
    values[1501:, 2] = np.nan
    assert judge(values, TRAIN, MINUTE, list("abc"), 0.1).score[1700:].max() <= quiet.max()


def test_rows_without_any_value_are_one_dropout_of_every_column():
    values = crowd()
    values[1500:1520] = np.nan
    said = told(judge(values, TRAIN, MINUTE, list("abc"), 0.1))
    assert [kind for kind, _ in said.values()].count("dropout") == 1
    kind, evidence = said[1502]
    assert kind == "dropout"
    assert list(evidence["columns"]) == ["a", "b", "c"]
    assert not set(range(1503, 1520)) & set(said)


def test_a_flat_line_of_one_column_among_many_is_named():
    values = crowd()
    values[1500:1540, 1] = values[1500, 1]
    values[1700:1725] = values[1700]
    values[1900:1942, 0], values[1905:1942, 2] = values[1900, 0], values[1905, 2]
    said = told(judge(values, TRAIN, MINUTE, list("abc"), 0.1))
    assert said[1520][0] == "flat_line"
    assert said[1520][1]["columns"] == {"b": 1.0}
    assert list(said[1720][1]["columns"]) == ["a", "c"], "b has stood longer before"
    assert list(said[1937][1]["columns"]) == ["a"], "c follows within the quiet rows"
    assert [row for row, (kind, _) in said.items() if kind in {"dropout", "flat_line"}] == [1520, 1720, 1937]


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(
    ("kind", "at", "since"), [("dropout", 1502, 3), ("flat_line", 1710, 11), ("spike", 1900, 1), ("level_shift", 2105, 6)]
)
def test_evidence_tells_since_when_for_how_long_and_what_was_expected(columns, kind, at, since):
    values = crowd(2200, columns) + 100.0
    values[1500:1503, 0], values[1700:1730, 0], values[1900, 0] = np.nan, values[1700, 0], 180.0
    values[2100:, 0] += 80.0
    events = Events(values, np.abs(values - 100.0), list("abc")[:columns], TRAIN)
    if kind == "flat_line" and columns > 1:
        at, since = at + 10, since + 10
    found, lasted, evidence = events.explain(at)
    assert lasted == since
    assert found == ("multivariate" if columns > 1 and kind in {"spike", "level_shift"} else kind)
    actual, expected = (evidence[name] if columns == 1 else evidence[name]["a"] for name in ("actual", "expected"))
    assert expected == pytest.approx(100.0, abs=1.0)
    assert actual == (None if kind == "dropout" else pytest.approx(values[at, 0], abs=1e-5))
    if columns > 1:
        assert list(evidence["expected"]) == list(evidence["actual"]) == list(evidence["columns"])


@pytest.mark.parametrize("columns", [1, 3])
def test_onset_and_duration_are_in_the_times_of_the_file(tmp_path, columns):
    values = crowd(ROWS, columns)
    values[1500:1520, 0] = np.nan
    found, _ = detect(tmp_path, {name: values[:, c] for c, name in enumerate("abc"[:columns])})
    evidence = json.loads(found["evidence"][1502].as_py())
    assert evidence["onset"] == EPOCH + 1500 * STEP
    assert evidence["duration_s"] == 3 * STEP // 1000


def rhythm(rows, broken=None, *, pace=1.0, phase=0.0, noise=0.1, season=144):
    """A season that from row ``broken`` on has another ``pace``, or a ``phase`` (share of the season) of its own."""
    turns = np.arange(rows) / season
    if broken is not None:
        turns[broken:] = turns[broken] + phase + pace * (turns[broken:] - turns[broken])
    return np.sin(2 * np.pi * turns) + np.random.default_rng(1).normal(0, noise, rows)


@pytest.mark.parametrize(("change", "broken"), [({"pace": 2.0}, 2016), ({"pace": 2.0}, 2052), ({"pace": 0.4}, 2052)])
def test_a_season_that_changes_its_pace_is_named(change, broken):
    said = told(judge(rhythm(2400, broken, **change)[:, None], 800, MINUTE, ["v"], 0.1))
    assert "seasonality" in {kind for row, (kind, _) in said.items() if row >= broken}
    assert "seasonality" not in {kind for row, (kind, _) in said.items() if row < broken}


def test_a_season_that_shifts_its_phase_is_named_once_that_shows():
    said = told(judge(rhythm(2400, 2088, phase=0.5, noise=0.3)[:, None], 800, MINUTE, ["v"], 0.1))
    assert [kind for row, (kind, _) in said.items() if row >= 2088] == ["seasonality"]


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("broken", [2016, 2052, 2070, 2088])
def test_a_rhythm_is_lost_when_its_pace_or_phase_is_and_kept_by_all_else(broken, noise):
    plain, event = rhythm(2400, noise=noise), np.arange(2400) - broken
    for changed in (rhythm(2400, broken, pace=2.0, noise=noise), rhythm(2400, broken, phase=0.5, noise=noise)):
        assert not rhythm_lost(changed[:broken], 144)
        assert rhythm_lost(changed[: broken + 130], 144)
    for other in (plain + 8.0 * (event >= 0), plain + 8.0 * (event == 100), plain + 0.05 * np.maximum(event, 0)):
        assert not rhythm_lost(other[: broken + 130], 144)


@pytest.mark.parametrize("budget", [0.1, 1000.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_and_walks_have_no_season_to_lose(budget, seed):
    noise = np.random.default_rng(seed).normal(size=4000)
    for values in (noise, np.cumsum(noise)):
        kinds = set(judge(values[:, None], TRAIN, MINUTE, ["v"], budget).kind)
        assert len(kinds) > (budget > 1)
        assert "seasonality" not in kinds


@pytest.mark.parametrize(("length", "rows"), [(144, 600), (144, 2000), (24, 300), (50, 1000)])
def test_the_season_is_found(length, rows):
    assert season(rhythm(rows, season=length)) == pytest.approx(length, abs=2)


def test_what_has_no_season_has_none():
    for values in (np.random.default_rng(0).normal(size=800), np.full(300, 3.0), np.arange(300.0), np.zeros(30)):
        assert season(values) == 0


def test_columns_that_stand_or_are_empty_from_the_start_are_no_news():
    values = crowd()
    values[:, 1] = np.round(values[:, 1] / 10)
    values[:2000, 2] = np.nan
    assert not {"dropout", "flat_line"} & set(judge(values, TRAIN, MINUTE, list("abc"), 0.1).kind)


def test_a_gap_is_a_dropout_and_not_a_spike(tmp_path):
    values = wave()
    values[1400:1420] = np.nan
    found, _ = detect(tmp_path, {"value": values})
    kinds = found["kind"].to_pylist()
    assert kinds[1402] == "dropout"
    assert kinds.count("dropout") == 1
    assert "spike" not in kinds[1400:1425]


def test_a_flat_line_is_named(tmp_path):
    values = wave()
    values[1400:1520] = values[1400]
    found, _ = detect(tmp_path, {"value": values})
    assert found["kind"][1410].as_py() == "flat_line"
    assert found["kind"].to_pylist().count("flat_line") == 1


def test_csv_and_parquet_and_epoch_seconds_agree(tmp_path):
    values = wave()
    one, _ = detect(tmp_path, {"value": values})
    two, _ = detect(tmp_path, {"value": values}, name="in.csv")
    assert np.array_equal(np.array(one["score"]), np.array(two["score"]))
    seconds = pa.table({"timestamp": np.arange(ROWS) * 300 + 1_700_000_000, "value": values})
    pq.write_table(seconds, tmp_path / "s.parquet")
    detect_file(tmp_path / "s.parquet", TRAIN, tmp_path / "o.parquet")
    three = pq.read_table(tmp_path / "o.parquet")
    assert np.array_equal(np.array(one["threshold"]), np.array(three["threshold"]))
    assert three["timestamp"][1].as_py() == 1_700_000_300


def test_the_label_is_not_read(tmp_path):
    plain = detect(tmp_path, {"value": wave()})[0]
    path = tmp_path / "l.parquet"
    table = pq.read_table(tmp_path / "in.parquet").set_column(2, "label", pa.array(np.ones(ROWS)))
    pq.write_table(table, path)
    detect_file(path, TRAIN, tmp_path / "o2.parquet")
    assert pq.read_table(tmp_path / "o2.parquet")["score"].equals(plain["score"])


def test_files_that_cannot_be_judged_are_refused(tmp_path):
    path = write(tmp_path / "in.parquet", {"value": wave()})
    for rows in (0, 10, ROWS, ROWS + 5):
        with pytest.raises(ConfigError, match="--train-rows"):
            detect_file(path, rows, tmp_path / "o.parquet")
    pq.write_table(pa.table({"value": [1.0, 2.0]}), tmp_path / "no.parquet")
    with pytest.raises(ConfigError, match="timestamp"):
        detect_file(tmp_path / "no.parquet", 40, tmp_path / "o.parquet")
    pq.write_table(pa.table({"timestamp": [1, 2], "label": [0, 1], "name": ["a", "b"]}), tmp_path / "text.parquet")
    with pytest.raises(ConfigError, match="numeric"):
        detect_file(tmp_path / "text.parquet", 40, tmp_path / "o.parquet")
    pq.write_table(pa.table({"timestamp": ["today", "soon"], "value": [0.0, 1.0]}), tmp_path / "when.parquet")
    with pytest.raises(ConfigError, match="'timestamp' must be a time"):
        detect_file(tmp_path / "when.parquet", 1, tmp_path / "o.parquet")
    (tmp_path / "x.parquet").write_text("nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        detect_file(tmp_path / "x.parquet", 40, tmp_path / "o.parquet")


def test_constant_and_dead_series_are_survived():
    for values in (np.full(ROWS, 7.0), np.full(ROWS, np.nan), np.r_[np.full(1000, 7.0), np.full(1000, 9.0)]):
        found = judge(values[:, None], TRAIN, MINUTE, ["v"], 0.1)
        assert np.isfinite(found.score).all()
    both = judge(np.column_stack([np.full(ROWS, 1.0), np.full(ROWS, np.nan)]), TRAIN, MINUTE, ["a", "b"], 0.1)
    assert np.isfinite(both.score).all()


def test_false_alarms_of_clean_series_follow_the_budget():
    alerts = 0
    for seed in range(6):
        found = judge(wave(12_000, seed=seed)[:, None], 8000, MINUTE, ["v"], 0.1)
        alerts += int((np.diff(found.anomaly.astype(int)) > 0).sum())
    assert alerts <= 6 * 4000 / 1440 * 0.1 * 5


def test_alerts_are_once_per_event():
    flags = np.zeros(100, bool)
    flags[[3, 4, 5, 20, 60, 61]] = True
    assert np.flatnonzero(alerts(flags, 30)).tolist() == [3, 60]
    assert np.flatnonzero(alerts(flags, 10)).tolist() == [3, 20, 60]
    flags[50] = True
    assert np.flatnonzero(alerts(flags, 15)).tolist() == [3, 20, 50]
    assert np.flatnonzero(onsets(flags, 15)).tolist() == [3, 50]
    assert np.flatnonzero(onsets(flags, 14)).tolist() == [3, 20, 50]


def test_a_smaller_budget_alerts_less():
    values = wave(6000, noise=0.3)
    values[[1500, 2500, 3500, 4500]] += [1.5, 2.0, 2.5, 3.0]
    for train in (600, 8000):
        series = values if train == 600 else np.concatenate([wave(8000, seed=4, noise=0.3), values])
        counts = [judge(series[:, None], train, MINUTE, ["v"], budget).anomaly.sum() for budget in (10.0, 0.1, 1e-6)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > counts[2]


def run_detect(source, out, *options):
    return CliRunner().invoke(app, ["detect", "--input", str(source), "--train-rows", "8000", "--out", str(out), *options])


def test_the_command_takes_a_budget(tmp_path):
    source, thresholds = write(tmp_path / "in.parquet", {"value": wave(9000, noise=0.3)}), {}
    for budget in ("10", "0.1", "0.001"):
        out = tmp_path / f"{budget}.parquet"
        assert run_detect(source, out, "--budget", budget).exit_code == 0
        thresholds[budget] = pq.read_table(out)["threshold"][8500].as_py()
    assert thresholds["10"] < thresholds["0.1"] < thresholds["0.001"]
    assert run_detect(source, tmp_path / "usual.parquet").exit_code == 0
    assert pq.read_table(tmp_path / "usual.parquet")["threshold"][8500].as_py() == thresholds["0.1"]


@pytest.mark.parametrize("budget", [0.0, -1.0, 1e6, float("nan"), float("inf")])
def test_a_budget_out_of_range_is_refused(tmp_path, budget):
    source = write(tmp_path / "in.parquet", {"value": wave()})
    with pytest.raises(ConfigError, match=r"--budget .*: must be 0.001 to 1000 false alarms per day"):
        detect_file(source, TRAIN, tmp_path / "out.parquet", budget)
    assert run_detect(source, tmp_path / "out.parquet", "--budget", str(budget)).exit_code != 0
    assert not (tmp_path / "out.parquet").exists()


def test_novelty_is_news_once():
    y = wave(3000)
    y[[1500, 1800]] += 5.0
    news = trails.novelty(y, 600)
    assert news[1800] < 1.0 < news[1500] / 2


def test_once_history_has_grown_it_is_known_as_well_and_the_louder_speaks():
    y = wave(5000)
    y[1500:] = y[1500:] * 0.3 + 0.3 * np.sin(2 * np.pi * np.arange(3500) / 31)
    y[4000:4003] += 1.0
    news, trained = trails.novelty(y, 500), trails._news(trails._distance(y, 500))
    assert np.array_equal(news[:2000], trained[:2000]), "learned anew at four times the trained rows"
    assert (news >= trained).all()
    assert news[4000:4020].max() > 1.1 * trained[4000:4020].max()
    assert np.array_equal(trails.novelty(y[:2600], 500), news[:2600])


def test_who_cries_often_must_cry_louder():
    news = np.zeros(4000)
    news[[10, 500, 600, 700, 3900]] = 1.0
    factor = habituation(news, 0.5, 100, 30, weary=0.5, rested=200.0)
    assert (factor[:501] == 1.0).all(), "training rows tire nobody"
    assert factor[501] == pytest.approx(1.0 + 0.5 * 0.5 ** (1 / 200))
    assert factor[600] == pytest.approx(1.0 + 0.5 * 0.5 ** (100 / 200))
    assert factor[700] > factor[600]
    assert factor[3900] == pytest.approx(1.0, abs=1e-4)
    assert np.array_equal(factor[:650], habituation(news[:650], 0.5, 100, 30, weary=0.5, rested=200.0))
    close = habituation(news, 0.5, 100, 150, weary=0.5, rested=200.0)
    assert close[650] == pytest.approx(1.0 + 0.5 * 0.5 ** (150 / 200)), "no alert within the quiet rows, no weariness"


def test_weariness_shows_in_the_threshold_of_a_file():
    values = wave(4000)
    values[1000:3000:200] += 1.2
    verdicts = judge(values[:, None], TRAIN, 5 * MINUTE, ["v"], 0.1)
    rows = np.flatnonzero(verdicts.anomaly)
    assert (verdicts.score > verdicts.threshold)[rows].all()
    assert 0 < len(rows) <= 10


def outage(rows, at, columns):
    values = crowd(TRAIN + rows, columns)
    for row in at:
        values[row : row + 30, 0] += 80.0
    return values


@pytest.mark.parametrize(("columns", "scorer"), [(3, "subspace"), (3, "cross"), (1, "residual"), (1, "level")])
def test_an_outage_is_one_alert_and_does_not_hide_the_next(columns, scorer):
    values, names = outage(4000, (1200, 3200), columns), list("abc")[:columns]
    verdicts = judge(values, TRAIN, MINUTE, names, 0.1, choice=Choice(Pair(scorer, OWN[scorer]), "asked"))
    assert np.flatnonzero(verdicts.anomaly).tolist() == [1200, 3200]
    assert verdicts.threshold[3200] < 2 * verdicts.threshold[1200]


def test_a_second_outage_soon_after_is_found_too():
    verdicts = judge(outage(2000, (1200, 1400), 3), TRAIN, MINUTE, list("abc"), 0.1)
    assert np.flatnonzero(verdicts.anomaly).tolist() == [1200, 1400]


def test_a_lasting_level_is_accepted_after_a_stated_while():
    score = np.abs(np.random.default_rng(0).normal(size=5000))
    plain = thresholds(score, TRAIN, 1e-3)
    score[2000:] += 20.0
    lasting = thresholds(score, TRAIN, 1e-3)
    accepted = int(np.argmax((lasting > 20.0) & np.isfinite(lasting)))
    assert 2000 + LASTING < accepted <= 2000 + LASTING + 256
    assert (score > lasting)[2000:accepted].all()
    assert (score > lasting)[accepted:].mean() < 0.01
    assert lasting[TRAIN:accepted].max() < 2 * plain[TRAIN:2000].max()


def test_a_lasting_level_of_a_file_is_one_alert_until_something_else_happens():
    values = crowd(6000)
    values[2000:, 0] += 8.0
    values[5000, 1] += 80.0
    said = told(judge(values, TRAIN, MINUTE, list("abc"), 0.1))
    assert min(said) == 2000
    assert [row for row in said if row > 2000 + QUIET] == [5000]


def test_thresholds_leave_the_past_alone_in_and_after_an_incident():
    score = np.abs(np.random.default_rng(0).normal(size=5000))
    score[1500:1560] += 30.0
    score[2500:] += 20.0
    whole = thresholds(score, 500, 1e-3)
    for cut in (1501, 1540, 1780, 2600, 3000, 3001, 3300):
        assert np.array_equal(whole[:cut], thresholds(score[:cut], 500, 1e-3))


def test_thresholds_do_not_change_the_past():
    score = np.abs(np.random.default_rng(0).normal(size=5000))
    whole, part = thresholds(score, 500, 1e-3), thresholds(score[:3000], 500, 1e-3)
    assert np.array_equal(whole[:3000], part)
    assert np.isinf(whole[:500]).all()


# --- the scores' own laws -------------------------------------------------------------------------------------------


def test_neighbour_finds_a_repeat_and_not_a_novelty():
    y = np.tile(np.sin(np.arange(100) / 5), 20)
    novel = y.copy()
    novel[1500:1540] = 0.0
    distance = trails.neighbour(novel, 500, 30)
    assert distance[1400] == pytest.approx(0.0, abs=1e-4)
    assert distance[1535] > 1.0


def test_mahalanobis_and_autoregression_match_their_definitions():
    y = wave(1500)
    size = 12
    windows = np.lib.stride_tricks.sliding_window_view(np.r_[np.full(size - 1, y[0]), y], size)
    fitted = windows[size:400]
    mean, inverse = fitted.mean(axis=0), np.linalg.inv(np.cov(fitted.T) + 0.01 * np.eye(size))
    row = windows[777] - mean
    assert trails.mahalanobis(y, 400, size)[777] == pytest.approx(row @ inverse @ row)
    line = 0.8 ** np.arange(300.0)
    assert trails.autoregression(line * 1e3, 200, 1)[250] == pytest.approx(0.0, abs=0.5)


def test_held_decays_by_half():
    score = np.zeros(40)
    score[5] = 8.0
    out = trails.held(score, 10.0)
    assert out[5] == pytest.approx(8.0)
    assert out[15] == pytest.approx(4.0)
    assert out[4] < 1e-9


def test_smoothed_starts_at_the_first_row():
    assert trails.smoothed(np.full(50, 3.0), 5.0) == pytest.approx(3.0)
    step = np.r_[np.zeros(10), np.ones(50)]
    assert trails.smoothed(step, 5.0)[14] == pytest.approx(0.5)
