"""Where an incident began: departures from the own past, blame along the call graph, and what an incident says of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.causes import Place, Sign, departures, ranked, reachable, sign_of
from forecastle.detect.engine import Detection
from forecastle.detect.incidents import IncidentBook
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, SeriesKey

SHOP = {"web": ("cart", "pay"), "cart": ("db",), "pay": ("db",)}
SETTINGS = DetectSettings(group_s=600, close_s=900, topology=SHOP)


def key(workload: str, metric: str = "latency", pod: str = "", site: str = "") -> SeriesKey:
    labels = [(name, value) for name, value in (("pod", pod), ("site", site)) if value]
    return SeriesKey(workload, metric, tuple(labels))


def sign(workload: str, size: float = 20.0, *, metric: str = "latency", pod: str = "", site: str = "", late: int = 0) -> Sign:
    return Sign(key(workload, metric, pod, site), size, START + late * STEP)


def leader(*signs: Sign, topology: dict[str, tuple[str, ...]] | None = None) -> str:
    return str(ranked(signs, topology)[0].place)


def anomaly(workload: str, metric: str = "latency", *, at: int = START, pod: str = "", site: str = "eu", **evidence) -> Anomaly:
    known = {"families": ["residual"], "expected": 1.0, "actual": 2.0, "departure": 20.0, "onset": at}
    return Anomaly(key(workload, metric, pod, site), at, 2.0, 1.5, AnomalyKind.SPIKE, {**known, **evidence})


def update(book: IncidentBook, *found: Anomaly, at: int = START) -> dict[str, Incident]:
    return {incident.workload: incident for incident in book.update(found, at)}


# --- departures ---


def noise(n: int = 6, slots: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 1, (n, slots))


def everything(values: np.ndarray) -> np.ndarray:
    return np.ones(values.shape, bool)


def test_what_moved_departs_and_what_did_not_hardly_does() -> None:
    values = noise()
    values[2, -5:] += 50
    size = departures(values, everything(values), 5)
    assert size.argmax() == 2
    assert size[2] > 20
    assert (np.delete(size, 2) < 2).all()


def test_a_fall_departs_as_much_as_a_rise() -> None:
    values = noise(2)
    values[1] = 200 - values[0]
    values[0, -5:] += 30
    values[1, -5:] -= 30
    size = departures(values, everything(values), 5)
    assert size[0] == pytest.approx(size[1], rel=1e-9)


def test_a_metric_that_often_jumps_has_to_jump_further() -> None:
    values = noise(2)
    values[1, :-5:4] += 60
    values[:, -5:] += 60
    steady, jumpy = departures(values, everything(values), 5)
    assert steady > 10 * jumpy
    assert jumpy < 2


def test_one_outlier_in_the_present_is_none() -> None:
    values = noise(1)
    values[0, -3] += 1000
    assert departures(values, everything(values), 5)[0] < 2


def test_a_gap_is_not_a_departure() -> None:
    values = noise(3)
    mask = everything(values)
    mask[0, -5:], mask[1, :-5] = False, False
    values[2, -2:], mask[2, -2:] = 1e9, False
    size = departures(values, mask, 5)
    assert size[0] == size[1] == 0
    assert size[2] < 2


def test_nan_is_a_gap_whatever_the_mask_says() -> None:
    values = noise(1)
    values[0, -2:] = np.nan
    assert departures(values, everything(values), 5)[0] < 2


def test_a_constant_has_a_unit_of_its_own_size() -> None:
    values = np.full((3, 100), [[100.0], [1e9], [0.0]])
    assert (departures(values, everything(values), 5) == 0).all()
    values[:, -5:] *= 0.98
    size = departures(values, everything(values), 5)
    assert size[0] == pytest.approx(size[1], rel=1e-6)
    assert size[0] > 10


@hypothesis(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e6), st.integers(0, 100))
def test_the_unit_of_the_metric_is_irrelevant(factor: float, seed: int) -> None:
    values = noise(3, 80, seed)
    values[0, -4:] += 12
    plain, scaled = (departures(v, everything(v), 4) for v in (values, values * factor))
    np.testing.assert_allclose(plain, scaled, rtol=1e-5)


@pytest.mark.parametrize("recent", [0, -1, 200, 300])
def test_no_past_or_no_present_is_refused_with_what_to_give(recent: int) -> None:
    with pytest.raises(ValueError, match="give 1 to 199"):
        departures(noise(), everything(noise()), recent)


def test_the_inputs_are_not_written_to() -> None:
    values, mask = noise(), everything(noise())
    mask[0, 3] = False
    before = values.copy()
    departures(values, mask, 5)
    assert np.array_equal(values, before)


# --- ranking ---


def test_nothing_wrong_blames_nobody() -> None:
    assert ranked([]) == ()


def test_without_a_call_graph_the_largest_departure_leads() -> None:
    assert leader(sign("web", 5), sign("db", 50), sign("pay", 8)) == "db"


def test_many_metrics_out_of_line_outweigh_one() -> None:
    assert leader(sign("web", 30), *(sign("pay", 20, metric=name) for name in ("cpu", "latency", "errors"))) == "pay"


def test_a_departure_as_usual_is_no_sign() -> None:
    causes = ranked([sign("pay", 10), *(sign("web", 1.9, metric=f"m{i}") for i in range(50))])
    assert [(c.place.workload, c.share) for c in causes] == [("pay", 1.0), ("web", 0.0)]


def test_a_caller_passes_blame_to_what_it_calls() -> None:
    signs = sign("web", 60), sign("pay", 30), sign("db", 25)
    assert leader(*signs) == "web"
    assert leader(*signs, topology=SHOP) == "db"


def test_a_callee_that_is_well_is_not_blamed() -> None:
    assert leader(sign("web", 60), sign("cart", 30), topology=SHOP) == "cart"
    assert leader(sign("web", 60), topology=SHOP) == "web"


def test_the_explained_are_named() -> None:
    causes = {str(c.place): c for c in ranked([sign("web"), sign("cart"), sign("db")], SHOP)}
    assert causes["db"].explains == ("cart",)
    assert causes["cart"].explains == ("web",)
    assert causes["web"].explains == ()


def test_the_pod_is_told_from_its_siblings() -> None:
    signs = [sign("pay", 2.5, pod="a"), sign("pay", 80, pod="b"), sign("pay", 2.5, pod="c"), sign("web", 70, pod="w")]
    assert leader(*signs, topology=SHOP) == "pay/b"


@pytest.mark.parametrize("label", ["pod", "instance"])
def test_both_labels_name_an_instance(label: str) -> None:
    series = SeriesKey("pay", "cpu", ((label, "i-1"), ("site", "eu")))
    assert Place.of(series) == Place("pay", "i-1", "eu")
    assert str(Place.of(series)) == "pay/i-1 at eu"


def test_blame_stays_at_the_site_where_the_callee_is_sick_too() -> None:
    signs = [sign("web", site="eu"), sign("db", site="eu"), sign("db", site="us")]
    here, there = (c for c in ranked(signs, {"web": ("db",)}) if c.place.workload == "db")
    assert (here.place.site, there.place.site) == ("eu", "us")
    assert here.share > there.share
    assert there.explains == ()


def test_blame_goes_elsewhere_when_the_callee_is_sick_only_there() -> None:
    assert leader(sign("web", 90, site="eu"), sign("db", site="us"), topology={"web": ("db",)}) == "db at us"


def test_of_equals_the_earlier_leads() -> None:
    assert leader(sign("a", late=5), sign("b")) == "b"
    assert leader(sign("a"), sign("b", late=5)) == "a"


def test_calls_in_a_circle_end() -> None:
    causes = ranked([sign("a"), sign("b"), sign("c")], {"a": ("b",), "b": ("c",), "c": ("a",)})
    assert [c.share for c in causes] == pytest.approx([1 / 3] * 3)


def test_a_workload_that_calls_itself_keeps_its_blame() -> None:
    assert ranked([sign("a", 9), sign("b", 3)], {"a": ("a",)}) == ranked([sign("a", 9), sign("b", 3)])


@pytest.mark.parametrize("size", [float("nan"), float("inf"), -5.0, 0.0])
def test_a_size_that_is_no_number_weighs_nothing(size: float) -> None:
    causes = ranked([sign("a", size), sign("b", 10)])
    assert causes[0].place.workload == "b"
    assert causes[0].share == 1.0


def test_a_metric_that_hardly_ever_moved_does_not_outweigh_a_place_where_all_is_out_of_line() -> None:
    causes = ranked([sign("still", 5e4), *(sign("db", 40, metric=f"m{i}") for i in range(2))])
    assert [cause.place.workload for cause in causes] == ["db", "still"]


@pytest.mark.parametrize("sizes", [(1.2, 1.9), (40.0, 4000.0), (float("nan"), 1.0)])
def test_of_two_that_tie_the_one_with_the_larger_departure_comes_first(sizes: tuple[float, float]) -> None:
    causes = ranked([sign("a", sizes[0]), sign("b", sizes[1]), sign("c", 0)])
    assert causes[0].place.workload == "b"
    assert causes[0].share == causes[1].share


def test_the_worst_metrics_come_first_and_three_are_enough() -> None:
    (cause,) = ranked([sign("a", size, metric=f"m{size:.0f}") for size in (3, 9, 5, 7)])
    assert cause.metrics == ("m9", "m7", "m5")


SIGNS = st.lists(
    st.builds(
        lambda w, m, p, size, late: sign(w, size, metric=m, pod=p, late=late),
        st.sampled_from(("web", "cart", "pay", "db")),
        st.sampled_from(("cpu", "latency", "errors")),
        st.sampled_from(("", "a", "b")),
        st.floats(0, 1e5),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=20,
)


@hypothesis(max_examples=60, deadline=None)
@given(SIGNS, st.randoms())
def test_the_order_of_signs_is_irrelevant(signs: list[Sign], random) -> None:
    mixed = list(signs)
    random.shuffle(mixed)
    assert ranked(mixed, SHOP) == ranked(signs, SHOP)


@hypothesis(max_examples=60, deadline=None)
@given(SIGNS)
def test_shares_are_shares(signs: list[Sign]) -> None:
    shares = [cause.share for cause in ranked(signs, SHOP)]
    assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert shares == sorted(shares, reverse=True) or max(np.diff(shares)) < 1e-9
    assert sum(shares) == pytest.approx(1.0) or sum(shares) == 0.0


@hypothesis(max_examples=60, deadline=None)
@given(SIGNS)
def test_worse_is_not_blamed_less(signs: list[Sign]) -> None:
    def share(found: list[Sign]) -> float:
        return next(c.share for c in ranked(found) if c.place == Place.of(signs[0].key))

    worse = [signs[0]._replace(size=signs[0].size * 2 + 5), *signs[1:]]
    assert share(worse) >= share(signs) - 1e-9


def test_reachable_follows_calls_and_ends() -> None:
    assert reachable({"cart"}, SHOP) == {"cart", "db"}
    assert reachable({"web"}, SHOP) == {"web", "cart", "pay", "db"}
    assert reachable({"a"}, {"a": ("b",), "b": ("a",)}) == {"a", "b"}


def test_silence_weighs_by_its_threshold() -> None:
    silent = Anomaly(key("db"), START, 30.0, 3.0, AnomalyKind.DROPOUT, {"departure": 0.0, "onset": START - STEP})
    assert sign_of(silent).size > sign_of(Anomaly(key("db"), START, 4.0, 3.0, AnomalyKind.DROPOUT)).size > 0
    assert sign_of(silent).onset == START - STEP


# --- what detection and incidents make of it ---


def test_an_anomaly_says_how_far_it_departed() -> None:
    values = daily(8, 900)
    values[3, -1] += 200
    (found,) = Detection(SETTINGS, STEP).detect(windows(values, names=keys(8)), None)
    assert found.key == keys(8)[3]
    assert found.evidence["departure"] > 3


def test_the_departure_is_that_of_the_slots_since_the_onset() -> None:
    values = daily(8, 900)
    values[3, -10:] += 200
    found = [a for a in Detection(SETTINGS, STEP).detect(windows(values, names=keys(8)), None) if a.key == keys(8)[3]]
    slots = found[0].evidence["duration_s"] * 1000 // STEP
    part = values[3:4, -SETTINGS.look_back :]
    assert found[0].evidence["departure"] == pytest.approx(departures(part, everything(part), slots)[0], abs=1e-3)


def test_an_incident_names_the_pod_at_fault() -> None:
    book = IncidentBook(SETTINGS)
    found = update(book, anomaly("pay", pod="a", departure=4.0), anomaly("pay", "cpu", pod="b", departure=90.0))
    assert "likely began in pay/b at eu" in found["pay"].cause
    blame = {a.key.label("pod"): a.evidence["blame"] for a in found["pay"].anomalies}
    assert blame["b"] > blame["a"] > 0
    assert sum(blame.values()) == pytest.approx(1.0, abs=1e-3)


def test_two_pods_with_one_metric_are_both_kept() -> None:
    found = update(IncidentBook(SETTINGS), anomaly("pay", pod="a"), anomaly("pay", pod="b"))
    assert {a.key.label("pod") for a in found["pay"].anomalies} == {"a", "b"}
    assert found["pay"].signals == 1


def test_a_caller_names_what_it_calls() -> None:
    book = IncidentBook(SETTINGS)
    found = update(book, anomaly("web", departure=60.0), anomaly("pay", "iops"))
    assert "likely began in pay at eu (iops)" in found["web"].cause
    assert "likely began" not in found["pay"].cause


def test_without_a_call_graph_nobody_else_is_named() -> None:
    found = update(IncidentBook(DetectSettings()), anomaly("web"), anomaly("db", departure=90.0))
    assert all("likely began" not in incident.cause for incident in found.values())
    assert all("blame" not in a.evidence for incident in found.values() for a in incident.anomalies)


def test_what_is_not_called_is_not_named() -> None:
    found = update(IncidentBook(SETTINGS), anomaly("cart"), anomaly("pay", departure=90.0))
    assert "likely began" not in found["cart"].cause


def test_trouble_long_past_is_not_the_cause() -> None:
    book = IncidentBook(DetectSettings(group_s=60, close_s=3600, topology=SHOP))
    update(book, anomaly("pay", departure=90.0))
    later = START + 30 * STEP
    found = update(book, anomaly("web", at=later), at=later)
    assert set(found) == {"web", "pay"}
    assert "likely began" not in found["web"].cause


def test_an_incident_that_closes_still_says_where_it_began() -> None:
    book = IncidentBook(SETTINGS)
    update(book, anomaly("web", departure=60.0), anomaly("pay"))
    book.update([], START + 900_000)
    assert "likely began in pay" in next(i for i in book.closed if i.workload == "web").cause


def test_hundreds_of_pods_are_ranked_by_the_worst() -> None:
    found = [anomaly("db", pod=f"p{i:03}", departure=3.0 + i) for i in range(400)]
    incident = update(IncidentBook(SETTINGS), *found)["db"]
    assert "likely began in db/p399" in incident.cause
