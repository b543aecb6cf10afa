"""Who speaks for a family: anomalies made up, scorers ranked, one chosen, and the choice told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecastle.detect import trails
from forecastle.detect.auditions import LEAST, OWN, Recorded, candidates, learn, perform, rule
from forecastle.detect.injections import KINDS, inject
from forecastle.detect.selector import (
    MARGIN,
    SMOOTHINGS,
    Choice,
    Pair,
    choose,
    heard,
    of_family,
    rank_score,
    read_choices,
    smooth,
    told,
)
from forecastle.errors import ConfigError
from forecastle.runtime.batch_detect import detect_file, judge

MINUTE = 60_000


def wave(rows=400, columns=1, seed=0, noise=0.1):
    at = np.arange(rows)[:, None]
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * at / 48) + rng.normal(0, noise, (rows, columns))


# --- made-up anomalies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 6])
def test_an_injection_changes_what_it_labels_and_nothing_else(kind, columns):
    values = wave(columns=columns)
    made, label = inject(values, 200, kind, 3, 7)
    again, _ = inject(values, 200, kind, 3, 7)
    assert np.array_equal(made, again)
    assert not label[:200].any()
    assert np.array_equal(made[~label], values[~label])
    begins = np.flatnonzero(np.diff(label.astype(int)) > 0)
    assert len(begins) == 3
    assert all((made[at + 1 : at + 4] != values[at + 1 : at + 4]).any() for at in begins)
    assert not np.array_equal(made, inject(values, 200, kind, 3, 8)[0])


def test_spikes_rise_dips_fall_and_flat_lines_stand():
    values = wave(seed=3)
    up, where = inject(values, 200, "spike", 4, 0)
    assert (up[where] > values[where]).all()
    down, where = inject(values, 200, "dip", 4, 0)
    assert (down[where] < values[where]).all()
    flat, where = inject(values, 200, "flat", 1, 0)
    assert len(np.unique(flat[where])) == 1


def test_columns_that_are_alike_change_together_and_in_their_own_direction():
    base = wave(rows=600)[:, 0]
    values = np.column_stack([base, base * 3, -base, np.random.default_rng(1).normal(size=600)])
    together = 0
    for seed in range(12):
        made, where = inject(values, 400, "spike", 1, seed)
        change = (made - values)[where].mean(axis=0)
        moved = np.flatnonzero(change)
        assert len(moved) >= 1
        together += {0, 1, 2} <= set(moved.tolist())
        if 0 in moved and 2 in moved:
            assert np.sign(change[0]) == -np.sign(change[2])
    assert together >= 4


def test_gaps_stay_gaps_and_too_little_room_is_said():
    values = wave()
    values[250:300] = np.nan
    made, _ = inject(values, 200, "level", 3, 0)
    assert np.isnan(made[250:300]).all()
    with pytest.raises(ValueError, match="hold 1 anomalies, not 5"):
        inject(wave(220), 200, "level", 5, 0)


# --- ranking --------------------------------------------------------------------------------------------------------


def test_a_perfect_rank_is_one_and_a_hopeless_one_is_near_nothing():
    label = np.zeros(500, bool)
    label[[100, 101, 102, 300, 301]] = True
    assert rank_score(label, label.astype(float), tolerance=0) == pytest.approx(1.0)
    assert rank_score(label, 1.0 - label, tolerance=0) < 0.02
    assert np.isnan(rank_score(np.zeros(10, bool), np.arange(10.0)))


def test_an_event_that_is_missed_costs_more_than_its_rows():
    label = np.zeros(500, bool)
    label[100:110] = label[300] = True
    long_only, both = np.zeros(500), np.zeros(500)
    long_only[100:110] = both[100:110] = 1.0
    both[300] = 1.0
    assert rank_score(label, long_only, 0) < 0.6 < rank_score(label, both, 0)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=60), st.integers(1, 15))
def test_ranks_are_all_that_counts(score, first):
    values = np.array(score, float)
    label = np.zeros(len(values), bool)
    label[first : first + 3] = True
    assert 0.0 <= rank_score(label, values) <= 1.0 + 1e-12
    assert rank_score(label, values) == pytest.approx(rank_score(label, np.exp(values) * 3 - 1))


def test_a_late_alarm_counts_within_the_tolerance():
    label, late = np.zeros(500, bool), np.zeros(500)
    label[100:103], late[104:110] = True, 1.0
    assert rank_score(label, late, 0) < 0.05
    assert rank_score(label, late, 30) > 0.1


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothing_never_looks_ahead(smoothing):
    raw = np.abs(np.random.default_rng(0).normal(size=300))
    whole = smooth(raw, smoothing, 100)
    assert np.array_equal(whole[:200], smooth(raw[:200].copy(), smoothing, 100))
    assert (smoothing == "none") == np.array_equal(whole, raw)


def test_a_smoothing_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="not among none, held 5"):
        smooth(np.ones(5), "held 7", 3)


# --- the choice -----------------------------------------------------------------------------------------------------

PAIRS = [Pair(scorer, smoothing) for scorer in ("a", "b") for smoothing in ("none", "held 5")]
MINE = {"a": "none", "b": "held 5"}
A, B = Pair("a", "none"), Pair("b", "held 5")


def folds(*means, count=10, spread=0.0):
    return np.array([[mean + spread * (-1) ** fold for mean in means] for fold in range(count)])


def test_the_best_speaks_when_it_wins_by_a_margin_on_most_folds():
    choice = choose(folds(0.3, 0.1, 0.2, 0.5), [A] * 10, PAIRS, MINE, "labels")
    assert choice.pair == B
    assert choice.why == "0.500, the rule of thumb 0.300 on 10 folds of labels; better on 100%"
    assert choice.scores == {"a, none": 0.3, "a, held 5": 0.1, "b, none": 0.2, "b, held 5": 0.5}
    assert (choice.usual, choice.folds) == (0.3, 10)


def test_the_rule_of_thumb_stays_when_nothing_is_better_by_enough():
    choice = choose(folds(0.3, 0.3, 0.3, 0.3 + 0.9 * MARGIN), [A] * 10, PAIRS, MINE, "labels")
    assert choice.pair is None
    assert choice.why.startswith("the rule of thumb: no other is better by")


def test_one_great_fold_does_not_outvote_the_others():
    rows = folds(0.3, 0.1, 0.1, 0.29)
    rows[0, 3] = 5.0
    assert choose(rows, [A] * 10, PAIRS, MINE, "labels").pair is None


def test_a_smoothing_must_earn_its_place_beside_the_scorers_own():
    assert choose(folds(0.3, 0.5, 0.1, 0.1), [A] * 10, PAIRS, MINE, "x").pair == Pair("a", "held 5")
    assert choose(folds(0.3, 0.1, 0.52, 0.5), [A] * 10, PAIRS, MINE, "x").pair == B
    assert choose(folds(0.3, 0.1, 0.6, 0.5), [A] * 10, PAIRS, MINE, "x").pair == Pair("b", "none")


def test_where_the_rule_differs_within_a_family_each_fold_is_compared_with_its_own():
    usual = [A] * 5 + [B] * 5
    rows = np.concatenate([folds(0.5, 0.1, 0.1, 0.1, count=5), folds(0.1, 0.1, 0.1, 0.5, count=5)])
    assert choose(rows, usual, PAIRS, MINE, "x").pair is None


def test_a_spike_nobody_expects_is_worth_a_label():
    """Where the labels are single jumps, the scorer of single jumps speaks, though the rule names the one of shapes."""
    family = []
    for seed in range(3):
        values, label = inject(wave(700, seed=seed, noise=0.3), 430, "spike", 5, seed)
        family.append(Recorded(values, label))
    choice = learn(family)
    assert choice.pair is not None
    assert choice.pair.scorer in {"residual", "brief", "level"}
    assert "3 folds of labels" in choice.why
    assert learn(family) == choice


def test_without_labels_there_is_a_fold_for_each_kind_and_the_same_seed_says_the_same():
    family = [Recorded(wave(300), np.zeros(300, bool)), Recorded(wave(300, seed=1))]
    one = learn(family)
    assert one.folds == 2 * len(KINDS)
    assert set(one.scores) == {str(pair) for pair in candidates(1)}
    assert one == learn(family)
    assert f"{one.folds} folds of made-up anomalies" in one.why


def test_who_says_where_training_ends_is_judged_on_everything_after_it_by_the_rule_for_that_many_rows():
    values, label = inject(wave(700, noise=0.3), 200, "level", 3, 1)
    early = Recorded(values, label & (np.arange(700) < 400), train=200)
    assert early.labelled
    assert not Recorded(early.values, early.label).labelled
    assert learn([early]).why.endswith("1 fold of labels") or learn([early]).pair is not None
    long = np.tile(values, (13, 1))
    mixed = Recorded(long, np.tile(label, 13), train=8000)
    assert mixed.newest() is mixed
    assert len(Recorded(long).newest().values) == 8000


def test_many_columns_and_too_few_rows_and_mixed_families():
    assert set(learn([Recorded(wave(300, columns=3))]).scores) == {str(pair) for pair in candidates(3)}
    short = learn([Recorded(wave(LEAST - 1))])
    assert (short.pair, short.why) == (None, f"the rule of thumb: fewer than {LEAST} training rows")
    with pytest.raises(ConfigError, match=r"columns \[1, 3\]|\[1, 3\] columns"):
        learn([Recorded(wave(300, columns=3)), Recorded(wave(300))])


@pytest.mark.parametrize("columns", [1, 4])
def test_every_candidate_is_causal_to_the_bit(columns):
    values = wave(900, columns=columns)
    values[700:720] += 2.0
    for pair in {Pair(pair.scorer, OWN[pair.scorer]) for pair in candidates(columns)}:
        whole, parts = perform(values, 300, pair)
        assert parts.shape == values.shape
        assert np.isfinite(whole).all()
        for cut in (513, 760):
            assert np.array_equal(whole[:cut], perform(values[:cut].copy(), 300, pair)[0]), pair


@pytest.mark.parametrize(("columns", "scorer"), [(1, "subspace"), (2, "shape"), (1, "oracle")])
def test_a_scorer_for_another_shape_is_refused(columns, scorer):
    with pytest.raises(ConfigError, match=scorer):
        perform(wave(columns=columns), 200, Pair(scorer, "none"))


def test_cross_matches_its_definition():
    values = wave(500, columns=3, noise=0.5)
    rows = np.column_stack([trails.standardized(values[:, c], 200) for c in range(3)])
    apart = rows - rows[:200].mean(axis=0)
    inverse = np.linalg.inv(np.cov(apart[:200].T) + 0.01 * np.eye(3))
    assert trails.cross(values, 200).sum(axis=1)[333] == pytest.approx(apart[333] @ inverse @ apart[333])


# --- told and heard -------------------------------------------------------------------------------------------------

CHOICES = {
    "cpu*": Choice(Pair("residual", "held 20"), "better", 0.1, {"residual, held 20": 0.4}, 7),
    "*": Choice(None, "stays"),
}


def test_choices_survive_a_file(tmp_path):
    path = tmp_path / "choices.json"
    path.write_text(json.dumps(told(CHOICES)))
    assert read_choices(path) == CHOICES
    assert of_family(read_choices(path), "cpu_idle") == ("cpu*", CHOICES["cpu*"])
    assert of_family(CHOICES, "mem", "cpu") == ("cpu*", CHOICES["cpu*"])
    assert of_family(CHOICES, "mem") == ("*", CHOICES["*"])
    assert of_family({}, "mem") is None


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"why": ""}}', '{"a": {"pair": {"scorer": "x"}, "why": ""}}', "{"])
def test_what_is_no_table_of_choices_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        read_choices(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_choices(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="manifest"):
        heard("x", "manifest")


# --- in the batch ---------------------------------------------------------------------------------------------------


def written(tmp_path, label=None):
    values = wave(1200, noise=0.1)[:, 0]
    values[900] += 5.0
    table = {"timestamp": pa.array(np.arange(1200) * MINUTE).cast(pa.timestamp("ms")), "value": values}
    path = tmp_path / "web-1.parquet"
    pq.write_table(pa.table(table if label is None else {**table, "label": label}), path)
    return path


def test_the_family_s_choice_speaks_and_the_evidence_says_so(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(told({"web-*": Choice(Pair("residual", "held 20"), "it won")})))
    said = detect_file(written(tmp_path), 400, tmp_path / "out.parquet", choices=tmp_path / "c.json")
    assert said.endswith("by residual, held 20; it won")
    found = pq.read_table(tmp_path / "out.parquet")
    evidence = json.loads(found["evidence"][900].as_py())
    assert (evidence["scorer"], evidence["smoothing"], evidence["why"]) == ("residual", "held 20", "it won")


def test_a_family_that_is_not_named_keeps_the_rule_of_thumb(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(told({"db*": Choice(Pair("residual", "none"), "it won")})))
    said = detect_file(written(tmp_path), 400, tmp_path / "out.parquet", choices=tmp_path / "c.json")
    assert said.endswith("by shape, held 2%; the rule of thumb for one column and 400 training rows")


def test_asked_to_choose_it_reads_the_training_rows_labels_and_no_others(tmp_path):
    label = np.zeros(1200, np.int8)
    label[300:303] = 1
    first = detect_file(written(tmp_path, label), 400, tmp_path / "a.parquet", choose=True)
    assert "1 fold of labels" in first
    label[400:] = 1
    detect_file(written(tmp_path, label), 400, tmp_path / "b.parquet", choose=True)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
    assert "7 folds of made-up" in detect_file(written(tmp_path), 400, tmp_path / "c.parquet", choose=True)


def test_each_single_scorer_can_judge_a_file():
    values = wave(1200)
    values[900:904] += 4.0
    for scorer in trails.SINGLE:
        verdicts = judge(values, 400, MINUTE, ["v"], 0.1, choice=Choice(Pair(scorer, "held 5"), "asked"))
        assert verdicts.anomaly[900:910].any(), scorer
        assert verdicts.pair.scorer == scorer
        assert rule(400, 1).scorer == "shape"


@pytest.mark.parametrize("scorer", trails.SEVERAL)
def test_each_scorer_of_many_columns_names_the_culprit(scorer):
    values = wave(1200, columns=4)
    values[900:910, 2] += 6.0
    verdicts = judge(values, 400, MINUTE, list("abcd"), 0.1, choice=Choice(Pair(scorer, OWN[scorer]), "asked"))
    at = 900 + int(verdicts.anomaly[900:920].argmax())
    assert next(iter(json.loads(verdicts.evidence[at])["columns"])) == "c"
