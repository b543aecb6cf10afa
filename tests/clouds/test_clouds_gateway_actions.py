"""What a shift does to the weights of each kind of route, what it leaves alone, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_worlds import ISTIO, POOL, Edge, edge, http_route, pool_of, ref, to, virtual_service

from forecastle.clouds.gateway_routes import Target, apportioned
from forecastle.errors import ConfigError, Conflict, Denied, NotFound, Unsupported
from forecastle.testing.fake_kubernetes_routes import wrong_weights
from forecastle.types import Kind

AMS = pool_of(backend="web-ams")
REGIONS = [ref("web-fra", 100), ref("web-ams", 95), ref("web-lon", 5)]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Edge]:
    with edge(tmp_path) as found:
        yield found


@pytest.mark.parametrize("percent", [0, 1, 33, 50, 99, 100])
def test_a_backend_gets_the_percent_and_the_other_gets_the_rest(here: Edge, percent: int) -> None:
    here.shift(percent)
    assert here.weights() == [percent, 100 - percent]
    assert here.seen().version.startswith(f"{percent}%-")
    assert here.seen(AMS).version.startswith(f"{100 - percent}%-")


def test_nothing_but_weights_and_our_mark_changes(here: Edge) -> None:
    before = here.found()
    here.shift(30)
    after = here.found()
    for refs in (found["spec"]["rules"][0]["backendRefs"] for found in (before, after)):
        for each in refs:
            each.pop("weight")
    assert after["spec"] == before["spec"]
    assert set(after["metadata"]["annotations"]) == {"forecastle.dev/last-actions", "forecastle.dev/proportions"}


def test_the_others_keep_their_proportion_and_the_sum_is_kept(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra", 500), ref("web-ams", 450), ref("web-lon", 50)])) as here:
        here.shift(20)
        assert here.weights() == [200, 720, 80]


def test_a_sum_too_small_for_percent_becomes_a_hundred(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra"), ref("web-ams")])) as here:
        assert here.shift(50).already
        here.shift(30)
        assert here.weights() == [30, 70]


def test_a_proportion_survives_weights_too_small_for_it(tmp_path: Path) -> None:
    with edge(tmp_path, http_route(REGIONS)) as here:
        for percent in (99, 100, 98, 0):
            here.shift(percent)
        assert here.weights() == [0, 190, 10]


def test_a_proportion_that_somebody_changed_since_is_the_new_one(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra", 0), ref("web-ams", 95), ref("web-lon", 5)])) as here:
        here.shift(50)
        route = here.found()["spec"]["rules"]
        route[0]["backendRefs"] = [ref("web-fra", 50), ref("web-ams", 10), ref("web-lon", 40)]
        here.cluster.change("HTTPRoute", "shop", "web", {"spec": {"rules": route}})
        here.shift(0)
        assert here.weights() == [0, 20, 80]


def test_backends_that_never_had_a_weight_share_alike(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra", 100), ref("web-ams", 0), ref("web-lon", 0)])) as here:
        here.shift(0)
        assert here.weights() == [0, 50, 50]


def test_a_memory_that_is_not_ours_is_not_believed(tmp_path: Path) -> None:
    for i, text in enumerate(("{", "[1]", '{"web-fra": {"0": [1, 2, 3]}}', '{"web-fra": 7}', '{"web-fra": {"0": ["x"]}}')):
        (tmp_path / str(i)).mkdir()
        with edge(tmp_path / str(i), http_route(REGIONS)) as here:
            annotations = {"forecastle.dev/proportions": text}
            here.cluster.change("HTTPRoute", "shop", "web", {"metadata": {"annotations": annotations}})
            here.shift(0)
            assert here.weights() == [0, 190, 10]


def test_every_rule_that_names_the_backend_is_shifted_and_no_other(tmp_path: Path) -> None:
    both, other = [ref("web-fra", 100), ref("web-ams", 0)], [ref("docs", 1), ref("docs-old", 3)]
    with edge(tmp_path, http_route(both, other, both)) as here:
        here.shift(40)
        assert [here.weights(rule) for rule in range(3)] == [[40, 60], [1, 3], [40, 60]]


@pytest.mark.parametrize("rule", ["r1", "1"])
def test_a_rule_can_be_chosen(tmp_path: Path, rule: str) -> None:
    both = [ref("web-fra", 100), ref("web-ams", 0)]
    with edge(tmp_path, http_route(both, both)) as here:
        here.shift(40, pool=pool_of(rule=rule))
        assert [here.weights(0), here.weights(1)] == [[100, 0], [40, 60]]


def test_a_backend_of_another_namespace_is_another_backend(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra", 100, namespace="fra"), ref("web-fra", 0)])) as here:
        here.shift(40, pool=pool_of(backend="fra/web-fra"))
        assert here.weights() == [40, 60]
        here.shift(0)
        assert here.weights() == [100, 0]


def test_istio_weights_add_up_to_a_hundred(tmp_path: Path) -> None:
    with edge(tmp_path, virtual_service([to("fra", 34), to("ams", 33), to("lon", 33)])) as here:
        for percent in (50, 1, 0, 100, 33):
            here.shift(percent, pool=ISTIO)
            assert sum(weight or 0 for weight in here.weights(kind="VirtualService")) == 100
            assert here.weights(kind="VirtualService")[0] == percent
        assert here.found("VirtualService")["spec"]["http"][0]["timeout"] == "3s"


def test_a_ramp_moves_so_many_points_each_time_it_is_asked(here: Edge) -> None:
    seen = []
    while not here.shift(10, ramp=40).already:
        seen.append(here.weights())
    assert seen == [[60, 40], [20, 80], [10, 90]]


def test_a_step_of_a_ramp_is_not_taken_twice_under_one_token(here: Edge) -> None:
    action, cloud = here.action(10), here.connect(ramp=40)
    assert [cloud.apply(action, POOL, token=action.id).already for _ in range(3)] == [False, True, True]
    assert here.weights() == [60, 40]


def test_what_is_so_already_is_not_written(here: Edge) -> None:
    before = here.found()
    assert here.shift(100).already
    assert here.shift("0", pool=AMS).already
    assert here.found() == before


def test_a_backend_alone_in_its_rule_is_not_emptied(tmp_path: Path) -> None:
    both = [ref("web-fra", 100), ref("web-ams", 0)]
    with edge(tmp_path, http_route(both, [ref("web-fra")])) as here:
        before = here.found()
        with pytest.raises(Denied, match="rule 1 of HTTPRoute web sends all it has to web-fra"):
            here.shift(0)
        assert here.found() == before
        here.shift(0, pool=pool_of(rule="0"))
        assert here.weights() == [0, 100]


def test_a_change_of_the_route_is_a_conflict_and_one_of_its_status_is_not(here: Edge) -> None:
    action = here.action(30)
    conditions = [{"type": "Accepted", "status": "True"}]
    with here.cluster.inside() as store:
        key = next(key for key, _ in store.every("HTTPRoute"))
        store.update(key, lambda o: {**o, "status": {"parents": [{"conditions": conditions}]}}, status=True)
    assert not here.cloud.apply(action, POOL, token=action.id).already
    late = here.action(50)
    here.shift(20)
    with pytest.raises(Conflict, match="observe and plan again"):
        here.cloud.apply(late, POOL, token=late.id)
    assert here.weights() == [20, 80]


@pytest.mark.parametrize(
    ("kind", "status", "ready"), [("Accepted", "True", 1), ("Accepted", "False", 0), ("ResolvedRefs", "False", 0)]
)
def test_a_route_that_a_gateway_refused_is_not_ready(here: Edge, kind: str, status: str, ready: int) -> None:
    assert here.seen().ready == 1
    with here.cluster.inside() as store:
        key = next(key for key, _ in store.every("HTTPRoute"))
        parents = [{"conditions": [{"type": kind, "status": status}]}]
        store.update(key, lambda o: {**o, "status": {"parents": parents}}, status=True)
    assert here.seen().ready == ready


def test_dry_run_is_checked_and_not_kept(here: Edge) -> None:
    before = here.found()
    receipt = here.shift(30, dry_run=True)
    assert (receipt.dry_run, receipt.already) == (True, False)
    assert here.found() == before


def test_preview_tells_before_and_after_without_a_request(here: Edge) -> None:
    cloud, seen, action = here.cloud, here.seen(), here.action(30)
    calls = len(here.cluster.calls)
    assert (cloud.preview(action, seen).before, cloud.preview(action, seen).after) == ("100", "30")
    assert cloud.preview(here.action(100), seen).noop
    assert len(here.cluster.calls) == calls + 1  # of the action made above, which observes


@pytest.mark.parametrize("desired", [-1, 101, "half", "", "50%"])
def test_a_weight_that_is_no_percent_is_unsupported(here: Edge, desired: int | str) -> None:
    with pytest.raises(Unsupported, match="ask for whole percent"):
        here.shift(desired)


def test_a_route_has_no_replicas_and_no_other_kinds(here: Edge) -> None:
    for kind, replica in ((Kind.SHIFT, "web-1"), (Kind.DRAIN, "")):
        with pytest.raises(Unsupported, match="SHIFT the pool"):
            here.cloud.apply(here.action(0, kind=kind, replica=replica), POOL, token="t")


def test_what_is_not_there_is_not_found(here: Edge) -> None:
    for target, words in (
        ({"name": "nope"}, "not found"),
        ({"backend": "nope"}, "names no backend"),
        ({"rule": "9"}, "rule '9'"),
    ):
        with pytest.raises(NotFound, match=words):
            here.seen(pool_of(**target))


def test_a_rule_that_names_the_backend_twice_is_unsupported(tmp_path: Path) -> None:
    twice = http_route([ref("web-fra", 1), ref("web-fra", 1, port=81)])
    with edge(tmp_path, twice) as here, pytest.raises(Unsupported, match="names web-fra 2 times"):
        here.seen()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"backend": ""}, "target.backend is ''"),
        ({"backend": "a/b/c"}, "write the route's backend"),
        ({"namespace": "../x"}, "write the route's namespace"),
        ({"name": "a?b"}, "write the route's name"),
        ({"kind": "Ingress"}, "HTTPRoute, GRPCRoute, VirtualService"),
        ({"api": "v1"}, "write group/version"),
        ({"weight": "5"}, "has no 'weight'"),
    ],
)
def test_a_wrong_target_says_what_to_write(target: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Target.of(pool_of(**target))


@pytest.mark.parametrize(("options", "words"), [({"ramp": 0}, "1 to 100"), ({"timeout_s": 0}, "above 0")])
def test_a_wrong_option_says_what_to_write(here: Edge, options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        here.connect(**options)


def test_another_version_of_the_api_can_be_named() -> None:
    assert Target.of(pool_of(kind="VirtualService", api="networking.istio.io/v1beta1")).path.startswith(
        "/apis/networking.istio.io/v1beta1/namespaces/shop/virtualservices/"
    )


@pytest.mark.parametrize(
    ("total", "parts", "shares"), [(10, [1, 1, 1], [4, 3, 3]), (5, [0, 0], [3, 2]), (0, [3, 4], [0, 0]), (1, [95, 5], [1, 0])]
)
def test_shares_are_whole_and_lose_nothing(total: int, parts: list[int], shares: list[int]) -> None:
    assert apportioned(total, parts) == shares


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        ("HTTPRoute", {"backendRefs": [ref("a", -1)]}, "0 to 1000000"),
        ("HTTPRoute", {"backendRefs": [ref("a", 1)] * 17}, "at most 16"),
        ("HTTPRoute", {"backendRefs": [{"port": 1}]}, "name: Required"),
        ("HTTPRoute", {"backendRefs": [ref("a", subset="x")]}, 'unknown field "subset"'),
        ("GRPCRoute", {"backendRefs": [{"name": "a", "weight": "1"}]}, "whole number"),
        ("VirtualService", {"route": [to("a", 50), to("b", 51)]}, "total destination weight 101"),
        ("VirtualService", {"route": [to("a", 101)]}, "0 to 100"),
        ("VirtualService", {"route": [{"weight": 100}]}, "destination: Required"),
    ],
)
def test_the_cluster_of_the_tests_refuses_what_a_real_one_does(kind: str, rule: dict[str, object], words: str) -> None:
    field = "http" if kind == "VirtualService" else "rules"
    assert words in wrong_weights(kind, {field: [rule]})
    assert wrong_weights("Deployment", {field: [rule]}) == ""
