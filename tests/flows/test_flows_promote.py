"""A candidate takes the champion's place only when it is better by a margin and no stranger, or when a human insists."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result
from pyarrow import parquet
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows.promote import promote
from forecastle.cli import app
from forecastle.errors import ConfigError, NotFound
from forecastle.intake.publish import publish, read_samples
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.workshop import rollback
from forecastle.settings import IntakeSettings, Settings

pytestmark = pytest.mark.usefixtures("prefect_server")
HERE = {"series": 2, "slots": 900, "end": 1_767_225_600_000}


class Shop:
    """A registry with versions of tiny models, and the settings that name it."""

    def __init__(self, folder: Path, uri: str = "") -> None:
        self.folder = folder
        self.store = MlflowRegistry(uri) if uri else DirectoryRegistry(folder / "registry")
        predict = {"registry": uri or str(folder / "registry"), "cache": str(folder / "cache"), "season": 60}
        self.settings: dict[str, Any] = {"predict": predict, "window": {"look_back": 200}}

    def publish(
        self, metrics: dict[str, float], *, kind: str = "forecaster", trained: Any = HERE, manifest: Any = None, **options: Any
    ) -> str:
        path = self.folder / "new.onnx"
        made = getattr(tiny_models, kind)(path, **options)
        return self.store.publish(kind, path, {**made, "train": trained, **(manifest or {})}, metrics)

    def run(self, *words: str) -> Result:
        """The command line's ``models promote`` with the settings as flags."""
        told = {f"{room}.{key}": value for room, fields in self.settings.items() for key, value in fields.items()}
        flags = [word for name, value in told.items() for word in ("--set", f"{name}={value}")]
        return CliRunner().invoke(app, ["models", "promote", "forecaster", *words, *flags])

    def champion(self, name: str = "forecaster") -> str:
        try:
            return self.store.resolve(name, "champion")
        except NotFound:
            return ""

    def promote(self, version: str, name: str = "forecaster", **options: Any) -> dict[str, Any]:
        return asyncio.run(promote(name, version, self.settings, **options))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.store.promote("forecaster", made.publish({"tail_pinball": 2.0, "other": 1.0}), "champion")
    return made


def drift(path: Path, growth: float, newest: float | None = None) -> str:
    """A history in which every step is ``growth`` times the one before, ``newest`` times in its newest two hours."""
    slots = 400
    steps = np.where(np.arange(slots) < slots - 120, growth, growth if newest is None else newest)
    value = np.concatenate([100.0 * np.cumprod(steps), 1000.0 * np.cumprod(steps)])
    columns = {
        "workload": np.repeat(["shop", "api"], slots),
        "metric": ["load"] * (2 * slots),
        "timestamp": np.tile(HERE["end"] - 60_000 * np.arange(slots - 1, -1, -1), 2),
        "value": value * np.random.default_rng(0).lognormal(0, 0.02, 2 * slots),
    }
    parquet.write_table(pa.table(columns), path)
    return str(path)


def test_the_first_model_needs_no_comparison(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    version = shop.publish({})
    decision = shop.promote(version)
    assert (decision["promoted"], decision["champion"], decision["reasons"]) == (True, "", ())
    assert shop.champion() == version


@pytest.mark.parametrize(("error", "promoted"), [(1.5, True), (1.979, True), (1.99, False), (2.1, False)])
def test_a_candidate_must_be_better_than_the_champion(shop: Shop, error: float, promoted: bool) -> None:
    version = shop.publish({"tail_pinball": error, "other": 0.0}, lift=0.01)
    decision = shop.promote(version)
    assert decision["promoted"] is promoted
    assert shop.champion() == (version if promoted else "1")
    assert decision["errors"] == {"tail_pinball": (error, 2.0)}, "only errors are compared"
    if not promoted:
        word = "is not enough beside" if error < 2 else "is worse than"
        told = f"tail_pinball {error:.4g} as published {word} the champion's 2, which it must beat by 1.0%"
        assert decision["reasons"] == (told,)


def test_a_stranger_is_refused_however_good(shop: Shop) -> None:
    version = shop.publish({"tail_pinball": 0.1}, lift=2.0)
    decision = shop.promote(version)
    assert not decision["promoted"]
    assert decision["change"] > 1
    assert "differ from the champion's by" in decision["reasons"][0]
    assert shop.champion() == "1"
    assert shop.promote(version, max_change=10.0)["promoted"], "the bound is the caller's"


def test_a_human_may_insist(shop: Shop) -> None:
    version = shop.publish({"tail_pinball": 9.0}, lift=2.0)
    decision = shop.promote(version, force=True)
    assert (decision["promoted"], decision["forced"], len(decision["reasons"])) == (True, True, 2)
    assert shop.champion() == version


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"manifest": {"kind": "poem"}}, "poem"),
        ({"step_ms": 300_000}, "step_ms 300000"),
        ({"horizon": 3}, "horizon 3"),
        ({"lift": float("inf")}, "finite"),
    ],
)
def test_what_may_not_serve_is_not_promoted_even_by_force(shop: Shop, wrong: dict[str, Any], says: str) -> None:
    version = shop.publish({"tail_pinball": 0.1}, **wrong)
    decision = shop.promote(version, force=True)
    assert not decision["promoted"]
    assert says in decision["reasons"][0]
    assert shop.champion() == "1"


