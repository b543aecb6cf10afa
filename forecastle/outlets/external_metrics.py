"""Kubernetes asks for our numbers as external metrics, so that a plain HorizontalPodAutoscaler scales by them without KEDA.

The worker is an extension API server: the cluster's API server checks who asks and what they may, and passes the question on
with a certificate of its own front proxy. Without that certificate, and a user named by it, the answer is 401.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from forecastle.errors import ConfigError
from forecastle.outlets.board import Board
from forecastle.outlets.cloudevents import timestamp
from forecastle.outlets.serving import Answered, Request, serving, tls_context
from forecastle.outlets.turn import Turn
from forecastle.settings import ExternalMetricsSettings, OutletSettings
from forecastle.types import Inventory

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
ROOT = f"/apis/{GROUP}/{VERSION}"
REPLICAS, FORECAST = "forecastle_recommended_replicas", "forecastle_forecast"
METRICS = (REPLICAS, FORECAST)
_HEALTH = ("/healthz", "/livez", "/readyz")
_LONGEST_SELECTOR = 2000
_TERMS = re.compile(r"(?:[^,(]|\([^)]*\))+")
_SET = re.compile(r"([\w./-]+)\s+(in|notin)\s*\(([\w.\s,-]*)\)", re.ASCII)
_EQUAL = re.compile(r"([\w./-]+)\s*(==|!=|=)\s*([\w.-]*)", re.ASCII)
_EXISTS = re.compile(r"(!?)\s*([\w./-]+)", re.ASCII)


class Value(NamedTuple):
    """A number and the labels that tell it from others of its metric; ``at`` is when it was decided (ms)."""

    labels: dict[str, str]
    value: float
    at: int


class Catalogue:
    """A loop listener with what can be asked for: recommended replicas, and forecasts of the demands."""

    def __init__(self, board: Board, stock: Inventory, settings: OutletSettings) -> None:
        self._board, self._stock, self._settings = board, stock, settings
        self._turn: Turn | None = None

    def listen(self, turn: Turn) -> None:
        """Keep the newest decided turn."""
        if turn.situation is not None:
            self._turn = turn

    def values(self, metric: str) -> list[Value]:
        """What there is of ``metric`` and is not too old. Raises KeyError for a metric that does not exist."""
        return list({REPLICAS: self._replicas, FORECAST: self._forecasts}[metric]())

    def _replicas(self) -> Iterator[Value]:
        for name in self._stock.workloads:
            advice = self._board.newest(name)
            if advice is not None and self._board.fresh(advice):
                yield Value({"workload": name}, float(advice.replicas), advice.at)

    def _forecasts(self) -> Iterator[Value]:
        """The demand foreseen, for the horizons and quantiles of the settings, of workloads whose recommendation is fresh."""
        turn = self._turn
        if turn is None:
            return
        forecasts, fresh = turn.closed.forecasts, {value.labels["workload"] for value in self._replicas()}
        rows = {key: row for row, key in enumerate(forecasts.keys)}
        demands = [d.key for name in fresh for d in self._stock.workloads[name].demands if d.key in rows]
        for key in demands:
            for horizon_s in self._settings.horizons_s:
                step = round(horizon_s * 1000 / forecasts.step_ms) - 1
                if not 0 <= step < forecasts.values.shape[1]:
                    continue
                for column, quantile in enumerate(forecasts.quantiles):
                    if any(abs(quantile - wanted) < 1e-9 for wanted in self._settings.quantiles):
                        labels = {"workload": key.workload, "metric": key.metric}
                        labels |= {"horizon": f"{horizon_s:g}", "quantile": f"{quantile:g}"}
                        value = float(forecasts.values[rows[key], step, column])
                        yield Value(dict(key.labels) | labels, round(value, 3), forecasts.issued_at)


def quantity(value: float) -> str:
    """``value`` as Kubernetes writes quantities: in ones, milli or micro if that holds it exactly, else in nano."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no quantity")
    for suffix, scale in (("", 1), ("m", 1e3), ("u", 1e6)):
        scaled = value * scale
        if abs(scaled - round(scaled)) <= 1e-9 * max(1.0, abs(scaled)):
            return f"{round(scaled)}{suffix}"
    return f"{round(value * 1e9)}n"


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A label selector as a predicate. Raises Answered 400 for what is none."""
    if len(text) > _LONGEST_SELECTOR:
        raise Answered(400, f"labelSelector: more than {_LONGEST_SELECTOR} characters")
    found = _TERMS.findall(text)
    if ",".join(found) != text:
        raise Answered(400, f"labelSelector: cannot read '{text[:100]}'")
    terms = [_term(term.strip()) for term in found]
    return lambda labels: all(term(labels) for term in terms)


def _term(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.fullmatch(text):
        name, how, words = found[1], found[2], {word.strip() for word in found[3].split(",")}
        return lambda labels: (name in labels and labels[name] in words) == (how == "in")
    if found := _EQUAL.fullmatch(text):
        name, how, word = found[1], found[2], found[3]
        return lambda labels: (labels.get(name) == word) == (how != "!=")
    if found := _EXISTS.fullmatch(text):
        absent, name = bool(found[1]), found[2]
        return lambda labels: (name in labels) != absent
    raise Answered(400, f"labelSelector: cannot read '{text[:100]}'")


class ExternalMetrics:
    """Answers the paths of the API from a `Catalogue`."""

    def __init__(self, catalogue: Catalogue, allowed_names: tuple[str, ...]) -> None:
        self._catalogue, self._names = catalogue, allowed_names

    def admit(self, certificate: Mapping[str, Any] | None, user: str) -> None:
        """Raises Answered 401 unless the front proxy asks on behalf of a user. The TLS layer has verified the certificate."""
        subject = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
        names = [value for name, value in subject if name == "commonName"]
        if not certificate or (self._names and not set(names) & set(self._names)) or not user:
            raise Answered(401, "Unauthorized")

    def answer(self, target: str, accept: str = "") -> dict[str, Any]:
        """The object at ``target`` (path and query), in a form that the header ``accept`` takes. Raises Answered."""
        if not _acceptable(accept):
            raise Answered(406, "only application/json can be given")
        url = urlsplit(target)
        path = url.path.rstrip("/") or "/"
        known = {"/apis": _groups, f"/apis/{GROUP}": _group, ROOT: _resources}
        if path in known:
            return known[path]()
        parts = [unquote(part) for part in path.removeprefix(ROOT).split("/")]
        if not path.startswith(f"{ROOT}/namespaces/") or len(parts) != 4 or not parts[2] or parts[3] not in METRICS:
            raise Answered(404, "the server could not find the requested resource")
        return self._list(parts[3], parse_qs(url.query).get("labelSelector", [""])[0])

    def _list(self, metric: str, text: str) -> dict[str, Any]:
        chosen = selector(text)
        items = [
            {
                "metricName": metric,
                "metricLabels": value.labels,
                "timestamp": timestamp(value.at // 1000 * 1000).replace(".000Z", "Z"),
                "value": quantity(value.value),
            }
            for value in self._catalogue.values(metric)
            if chosen(value.labels)
        ]
        return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}


def _version() -> dict[str, str]:
    return {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}


def _group() -> dict[str, Any]:
    return {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [_version()], "preferredVersion": _version()}


def _groups() -> dict[str, Any]:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}


def _resources() -> dict[str, Any]:
    kind = {"singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
    resources = [{"name": name} | kind for name in METRICS]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": resources}


class _Question(Request):
    def __init__(self, api: ExternalMetrics, tls: ssl.SSLContext, *args: Any) -> None:
        self._api, self.tls = api, tls
        super().__init__(*args)

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        if self.path.partition("?")[0] in _HEALTH:
            self.say(200, "ok")
            return
        try:
            self._api.admit(self.connection.getpeercert(), self.headers.get("x-remote-user", ""))
            answer = self._api.answer(self.path, self.headers.get("accept", ""))
        except Answered as answered:
            self.say(answered.status, _status(answered))
        else:
            self.say(200, answer)

    def _refuse(self) -> None:
        self.say(405, _status(Answered(405, "the server does not allow this method on the requested resource")))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _refuse  # noqa: N815 - the names http.server calls


def _acceptable(header: str) -> bool:
    """Whether plain JSON is among what is accepted; a JSON of another shape (``as=...``) is not."""
    kinds = [kind.strip() for kind in header.split(",") if kind.strip()]
    plain = [kind for kind in kinds if kind.split(";")[0].strip() in {"application/json", "application/*", "*/*"}]
    return not kinds or any("as=" not in kind for kind in plain)


_REASONS = {400: "BadRequest", 401: "Unauthorized", 404: "NotFound", 405: "MethodNotAllowed", 406: "NotAcceptable"}


def _status(answered: Answered) -> dict[str, Any]:
    code = answered.status
    said = {"status": "Failure", "message": str(answered), "reason": _REASONS[code], "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}} | said


@contextmanager
def serving_external_metrics(catalogue: Catalogue, settings: ExternalMetricsSettings) -> Iterator[int]:
    """Answer the cluster's API server while inside; yields the port. Raises ConfigError."""
    name = "outlets.external_metrics"
    tls = tls_context(name, settings.tls_cert, settings.tls_key)
    try:
        tls.load_verify_locations(settings.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{name}.client_ca: cannot be used ({error}); put there requestheader-client-ca-file of the ConfigMap "
            "kube-system/extension-apiserver-authentication"
        ) from error
    tls.verify_mode = ssl.CERT_OPTIONAL
    api = ExternalMetrics(catalogue, settings.allowed_names)
    with serving(name, settings.host, settings.port, partial(_Question, api, tls)) as port:
        yield port
