"""External metrics of Kubernetes: discovery, values and selectors as the API server and the HPA ask for them, over real TLS."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from outlet_worlds import STOCK, plan, tick, turned
from ruamel.yaml import YAML

from forecastle.errors import ConfigError
from forecastle.outlets.board import Board
from forecastle.outlets.external_metrics import Catalogue, quantity, selector, serving_external_metrics
from forecastle.outlets.serving import Answered
from forecastle.runtime.clocks import EventClock
from forecastle.settings import ExternalMetricsSettings, OutletSettings, Settings

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
ROOT = "/apis/external.metrics.k8s.io/v1beta1"
REPLICAS = f"{ROOT}/namespaces/shop/forecastle_recommended_replicas"
FORECAST = f"{ROOT}/namespaces/shop/forecastle_forecast"
USER = {"x-remote-user": "system:serviceaccount:kube-system:horizontal-pod-autoscaler"}


class Keys(NamedTuple):
    """Folder of PEM files: NAME.crt and NAME.key."""

    folder: Path

    def __getitem__(self, name: Any) -> str:
        return str(self.folder / str(name))

    def make(self, name: str, subject: str, *, signer: str = "", extra: str = "") -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        command += ["-subj", subject, "-out", self[f"{name}.crt"], "-keyout", self[f"{name}.key"]]
        command += ["-addext", extra] if extra else []
        command += ["-CA", self[f"{signer}.crt"], "-CAkey", self[f"{signer}.key"]] if signer else []
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("pki"))
    leaf = "basicConstraints=CA:FALSE"
    made.make("serving", "/CN=localhost", extra="subjectAltName=DNS:localhost")
    for ca in ("proxy-ca", "users-ca"):
        made.make(ca, f"/CN={ca}")
    made.make("proxy", "/O=x/CN=front-proxy-client", signer="proxy-ca", extra=leaf)
    made.make("other-name", "/CN=somebody", signer="proxy-ca", extra=leaf)
    made.make("other-ca", "/CN=front-proxy-client", signer="users-ca", extra=leaf)
    return made


class Api:
    """A served API over a board that knows what was told."""

    def __init__(self, keys: Keys, opened: ExitStack, **changes: Any) -> None:
        self.keys, self.clock = keys, EventClock(tick(1))
        names = {"tls_cert": keys["serving.crt"], "tls_key": keys["serving.key"], "client_ca": keys["proxy-ca.crt"]}
        settings = ExternalMetricsSettings.model_validate(names | {"host": "127.0.0.1"} | changes)
        outlets = OutletSettings(stale_s=300, horizons_s=(60.0, 300.0, 86_400.0), quantiles=(0.5, 0.9))
        self.board = Board(self.clock, outlets.stale_s)
        self.catalogue = Catalogue(self.board, STOCK, outlets)
        self.port = opened.enter_context(serving_external_metrics(self.catalogue, settings))

    def tell(self, number: int = 1, **recommended: int) -> None:
        for listen in (self.catalogue.listen, self.board.listen):
            listen(turned(tick(number), plan(tick(number), recommended=recommended)))

    def ask(
        self, path: str, headers: dict[str, str] | None = None, *, who: str | None = "proxy", method: str = "GET"
    ) -> tuple[int, Any]:
        context = ssl.create_default_context(cafile=self.keys["serving.crt"])
        if who:
            context.load_cert_chain(self.keys[f"{who}.crt"], self.keys[f"{who}.key"])
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=context)
        try:
            connection.request(method, path, headers=USER if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()


@pytest.fixture
def make(keys: Keys) -> Iterator[Callable[..., Api]]:
    with ExitStack() as opened:
        yield lambda **changes: Api(keys, opened, **changes)


@pytest.fixture
def api(make: Callable[..., Api]) -> Api:
    made = make()
    made.tell(shop=6, mail=2)
    return made


# --- what is told ---------------------------------------------------------------------------------------------------


def test_the_newest_recommendation_is_an_external_metric(api: Api) -> None:
    status, found = api.ask(f"{REPLICAS}?labelSelector=workload%3Dshop")
    assert status == 200
    assert found == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "forecastle_recommended_replicas",
                "metricLabels": {"workload": "shop"},
                "timestamp": "2025-10-09T08:55:00Z",
                "value": "6",
            }
        ],
    }


def test_it_follows_what_is_decided(api: Api) -> None:
    api.tell(2, shop=9)
    api.clock.advance(tick(2))
    _, found = api.ask(REPLICAS)
    assert {item["metricLabels"]["workload"]: item["value"] for item in found["items"]} == {"shop": "9", "mail": "2"}


def test_one_that_is_too_old_is_no_number(api: Api) -> None:
    """An empty list makes the HPA keep what it has; an old number would scale by it."""
    api.clock.advance(tick(7))
    assert api.ask(REPLICAS)[1]["items"] == []
    assert api.ask(FORECAST)[1]["items"] == []


def test_before_the_first_decision_there_is_nothing(make: Callable[..., Api]) -> None:
    silent = make()
    assert silent.ask(REPLICAS) == silent.ask(REPLICAS, USER)
    assert silent.ask(REPLICAS)[1]["items"] == []
    assert silent.ask(FORECAST)[1]["items"] == []


def test_forecasts_by_workload_horizon_and_quantile(api: Api) -> None:
    query = "labelSelector=workload%3Dshop%2Chorizon%3D300%2Cquantile%3D0.9"
    _, found = api.ask(f"{FORECAST}?{query}")
    (item,) = found["items"]
    assert item["value"] == "52"  # row 0, step 4, column 2 of the world's forecasts
    labels = {"workload": "shop", "metric": "rps", "site": "fra", "horizon": "300", "quantile": "0.9"}
    assert item["metricLabels"] == labels


def test_only_configured_horizons_and_quantiles_that_exist(api: Api) -> None:
    _, found = api.ask(FORECAST)
    told = {
        (i["metricLabels"]["workload"], i["metricLabels"]["horizon"], i["metricLabels"]["quantile"]) for i in found["items"]
    }
    assert told == {(w, h, q) for w in ("shop", "mail") for h in ("60", "300") for q in ("0.5", "0.9")}


# --- what the API server looks for ----------------------------------------------------------------------------------


def test_discovery_leads_from_the_root_to_the_metrics(api: Api) -> None:
    _, groups = api.ask("/apis")
    (group,) = groups["groups"]
    assert (groups["kind"], group["name"]) == ("APIGroupList", "external.metrics.k8s.io")
    _, same = api.ask(f"/apis/{group['name']}")
    assert same == group
    _, resources = api.ask(f"/apis/{group['preferredVersion']['groupVersion']}")
    assert resources["kind"] == "APIResourceList"
    names = [resource["name"] for resource in resources["resources"]]
    assert {api.ask(f"{ROOT}/namespaces/any/{name}")[0] for name in names} == {200}
    assert all(r["namespaced"] and r["verbs"] == ["get"] for r in resources["resources"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/apis/custom.metrics.k8s.io/v1beta1",
        "/apis/external.metrics.k8s.io/v1",
        f"{ROOT}/namespaces/shop",
        f"{ROOT}/namespaces//forecastle_forecast",
        f"{ROOT}/namespaces/shop/other_metric",
        f"{ROOT}/namespaces/shop/forecastle_forecast/more",
        f"{ROOT}/forecastle_forecast",
        "/openapi/v2",
    ],
)
def test_what_does_not_exist_is_a_status_that_says_so(api: Api, path: str) -> None:
    status, found = api.ask(path)
    assert (status, found["kind"], found["reason"], found["code"]) == (404, "Status", "NotFound", 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(api: Api, method: str) -> None:
    assert api.ask(REPLICAS, method=method)[1]["reason"] == "MethodNotAllowed"


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("", 200),
        ("*/*", 200),
        ("application/json", 200),
        ("application/vnd.kubernetes.protobuf, application/json", 200),
        ("application/json;q=0.9", 200),
        ("application/vnd.kubernetes.protobuf", 406),
        ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", 406),
        ("application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io,application/json", 200),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 200),
    ],
)
def test_plain_json_is_what_there_is(api: Api, accept: str, status: int) -> None:
    assert api.ask("/apis", USER | {"accept": accept})[0] == status


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/apis", ROOT, REPLICAS, FORECAST, "/other"])
@pytest.mark.parametrize("who", [None, "other-name"])
def test_without_the_front_proxys_certificate_nothing_is_said(api: Api, path: str, who: str | None) -> None:
    status, found = api.ask(path, who=who)
    assert (status, found["kind"], found["reason"]) == (401, "Status", "Unauthorized")


@pytest.mark.parametrize("headers", [{}, {"x-remote-user": ""}, {"x-remote-group": "system:masters"}])
def test_the_front_proxy_has_to_name_the_user(api: Api, headers: dict[str, str]) -> None:
    assert api.ask(REPLICAS, headers)[0] == 401


def test_a_certificate_of_another_ca_is_no_certificate(api: Api) -> None:
    """The right name does not help; the handshake ends (the client may notice while it reads)."""
    with pytest.raises((ssl.SSLError, OSError)):
        api.ask(REPLICAS, who="other-ca")


def test_with_no_names_configured_any_name_of_the_ca_will_do(make: Callable[..., Api]) -> None:
    assert make(allowed_names=()).ask(REPLICAS, who="other-name")[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz?verbose"])
def test_the_kubelet_may_ask_how_we_are(api: Api, path: str) -> None:
    assert api.ask(path, {}, who=None) == (200, "ok")


def test_files_that_cannot_be_used_are_named(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    for changes, said in (
        ({"tls_cert": str(tmp_path / "absent")}, r"external_metrics\.tls_cert"),
        ({"tls_key": keys["proxy.key"]}, r"external_metrics\.tls_cert"),
        ({"client_ca": str(tmp_path / "bad.pem")}, "requestheader-client-ca-file"),
        ({"client_ca": ""}, "requestheader-client-ca-file"),
    ):
        with pytest.raises(ConfigError, match=said), ExitStack() as opened:
            Api(keys, opened, **changes)


# --- selectors ------------------------------------------------------------------------------------------------------

LABELS = {"workload": "shop", "site": "fra", "app.kubernetes.io/name": "web"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("workload=shop", True),
        ("workload==shop", True),
        ("workload = shop", True),
        ("workload!=shop", False),
        ("workload=mail", False),
        ("absent=x", False),
        ("absent!=x", True),
        ("workload", True),
        ("!workload", False),
        ("!absent", True),
        ("absent", False),
        ("workload in (mail,shop)", True),
        ("workload in (mail, shop)", True),
        ("workload in (mail)", False),
        ("workload notin (mail)", True),
        ("workload notin (shop,mail)", False),
        ("absent notin (x)", True),
        ("absent in (x)", False),
        ("workload=shop,site=fra", True),
        ("workload=shop,site=ams", False),
        ("workload in (shop),site notin (ams,par),!absent", True),
        ("app.kubernetes.io/name=web", True),
        ("absent=", False),
    ],
)
def test_selectors_mean_what_kubernetes_means(text: str, fits: bool) -> None:
    assert selector(text)(LABELS) is fits


@pytest.mark.parametrize(
    "text", [",", "a=b,", ",a=b", "a=b,,c=d", "a in (b", "a in b)", "a b", "a>5", "(a)", "=", "a=b=c", "a in", "x" * 2001]
)
def test_what_is_no_selector_is_a_bad_request(api: Api, text: str) -> None:
    with pytest.raises(Answered) as caught:
        selector(text)
    assert caught.value.status == 400


def test_a_bad_selector_is_told_as_a_status(api: Api) -> None:
    status, found = api.ask(f"{REPLICAS}?labelSelector=a%20b")
    assert (status, found["reason"]) == (400, "BadRequest")
    assert "cannot read 'a b'" in found["message"]


@hypothesis(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y"])), st.sampled_from("abcd"), st.sampled_from("xyz"))
def test_each_operator_is_the_opposite_of_its_opposite(labels: dict[str, str], name: str, word: str) -> None:
    for one, other in (("{}={}", "{}!={}"), ("{} in ({})", "{} notin ({})")):
        assert selector(one.format(name, word))(labels) is not selector(other.format(name, word))(labels)
    assert selector(name)(labels) is not selector(f"!{name}")(labels)


# --- quantities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (6.0, "6"),
        (1.5, "1500m"),
        (0.001, "1m"),
        (-2.25, "-2250m"),
        (1e9, "1000000000"),
        (1e15, "1000000000000000"),
        (0.000_25, "250u"),
        (1 / 3, "333333333n"),
        (51.3, "51300m"),
    ],
)
def test_quantities_as_kubernetes_writes_them(value: float, text: str) -> None:
    assert quantity(value) == text


@hypothesis(max_examples=40, deadline=None)
@given(st.floats(-1e15, 1e15))
def test_a_quantity_reads_as_the_number_it_was(value: float) -> None:
    text = quantity(value)
    found = re.fullmatch(r"(-?\d+)([mun]?)", text)
    assert found
    read = Decimal(found[1]).scaleb({"": 0, "m": -3, "u": -6, "n": -9}[found[2]])
    assert abs(float(read) - value) <= max(1e-9, 2e-9 * abs(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_no_quantity(value: float) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(value)


# --- what we ship ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["external-metrics.yaml", "hpa-example.yaml"])
def test_every_object_we_ship_is_valid(name: str) -> None:
    found = list(YAML(typ="safe").load_all(DEPLOY / name))
    assert found
    for one in found:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_the_objects_fit_each_other_and_the_code() -> None:
    found = {one["kind"]: one for one in YAML(typ="safe").load_all(DEPLOY / "external-metrics.yaml")}
    service, api_service = found["Service"], found["APIService"]["spec"]
    assert api_service["service"]["name"] == service["metadata"]["name"]
    assert f"/apis/{api_service['group']}/{api_service['version']}" == ROOT
    assert not api_service.get("insecureSkipTLSVerify")
    outlets = YAML(typ="safe").load(found["ConfigMap"]["data"]["outlets.yaml"])
    chosen = Settings.model_validate(outlets).outlets.external_metrics
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [chosen.port]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (chosen.tls_cert, chosen.tls_key, chosen.client_ca):
        assert any(path.startswith(f"{mount}/") for mount in mounts)
    hpa = YAML(typ="safe").load(DEPLOY / "hpa-example.yaml")
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]
    assert REPLICAS.endswith(f"/{metric['name']}")
    assert set(metric["selector"]["matchLabels"]) == {"workload"}