def test_a_changed_file_is_not_promoted_even_by_force(shop: Shop) -> None:
    version = shop.publish({"tail_pinball": 0.1}, lift=0.02)
    stored = shop.folder / "registry" / "forecaster" / "versions" / version / "model.onnx"
    stored.write_bytes(stored.read_bytes() + b"x")
    decision = shop.promote(version, force=True)
    assert not decision["promoted"]
    assert "digest" in decision["reasons"][0]


def test_a_version_that_is_not_there_is_refused(shop: Shop) -> None:
    decision = shop.promote("7")
    assert not decision["promoted"]
    assert "not in the registry" in decision["reasons"][0]


def test_the_champion_is_not_promoted_again(shop: Shop) -> None:
    assert shop.promote("1")["reasons"] == ("it is the champion already",)


def test_a_name_that_nothing_serves_is_an_error(shop: Shop) -> None:
    with pytest.raises(ConfigError, match=r"predict\.model"):
        shop.promote("1", name="poem")


@pytest.mark.parametrize("trained", [{**HERE, "end": 1}, {}, None])
def test_errors_of_different_histories_are_not_compared(shop: Shop, trained: Any) -> None:
    version = shop.publish({"tail_pinball": 0.1}, lift=0.01, trained=trained)
    decision = shop.promote(version)
    assert not decision["promoted"]
    assert "different histories" in decision["reasons"][0]


def test_without_a_common_error_there_is_no_comparison(shop: Shop) -> None:
    decision = shop.promote(shop.publish({"f1": 1.0}, lift=0.01))
    assert "give a history" in decision["reasons"][0]
    assert not decision["promoted"]


def test_a_history_decides_whatever_was_published(shop: Shop) -> None:
    """Demand grows by 0.5 % a step: who lifts the last value is right, whoever claimed what."""
    better, worse = shop.publish({"tail_pinball": 9.0}, lift=0.08, trained={}), shop.publish({"tail_pinball": 0.0}, lift=-0.2)
    history = drift(shop.folder / "history.parquet", 1.005)
    refused = shop.promote(worse, history=history)
    assert not refused["promoted"]
    assert "on the history's tail is worse" in refused["reasons"][0]
    taken = shop.promote(better, history=history)
    assert taken["promoted"], taken
    assert set(taken["errors"]) == {"crps", "mase", "wql"}
    assert all(mine < theirs for mine, theirs in taken["errors"].values())
    assert 0 < taken["change"] < 0.2
    assert shop.champion() == better


def shadowed(shop: Shop, **train: float) -> None:
    """The fleet of `drift`'s shop, and rules for promotion."""
    demands = [{"metric": "load", "per_replica": 10}]
    pools = [{"name": "p", "site": "fra", "unit_price": 1.0}]
    loads = [{"name": "shop", "demands": demands, "pools": pools, "unmet_price": 2.0, "max": 1_000_000}]
    shop.settings["fleet"] = {"sites": [{"name": "fra", "provider": "a", "region": "b"}], "workloads": loads}
    shop.settings["train"] = train


@pytest.mark.parametrize(
    ("hours_ago", "train", "says"),
    [
        (0.5, {"tail": 0}, "its shadow is 0.5 h long, of 1.0 h"),
        (2.0, {"tail": 100}, "its shadow is 0.3 h long, of 1.0 h"),
        (0.0, {"tail": 0}, "its shadow is 0.0 h long"),
        (2.0, {"end": None}, "does not say when its training ended"),
        (2.0, {"tail": 0}, ""),
    ],
)
def test_a_candidate_must_have_been_shadowed_long_enough(
    shop: Shop, hours_ago: float, train: dict[str, Any], says: str
) -> None:
    history = drift(shop.folder / "history.parquet", 1.005)
    shadowed(shop, shadow_h=1.0)
    trained = {**HERE, "end": HERE["end"] - int(hours_ago * 3_600_000), **train}
    version = shop.publish({"tail_pinball": 0.0}, lift=0.08, trained=trained)
    decision = shop.promote(version, history=history)
    assert decision["promoted"] is (says == "")
    assert says in "".join(decision["reasons"])
    if says:
        assert shop.promote(version, history=history, force=True)["forced"], "a human may insist"


