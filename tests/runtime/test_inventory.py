"""Settings to inventory, and what check finds before anything starts."""

from typing import Any

import pytest

from forecastle.errors import ConfigError
from forecastle.runtime.inventory import check, contradictions, inventory, resolve
from forecastle.settings import Settings
from forecastle.types import AnomalyKind, Kind, Mode, SeriesKey

SITE = {"name": "fra", "provider": "aws", "region": "eu", "zone": "a", "residency": ["EU"]}
POOL = {"name": "shop-fra", "site": "fra", "unit_price": 0.1, "max": 10}
LOAD = {
    "name": "shop",
    "demands": [{"metric": "rps", "per_replica": 10, "labels": {"b": "2", "a": "1"}}],
    "pools": [POOL],
    "vetoes": [{"metric": "latency", "above": 0.5}],
}


def settings(**fleet: Any) -> Settings:
    return Settings.model_validate(
        {
            "clouds": {"sim": {"adapter": "json:loads"}},
            "fleet": {"sites": [SITE], "workloads": [LOAD], **fleet},
        }
    )


def test_the_inventory_is_what_the_settings_say() -> None:
    stock = inventory(settings(budget_per_hour=5.0))
    load = stock.workloads["shop"]
    assert load.demands[0].key == SeriesKey("shop", "rps", (("a", "1"), ("b", "2")))
    assert load.vetoes == ((SeriesKey("shop", "latency"), 0.5),)
    assert load.pools == ("shop-fra",)
    assert load.mode is Mode.SHADOW
    assert stock.pools["shop-fra"].workload == "shop"
    assert stock.sites["fra"].residency == {"EU"}
    assert stock.domain("shop-fra") == "aws/eu/a"
    assert stock.budget_per_hour == 5.0


def test_playbooks_become_typed() -> None:
    book = {"name": "leak", "metric": "memory*", "kinds": ["trend"], "action": "restart"}
    stock = inventory(Settings.model_validate({"playbooks": [book]}))
    assert stock.playbooks[0].kinds == {AnomalyKind.TREND}
    assert stock.playbooks[0].action is Kind.RESTART


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pools": [{**POOL, "site": "nowhere"}]}, "pool shop-fra: site 'nowhere' is not in fleet.sites"),
        ({"pools": [{**POOL, "adapter": "moon"}]}, "add clouds.moon.adapter"),
        ({"pools": [{**POOL, "min": 11}]}, "needs min <= max <= quota, has 11, 10, 100"),
        ({"pools": [POOL, POOL]}, "pools: 'shop-fra' is defined 2 times"),
        ({"residency": ["US"]}, "residency is never relaxed"),
        ({"min": 11}, "its allowed pools hold 10 at most"),
        ({"min": 5, "max": 4}, "min 5 is above max 4"),
        ({"min_sites": 2}, "only 1 allowed sites"),
        ({"lead_time_s": 7200}, "raise predict.horizon"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], says: str) -> None:
    found = list(contradictions(settings(workloads=[{**LOAD, **change}])))
    assert any(says in line for line in found), found
    with pytest.raises(ConfigError, match="shop"):
        inventory(settings(workloads=[{**LOAD, **change}]))


def test_names_are_unique() -> None:
    found = list(contradictions(settings(sites=[SITE, SITE])))
    assert found == ["fleet.sites: 'fra' is defined 2 times; names are unique"]


def test_an_unknown_anomaly_kind_lists_the_known_ones() -> None:
    bad = Settings.model_validate({"playbooks": [{"name": "x", "kinds": ["spkie"]}]})
    (line,) = contradictions(bad)
    assert "spkie" in line
    assert "spike" in line


def test_import_strings_are_resolved_or_explained() -> None:
    assert resolve("json:loads")("1") == 1
    with pytest.raises(ConfigError, match=r"package\.module:name"):
        resolve("json.loads")
    with pytest.raises(ConfigError, match="install the package"):
        resolve("no_such_module_here:x")
    with pytest.raises(ConfigError, match=r"'json' has no 'laods'; it has: .*loads"):
        resolve("json:laods")


def test_check_finds_bad_adapters_capabilities_and_topics() -> None:
    assert check(settings()) == []
    bad = Settings.model_validate(
        {
            "clouds": {"a": {"adapter": "json:nothing"}, "b": {"adapter": "forecastle.runtime.inventory:resolve"}},
            "intake": {"topics": ["metrics", "other"]},
            "playbooks": [{"name": "x", "action": "restart"}],
        }
    )
    found = check(bad)
    assert any(line.startswith("clouds.a: import string 'json:nothing'") for line in found)
    assert "intake.codecs: topic 'other' has no codec; add intake.codecs.other: json" in found
    assert not any(line.startswith("clouds.b") for line in found)


def test_check_names_a_capability_the_playbooks_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.loads", type("ScaleOnly", (), {"capabilities": frozenset({Kind.SCALE})}), raising=True)
    books = Settings.model_validate(
        {"clouds": {"c": {"adapter": "json:loads"}}, "playbooks": [{"name": "x", "action": "restart"}]}
    )
    assert check(books) == ["clouds.c: lacks restart, which the playbooks ask for"]


@pytest.mark.parametrize(
    ("detect", "kept", "fix"),
    [
        ({}, 2159, "write window.look_back: 2160, or detect.season: 0 to do without the cycle"),
        ({}, 2160, ""),
        ({"season": 0}, 300, ""),
        ({"season": 1440, "look_back": 130}, 1559, "write window.look_back: 1560, or detect.season: 0"),
        ({"season": 1440, "look_back": 130}, 1560, ""),
        ({"season": 24, "look_back": 24, "warmup": 8}, 93, "write window.look_back: 94"),
        ({"season": 0}, 119, "write detect.warmup: 119 or less"),
    ],
)
def test_windows_too_short_for_the_detectors_are_found_with_the_fix(detect: dict[str, int], kept: int, fix: str) -> None:
    given = Settings.model_validate({"detect": detect, "window": {"look_back": kept}})
    found = [problem for problem in check(given) if problem.startswith("detect.")]
    assert len(found) == bool(fix)
    assert all(fix in problem for problem in found)
