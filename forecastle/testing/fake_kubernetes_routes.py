"""Routes of a fake cluster: what backends and weights the Gateway API's schemas and Istio's admission webhook accept."""

from __future__ import annotations

from typing import Any

GATEWAY_ROUTE = frozenset({"parentRefs", "hostnames", "rules", "useDefaultGateways"})
VIRTUAL_SERVICE = frozenset({"hosts", "gateways", "http", "tls", "tcp", "exportTo"})
_REF = frozenset({"group", "kind", "name", "namespace", "port", "weight", "filters"})
_ROUTE = frozenset({"destination", "weight", "headers"})
_DESTINATION = frozenset({"host", "subset", "port"})
_MOST_REFS, _MOST_WEIGHT, _ALL = 16, 1_000_000, 100


def wrong_weights(kind: str, spec: dict[str, Any]) -> str:
    """What is wrong with a route's backends, '' when nothing is or the kind is no route."""
    field, refs = ("http", "route") if kind == "VirtualService" else ("rules", "backendRefs")
    if kind not in {"HTTPRoute", "GRPCRoute", "VirtualService"}:
        return ""
    check = _istio if kind == "VirtualService" else _gateway
    found = (
        f"spec.{field}[{i}].{refs}: {wrong}"
        for i, rule in enumerate(spec.get(field) or ())
        if (wrong := check(rule.get(refs) or []))
    )
    return next(found, "")


def _gateway(refs: list[dict[str, Any]]) -> str:
    if len(refs) > _MOST_REFS:
        return f"Too many: {len(refs)}: must have at most {_MOST_REFS} items"
    for ref in refs:
        if wrong := _fields(ref, _REF, "name") or _weight(ref, _MOST_WEIGHT):
            return wrong
    return ""


def _istio(routes: list[dict[str, Any]]) -> str:
    for route in routes:
        to = route.get("destination") or {}
        if wrong := _fields(route, _ROUTE, "destination") or _fields(to, _DESTINATION, "host") or _weight(route, _ALL):
            return wrong
    total = sum(route.get("weight", 0) for route in routes)
    if len(routes) > 1 and total != _ALL:
        return f"total destination weight {total} != {_ALL}"
    return ""


def _fields(found: dict[str, Any], known: frozenset[str], required: str) -> str:
    if unknown := set(found) - known:
        return f'unknown field "{min(unknown)}"'
    return "" if found.get(required) else f"{required}: Required value"


def _weight(found: dict[str, Any], most: int) -> str:
    weight = found.get("weight", 0)
    good = isinstance(weight, int) and not isinstance(weight, bool) and 0 <= weight <= most
    return "" if good else f"weight: Invalid value: {weight!r}: must be a whole number of 0 to {most}"