def test_a_candidate_that_fails_in_its_shadow_is_refused_whatever_was_published(shop: Shop) -> None:
    history = drift(shop.folder / "history.parquet", 1.005)
    shadowed(shop, shadow_h=1.0)
    trained = {**HERE, "end": HERE["end"] - 2 * 3_600_000, "tail": 0}
    version = shop.publish({"tail_pinball": 0.0}, lift=-0.1, trained=trained)
    reasons = shop.promote(version, history=history)["reasons"]
    assert any("in its shadow of 2.0 h is worse than the champion's" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("lift", "newest", "against"),
    [(0.08, 1.005, []), (0.08, 0.995, ["in its shadow of 2.0 h"]), (-0.08, 0.995, ["on the history's tail"])],
)
def test_a_shadow_is_asked_for_beside_the_frozen_set(shop: Shop, lift: float, newest: float, against: list[str]) -> None:
    """Who says that demand rises was right before its shadow, and is wrong within it where demand falls there."""
    history = drift(shop.folder / "history.parquet", 1.005, newest)
    shadowed(shop, shadow_h=1.0)
    trained = {**HERE, "end": HERE["end"] - 2 * 3_600_000, "tail": 0}
    decision = shop.promote(shop.publish({}, lift=lift, trained=trained), history=history)
    errors = [reason for reason in decision["reasons"] if reason.startswith("crps")]
    assert [where for where in ("in its shadow of 2.0 h", "on the history's tail") if where in " ".join(errors)] == against
    assert decision["promoted"] is (not against), decision
    assert {"crps", "shadow_crps"} <= set(decision["errors"]), "both are shown"


def test_the_frozen_set_is_what_neither_has_learned_from(shop: Shop) -> None:
    """Demand fell in the newest two hours: only whoever is judged there alone sees that rising is wrong."""
    history = drift(shop.folder / "history.parquet", 1.005, 0.995)
    before = {**HERE, "end": HERE["end"] - 40 * 60_000}
    first = shop.publish({}, lift=0.0, trained=before)
    shop.store.promote("forecaster", first, "champion")
    fresh = shop.promote(shop.publish({}, lift=-0.08, trained=before), history=history)
    assert fresh["promoted"], fresh
    assert not any("may have learned" in note for note in fresh["notes"])
    shop.store.promote("forecaster", first, "champion")
    stale = shop.promote(shop.publish({}, lift=-0.08, trained=HERE), history=history)
    assert any("may have learned from the history's tail" in note for note in stale["notes"])


def test_a_better_candidate_may_not_double_the_bill(shop: Shop) -> None:
    """Demand doubles within the horizon: who says so is right, and still would order far more than is ordered today."""
    history = drift(shop.folder / "history.parquet", 1.02)
    shadowed(shop)
    version = shop.publish({}, lift=0.4)
    decision = shop.promote(version, history=history)
    mine, theirs = decision["errors"]["crps"]
    assert mine < theirs
    assert len(decision["reasons"]) == 1
    assert "shop would be recommended" in decision["reasons"][0]
    assert "% more; at most 25%" in decision["reasons"][0]
    shadowed(shop, max_capacity_change=1.0)
    assert shop.promote(version, history=history)["promoted"]


def test_without_a_history_the_capacity_is_said_to_be_unchecked(shop: Shop, free_port: int) -> None:
    shadowed(shop)
    shop.settings["intake"] = {"bootstrap": f"127.0.0.1:{free_port}"}
    decision = shop.promote(shop.publish({"tail_pinball": 1.0}, lift=0.01))
    assert decision["promoted"]
    assert len(decision["notes"]) == 1
    assert decision["notes"][0].startswith("the change of recommended capacity was not checked: ")
    assert str(free_port) in decision["notes"][0]


def test_workloads_that_a_history_does_not_know_are_named(shop: Shop) -> None:
    shadowed(shop)
    shop.settings["fleet"]["workloads"][0]["demands"][0]["metric"] = "other"
    decision = shop.promote(shop.publish({}, lift=0.08), history=drift(shop.folder / "history.parquet", 1.005))
    assert "not checked: the history holds no demand of shop" in decision["notes"][0]


