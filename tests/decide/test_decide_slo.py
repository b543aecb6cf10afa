"""Objectives: OpenSLO documents read strictly, and a quantile that only tightens as the error budget goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from decide_worlds import RPS, fleet, load, plans, seen, situation, stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from forecastle.decide.sizing import critical_quantile, insured_quantile
from forecastle.decide.slo import Found, as_settings, read
from forecastle.errors import ConfigError
from forecastle.settings import SloSettings, WorkloadSettings
from forecastle.types import Objective, SeriesKey

PLAIN = """apiVersion: openslo/v1
kind: SLO
metadata:
  name: checkout-latency
spec:
  description: answers in time
  service: checkout
  indicatorRef: checkout-latency-good
  timeWindow:
    - duration: 28d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: fast enough
      target: 0.995
"""
SLICED = PLAIN.replace("Occurrences", "Timeslices").replace("target: 0.995", "targetPercent: 99\n      timeSliceWindow: 1m")
BUDGET = SeriesKey("shop", "budget_left")
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(folder: Path, text: str) -> Path:
    path = folder / "slo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- reading ---


def test_an_objective_is_its_target_and_how_it_is_counted(tmp_path: Path) -> None:
    assert read(written(tmp_path, PLAIN)) == (Found("checkout", SloSettings(name="fast enough", target=0.995)),)
    assert read(written(tmp_path, SLICED))[0].slo == SloSettings(name="fast enough", target=0.99, budgeting="Timeslices")


def test_an_objective_without_a_name_of_its_own_has_that_of_the_slo(tmp_path: Path) -> None:
    (found,) = read(written(tmp_path, PLAIN.replace("displayName: fast enough\n      ", "")))
    assert found.slo.name == "checkout-latency"


def test_ratio_timeslices_are_timeslices(tmp_path: Path) -> None:
    assert read(written(tmp_path, PLAIN.replace("Occurrences", "RatioTimeslices")))[0].slo.budgeting == "Timeslices"


def test_a_file_may_hold_many_documents_of_which_only_slos_are_read(tmp_path: Path) -> None:
    service = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: checkout}\nspec: {description: x}\n"
    second = PLAIN.replace("service: checkout", "service: search")
    found = read(written(tmp_path, f"---\n{service}---\n{PLAIN}---\n---\n{second}"))
    assert [one.service for one in found] == ["checkout", "search"]


def test_every_objective_of_an_slo_is_read(tmp_path: Path) -> None:
    two = PLAIN + "    - displayName: at all\n      targetPercent: 90\n"
    assert [(one.slo.name, one.slo.target) for one in read(written(tmp_path, two))] == [("fast enough", 0.995), ("at all", 0.9)]


@pytest.mark.parametrize(
    ("old", "new", "line", "fix"),
    [
        ("openslo/v1", "openslo/v1alpha", 1, "convert the document to openslo/v1"),
        ("apiVersion: openslo/v1\n", "", 1, "write 'apiVersion: openslo/v1'"),
        ("kind: SLO", "kind: 7", 2, "write 'kind: SLO'"),
        ("metadata:\n  name: checkout-latency\n", "metadata: none\n", 3, "add 'metadata:'"),
        ("  name: checkout-latency\n", "  title: x\n", 3, "write 'name: checkout-latency'"),
        ("  service: checkout\n", "", 5, "'service: checkout'"),
        ("Occurrences", "Guesses", 12, "write one of Occurrences, Timeslices, RatioTimeslices"),
        ("  budgetingMethod: Occurrences\n", "", 5, "write one of Occurrences"),
        (
            "  objectives:\n    - displayName: fast enough\n      target: 0.995\n",
            "  objectives: []\n",
            13,
            "add '- target: 0.99'",
        ),
        ("    - displayName: fast enough\n      target: 0.995\n", "    - 0.995\n", 13, "entry 1 is no mapping"),
        ("      target: 0.995\n", "", 14, "write one of 'target: 0.99' and 'targetPercent: 99'"),
        ("target: 0.995", "target: 0.995\n      targetPercent: 99.5", 15, "write one of"),
        ("target: 0.995", "target: 99.5", 15, "did you mean targetPercent?"),
        ("target: 0.995", "target: 1", 15, "not between 0 and 1"),
        ("target: 0.995", "target: 0", 15, "not between 0 and 1"),
        ("target: 0.995", "targetPercent: 100", 15, "not between 0 and 100"),
        ("target: 0.995", "target: high", 15, "'high' is no number"),
        ("target: 0.995", "target: true", 15, "is no number"),
        ("target: 0.995", "target: .nan", 15, "not between"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_fix(tmp_path: Path, old: str, new: str, line: int, fix: str) -> None:
    assert old in PLAIN
    path = written(tmp_path, PLAIN.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert fix in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no document with 'kind: SLO'"),
        ("apiVersion: openslo/v1\nkind: Service\n", "has no document with 'kind: SLO'"),
        ("- 1\n", ":1: is no mapping"),
        ("spec: {a: [}\n", ":1: is not YAML"),
        ("a: 1\na: 2\n", "is not YAML"),
        ("x: " + "y" * (1 << 20), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_openslo_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)) as error:
        read(written(tmp_path, text))
    assert says in str(error.value)


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.yaml")


def test_a_file_runs_nothing_that_it_names(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace("answers in time", f"!!python/object/apply:os.mkdir ['{tmp_path}/owned']"))
    assert len(read(path)) == 1
    assert not (tmp_path / "owned").exists()


def test_what_is_printed_can_be_pasted_into_a_workload(tmp_path: Path) -> None:
    two = SLICED + '    - displayName: at "all"\n      targetPercent: 90\n'
    printed = as_settings(read(written(tmp_path, two)), "left")
    assert '# workload "checkout"' in printed
    assert '# less strict: "at \\"all\\"", target 0.9' in printed
    pasted = YAML(typ="safe").load(printed)["slo"]
    plain = {"demands": [{"metric": "rps", "per_replica": 1}], "pools": [{"name": "a", "site": "a", "unit_price": 1}]}
    assert WorkloadSettings(name="shop", **plain, slo=pasted).slo == SloSettings(  # type: ignore[arg-type]
        name="fast enough", target=0.99, budgeting="Timeslices", budget_metric="left"
    )


def test_names_from_a_file_cannot_add_settings_of_their_own(tmp_path: Path) -> None:
    evil = PLAIN.replace("fast enough", '"x\\nmode: auto"').replace("service: checkout", 'service: "y\\nmode: auto"')
    printed = as_settings(read(written(tmp_path, evil)))
    assert set(YAML(typ="safe").load(printed)) == {"slo"}
    assert json.dumps("x\nmode: auto") in printed


# --- the quantile ---


@pytest.mark.parametrize(
    ("timeslices", "left", "quantile"),
    [
        (False, 1.0, 0.9),
        (True, 1.0, 0.99),
        (False, 0.5, 0.95),
        (True, 0.5, 0.995),
        (False, 0.0, 1.0),
        (False, -3.0, 1.0),
        (False, 7.0, 0.9),
    ],
)
def test_what_is_left_uninsured_shrinks_with_the_budget(timeslices: bool, left: float, quantile: float) -> None:
    """Prices of 2 and 20 say 0.9; an objective of good slices says its target, 0.99."""
    assert insured_quantile(2.0, 20.0, Objective("x", 0.99, timeslices), left) == pytest.approx(quantile)


def test_a_budget_half_gone_is_unmet_demand_twice_as_dear() -> None:
    assert insured_quantile(2.0, 20.0, Objective("x", 0.9), 0.5) == pytest.approx(critical_quantile(2.0, 40.0))


def test_an_objective_below_the_prices_lowers_nothing() -> None:
    assert insured_quantile(0.2, 20.0, Objective("x", 0.5, timeslices=True), 1.0) == critical_quantile(0.2, 20.0)


@given(st.floats(0, 30), st.floats(0.01, 30), st.floats(0.01, 0.999), st.booleans(), st.floats(-2, 2), st.floats(-2, 2))
def test_less_budget_never_insures_less(
    price: float, unmet: float, target: float, sliced: bool, one: float, two: float
) -> None:
    less, more = sorted((one, two))
    slo = Objective("x", target, sliced)
    assert 0 <= insured_quantile(price, unmet, slo, more) <= insured_quantile(price, unmet, slo, less) <= 1


# --- in a plan ---

TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
PROMISED = stock(load(slo=Objective("fast", 0.99, budget=BUDGET), unmet_price=0.2))
"""A replica costs half of what a missing one does, so the prices alone insure the median."""


def found(left: float | None, demand: float = 640.0, *, late: bool = False, suspect: bool = False) -> dict[str, object]:
    others = {} if left is None else {BUDGET: left}
    tick = situation(demand, TEN, others=others, late=[BUDGET] * late, suspect=[BUDGET] * suspect)
    plan = plans(tick, PROMISED)[0]
    return {"wanted": plan.recommended["shop"], "reason": plan.reason, **plan.evidence.get("shop", {})}


def test_replicas_are_added_as_the_budget_goes() -> None:
    assert [found(left, 960.0)["quantile"] for left in (1.0, 0.5, 0.2, 0.0)] == pytest.approx([0.5, 0.75, 0.9, 0.99], rel=1e-3)


def test_the_plan_says_how_much_is_left() -> None:
    told = found(0.25, 960.0)
    assert told["budget_left"] == 0.25
    assert "25% of the error budget is left." in str(told["reason"])


@pytest.mark.parametrize("trouble", [{"left": None}, {"left": 0.1, "late": True}, {"left": 0.1, "suspect": True}])
def test_a_budget_that_cannot_be_seen_changes_nothing(trouble: dict[str, object]) -> None:
    told = found(demand=960.0, **trouble)  # type: ignore[arg-type]
    assert told["quantile"] == 0.5
    assert "budget_left" not in told


@given(st.floats(50, 2000), st.floats(-1, 1.5), st.floats(-1, 1.5))
@patient
def test_less_budget_never_wants_fewer(demand: float, one: float, two: float) -> None:
    less, more = sorted((one, two))
    assert int(str(found(less, demand)["wanted"])) >= int(str(found(more, demand)["wanted"]))


def test_the_budget_is_read_but_is_no_demand() -> None:
    assert PROMISED.workloads["shop"].series == {RPS, BUDGET}
    assert replace(PROMISED.workloads["shop"], slo=Objective("fast", 0.99)).series == {RPS}