@pytest.mark.broker
def test_without_a_file_the_history_comes_from_kafka(shop: Shop, broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    topic = topic_name("promote")
    told = {"bootstrap": broker.bootstrap, "topics": [topic], "codecs": {topic: "json"}, "dead_letter_topic": f"{topic}-dead"}
    publish(read_samples(Path(drift(shop.folder / "history.parquet", 1.02))), IntakeSettings(**told), topic=topic)
    shadowed(shop)
    shop.settings["intake"] = told
    decision = shop.promote(shop.publish({"tail_pinball": 0.0}, lift=0.4))
    assert not decision["promoted"]
    assert "shop would be recommended" in decision["reasons"][0]
    assert "crps" in decision["errors"]


@pytest.mark.parametrize(
    ("margin", "error", "says"),
    [
        (-0.1, 2.19, ""),
        (-0.1, 2.21, "tail_pinball 2.21 as published is worse than the champion's 2 by more than 10.0%"),
        (0.0, 2.0, ""),
        (0.05, 1.89, ""),
        (0.05, 1.95, "tail_pinball 1.95 as published is not enough beside the champion's 2, which it must beat by 5.0%"),
    ],
)
def test_the_margin_is_a_setting(shop: Shop, margin: float, error: float, says: str) -> None:
    shop.settings["train"] = {"margin": margin}
    decision = shop.promote(shop.publish({"tail_pinball": error}, lift=0.01))
    assert "".join(decision["reasons"]) == says


def test_a_broken_champion_is_replaced(shop: Shop) -> None:
    version = shop.publish({"tail_pinball": 99.0}, lift=0.01)
    stored = shop.folder / "registry" / "forecaster" / "versions" / "1" / "model.onnx"
    stored.write_bytes(b"")
    decision = shop.promote(version)
    assert (decision["promoted"], decision["champion"]) == (True, "1")
    unfit = shop.publish({}, horizon=3)
    shop.store.promote("forecaster", unfit, "champion")
    assert shop.promote(version)["promoted"], "a champion that cannot serve these settings holds no place"


def test_detectors_are_compared_by_what_was_published(shop: Shop) -> None:
    first = shop.publish({"tail_loss": 1.0}, kind="detector")
    assert shop.promote(first, "detector")["promoted"]
    worse = shop.publish({"tail_loss": 1.5}, kind="detector", gain=2.0)
    assert "tail_loss 1.5" in shop.promote(worse, "detector")["reasons"][0]
    note = "the change of alarms was not checked: the settings name no workloads, so no topics were read; give a history"
    assert shop.promote(worse, "detector")["notes"] == (note,)
    history = drift(shop.folder / "history.parquet", 1.001)
    assert "missed" in shop.promote(worse, "detector", history=history)["reasons"][0]
    better = shop.publish({"tail_loss": 0.5}, kind="detector", gain=3.0)
    assert shop.promote(better, "detector")["promoted"]
    broken = shop.publish({"tail_loss": 0.1}, kind="detector", manifest={"channels": "many"})
    assert "manifest lacks" in shop.promote(broken, "detector", force=True)["reasons"][0]
    assert (shop.champion("detector"), shop.champion()) == (better, "1")


def alike(shop: Shop, slots: int = 400, **train: float) -> str:
    """A history of noise in which a change is news, short windows, and rules for promotion."""
    names = [("shop", "cpu"), ("shop", "rps"), ("api", "cpu"), ("api", "rps")]
    columns = {
        "workload": [workload for workload, _ in names for _ in range(slots)],
        "metric": [metric for _, metric in names for _ in range(slots)],
        "timestamp": np.tile(HERE["end"] - 60_000 * np.arange(slots - 1, -1, -1), len(names)),
        "value": np.random.default_rng(0).normal(100, 1, len(names) * slots),
    }
    path = shop.folder / "alike.parquet"
    parquet.write_table(pa.table(columns), path)
    shop.settings |= {"detect": {"look_back": 100, "warmup": 60, "season": 0}, "train": train}
    shop.store.promote("detector", shop.publish({}, kind="detector", gain=0.0), "champion")
    return str(path)


def test_a_detector_that_finds_more_and_alarms_no_more_is_promoted_and_can_be_taken_back(shop: Shop) -> None:
    history = alike(shop)
    version = shop.publish({}, kind="detector")
    decision = shop.promote(version, "detector", history=history)
    assert decision["promoted"], decision
    assert list(decision["errors"]) == ["missed", "alarms"], "a champion whose score is always 0 has no likelihood"
    mine, theirs = decision["errors"]["missed"]
    assert 0 < mine < theirs <= 1
    assert rollback(Settings.model_validate(shop.settings), "detector") == (version, "1")
    assert (shop.champion("detector"), shop.champion()) == ("1", "1")


def test_a_detector_that_tells_of_nothing_is_refused_and_a_human_may_insist(shop: Shop) -> None:
    history = alike(shop)
    version = shop.publish({}, kind="detector", gain=1e-9)
    refused = shop.promote(version, "detector", history=history)
    assert not refused["promoted"]
    assert any("on the history's tail it tells of none of " in reason for reason in refused["reasons"]), refused
    assert shop.promote(version, "detector", history=history, force=True)["forced"]
    assert shop.champion("detector") == version


def test_a_detector_that_alarms_far_more_is_refused_with_the_figures(shop: Shop) -> None:
    """It speaks of every value that is rather high, which one in forty is."""
    history = alike(shop)
    version = shop.publish({}, kind="detector", gain=1e4, above=101.9)
    reasons = shop.promote(version, "detector", history=history)["reasons"]
    told = [reason for reason in reasons if "alarms per series and day" in reason]
    assert len(told) == 1, reasons
    assert "the champion 0; at most 2 times the champion's or detect.budget (0.1)" in told[0]
    shop.settings["train"] = {"max_alarm_change": 1e6, "margin": -9.0}
    assert not any("per series and day" in one for one in shop.promote(version, "detector", history=history)["reasons"])


@pytest.mark.parametrize(("hours_ago", "says"), [(1.5, "its shadow is 1.5 h long, of 2.0 h"), (2.5, "")])
def test_a_detector_is_shadowed_too(shop: Shop, hours_ago: float, says: str) -> None:
    history = alike(shop, 600, shadow_h=2.0)
    trained = {**HERE, "end": HERE["end"] - int(hours_ago * 3_600_000), "tail": 0}
    version = shop.publish({}, kind="detector", trained=trained, manifest={"step_ms": 60_000})
    decision = shop.promote(version, "detector", history=history)
    assert decision["promoted"] is (says == ""), decision
    assert says in "".join(decision["reasons"])
    assert ({"shadow_missed", "shadow_alarms"} <= set(decision["errors"])) is (says == "")


def test_the_decision_is_kept_in_prefect_and_mlflow(tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    shop = Shop(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert shop.promote(shop.publish({"tail_pinball": 2.0}))["promoted"]
    assert not shop.promote(shop.publish({"tail_pinball": 3.0}, lift=0.01))["promoted"]
    assert shop.promote(shop.publish({"tail_pinball": 1.0}, lift=0.02))["promoted"]
    assert shop.champion() == "3"
    assert [row["aliases"] for row in shop.store.versions("forecaster")] == [["champion"], [], []]

    async def kept() -> list[str]:
        async with get_client() as client:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["forecastle-promotion"]))
            return [str(artifact.data) for artifact in await client.read_artifacts(artifact_filter=wanted)]

    told = [text for text in asyncio.run(kept()) if "tail_pinball 3 as published is worse than the champion's 2" in text]
    assert len(told) == 1
    assert told[0].startswith("# forecaster 2: refused")
    assert "- note: the change of recommended capacity was not checked: the settings name no workloads" in told[0]


def test_the_command_line_asks_the_flow(shop: Shop) -> None:
    worse, better = shop.publish({"tail_pinball": 9.0}, lift=0.01), shop.publish({"tail_pinball": 1.0}, lift=0.01)
    refused = shop.run(worse)
    assert (refused.exit_code, refused.stdout) == (1, "")
    told = "against it: tail_pinball 9 as published is worse than the champion's 2, which it must beat by 1.0%"
    assert refused.stderr.splitlines()[-1] == told
    assert "note: the change of recommended capacity was not checked" in refused.stderr
    assert shop.champion() == "1"
    done = shop.run(better)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"forecaster@champion: 1 -> {better}")
    assert shop.champion() == better


def test_the_command_line_passes_on_what_a_human_insists_on(shop: Shop) -> None:
    worse = shop.publish({"tail_pinball": 9.0}, lift=0.01)
    done = shop.run(worse, "--force")
    assert done.exit_code == 0
    assert "against it: tail_pinball 9 as published" in done.stderr, "and it is said again"
    assert shop.champion() == worse
    beyond = shop.publish({"tail_pinball": 1.0}, lift=0.02)
    rolled = shop.run(beyond, "--history", drift(shop.folder / "history.parquet", 1.0))
    assert rolled.exit_code in (0, 1)
    assert (shop.champion() == beyond) is (rolled.exit_code == 0), "the exit status says what was done"
    assert "as published" not in rolled.stderr, "compared on the history, not on what was recorded"
