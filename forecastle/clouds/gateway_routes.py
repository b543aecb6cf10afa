"""What the adapter reads in routes: the rules that name a backend, their weights, and the weights after a shift; all pure.

The others of a rule keep their proportion to one another. Whole numbers forget it (95 to 5 becomes 1 to 0), so it is remembered
on the route, and believed as long as the weights are what it makes them.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from forecastle.clouds.kubernetes_api import Json
from forecastle.clouds.kubernetes_objects import Resource, annotation
from forecastle.clouds.traffic_weights import ALL, step
from forecastle.errors import ConfigError, Denied, NotFound, Unsupported
from forecastle.types import Pool

PROPORTIONS = "forecastle.dev/proportions"
_KEYS = ("context", "namespace", "kind", "name", "api", "backend", "rule")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_BACKEND = re.compile(r"[a-z0-9*]([-a-z0-9.]{0,251}[a-z0-9])?(/[a-zA-Z0-9]([-a-zA-Z0-9.]{0,251}[a-zA-Z0-9])?)?")
_API = re.compile(r"[a-z0-9.]+/v[a-z0-9]+")
KINDS = {
    "HTTPRoute": Resource("gateway.networking.k8s.io/v1", "httproutes", templated=False),
    "GRPCRoute": Resource("gateway.networking.k8s.io/v1", "grpcroutes", templated=False),
    "VirtualService": Resource("networking.istio.io/v1", "virtualservices", templated=False),
}


@dataclass(frozen=True, slots=True)
class Target:
    """`Pool.target`, understood: which backend of which route; ``rule`` narrows it to one rule, by name or number from 0."""

    context: str
    namespace: str
    kind: str
    name: str
    backend: str
    resource: Resource
    rule: str = ""

    @classmethod
    def of(cls, pool: Pool) -> Target:
        """Raises ConfigError that says which key of the pool's target is wrong."""
        given = {"kind": "HTTPRoute", "context": "", "rule": "", "api": "", **pool.target}
        if unknown := sorted(set(given) - set(_KEYS)):
            raise ConfigError(f"pool '{pool.name}': target has no '{unknown[0]}'; it has {', '.join(_KEYS)}")
        for key, pattern in (("namespace", _NAME), ("name", _NAME), ("backend", _BACKEND)):
            if not pattern.fullmatch(given.get(key, "")):
                raise ConfigError(f"pool '{pool.name}': target.{key} is '{given.get(key, '')}'; write the route's {key}")
        if given["kind"] not in KINDS:
            raise ConfigError(f"pool '{pool.name}': target.kind is '{given['kind']}'; write one of {', '.join(KINDS)}")
        if given["api"] and not _API.fullmatch(given["api"]):
            raise ConfigError(f"pool '{pool.name}': target.api is '{given['api']}'; write group/version")
        known = KINDS[given["kind"]]
        resource = Resource(given["api"] or known.api, known.plural, templated=False)
        where = (given["context"], given["namespace"], given["kind"], given["name"])
        return cls(*where, given["backend"], resource, given["rule"])

    @property
    def path(self) -> str:
        """URL path of the route."""
        return self.resource.path(self.namespace, self.name)

    @property
    def istio(self) -> bool:
        """Whether it is a route of Istio: its weights must add up to 100."""
        return self.kind == "VirtualService"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that names the backend: its ``number`` in the route, all ``weights`` and which of them is ``mine``."""

    number: int
    weights: tuple[int, ...]
    mine: int

    @property
    def share(self) -> int:
        """What the backend gets, in percent to the nearest whole one."""
        total = sum(self.weights)
        return (2 * ALL * self.weights[self.mine] + total) // (2 * total) if total else 0

    @property
    def others(self) -> tuple[int, ...]:
        """The weights but the backend's."""
        return self.weights[: self.mine] + self.weights[self.mine + 1 :]


def rules(route: Json, target: Target) -> tuple[Rule, ...]:
    """The rules that name the backend. Raises NotFound where none does, Unsupported where one does more than once."""
    found = []
    for number, rule in enumerate(_rules(route, target)):
        if target.rule not in {"", str(number), rule.get("name", "")}:
            continue
        refs = rule.get("route" if target.istio else "backendRefs") or []
        mine = [i for i, ref in enumerate(refs) if _spelled(ref, target) == target.backend]
        if len(mine) > 1:
            raise Unsupported(f"{target.kind} {target.name}: rule {number} names {target.backend} {len(mine)} times")
        if mine:
            unsaid = 1 if not target.istio else ALL if len(refs) == 1 else 0
            found.append(Rule(number, tuple(ref.get("weight", unsaid) for ref in refs), mine[0]))
    if not found:
        where = f"rule '{target.rule}' of " if target.rule else ""
        raise NotFound(f"{where}{target.kind} {target.namespace}/{target.name} names no backend '{target.backend}'")
    return tuple(found)


def shifted(route: Json, target: Target, goal: int, ramp: int) -> Json:
    """The route's merge patch, without our mark, that brings the backend to ``goal`` percent, or ``ramp`` points nearer.

    Empty where it is so already. Raises Denied where a rule has nobody else to take the traffic.
    """
    changed, remembered = copy.deepcopy(_rules(route, target)), _remembered(route)
    kept: dict[str, list[int]] = remembered.get(target.backend, {})
    moved = False
    for rule in rules(route, target):
        weights, parts = _moved(rule, step(rule.share, goal, ramp), kept.get(str(rule.number)), istio=target.istio)
        if weights == list(rule.weights):
            continue
        if not parts:
            text = f"rule {rule.number} of {target.kind} {target.name} sends all it has to {target.backend}"
            raise Denied(f"{text}; add another backend to it, or name another rule in target.rule")
        moved, kept[str(rule.number)] = True, parts
        for ref, weight in zip(changed[rule.number]["route" if target.istio else "backendRefs"], weights, strict=True):
            ref["weight"] = weight
    if not moved:
        return {}
    memory = json.dumps({**remembered, target.backend: kept}, sort_keys=True, separators=(",", ":"))
    field = "http" if target.istio else "rules"
    return {"metadata": {"annotations": {PROPORTIONS: memory}}, "spec": {field: changed}}


def share(route: Json, target: Target) -> int:
    """What the backend gets of the rules that name it, in percent: their mean."""
    shares = [rule.share for rule in rules(route, target)]
    return round(sum(shares) / len(shares))


def accepted(route: Json) -> bool:
    """Whether every gateway that said anything about the route accepted it and found its backends."""
    told = [c for parent in (route.get("status") or {}).get("parents") or () for c in parent.get("conditions") or ()]
    return not any(c["status"] == "False" for c in told if c["type"] in {"Accepted", "ResolvedRefs"})


def apportioned(total: int, parts: Sequence[int]) -> list[int]:
    """``total`` in whole numbers in the proportion of ``parts``, by largest remainder; even where all parts are 0."""
    parts = parts if sum(parts) else [1] * len(parts)
    every = [divmod(total * part, sum(parts)) for part in parts]
    shares, left = [share for share, _ in every], total - sum(share for share, _ in every)
    for i in sorted(range(len(parts)), key=lambda i: (-every[i][1], i))[:left]:
        shares[i] += 1
    return shares


def _moved(rule: Rule, percent: int, kept: list[int] | None, *, istio: bool) -> tuple[list[int], list[int]]:
    """The weights with the backend at ``percent``, and the proportion of the others that was kept; empty without others."""
    total, others = sum(rule.weights), list(rule.others)
    if percent == rule.share and rule.weights[rule.mine] * ALL == percent * total:
        return list(rule.weights), others
    if not others:
        return [], []
    explained = kept is not None and len(kept) == len(others) and apportioned(sum(others), kept) == others
    parts = kept if kept is not None and explained else others
    total = ALL if istio else max(total, ALL)
    mine = _percent(percent, total)
    weights = apportioned(total - mine, parts)
    weights.insert(rule.mine, mine)
    return weights, parts


def _percent(percent: int, total: int) -> int:
    """So many percent of ``total``, to the nearest whole number."""
    return (2 * total * percent + ALL) // (2 * ALL)


def _rules(route: Json, target: Target) -> list[Json]:
    found: list[Json] = route["spec"].get("http" if target.istio else "rules") or []
    return found


def _spelled(ref: Json, target: Target) -> str:
    """A backend as `Target.backend` names it: ``name`` or ``namespace/name``; of Istio ``host`` or ``host/subset``."""
    if target.istio:
        to = ref.get("destination") or {}
        return f"{to.get('host', '')}/{to['subset']}" if to.get("subset") else str(to.get("host", ""))
    return f"{ref['namespace']}/{ref['name']}" if ref.get("namespace") else str(ref["name"])


def _remembered(route: Json) -> dict[str, dict[str, list[int]]]:
    try:
        found = json.loads(annotation(route, PROPORTIONS) or "{}")
        return {backend: {number: [int(w) for w in parts] for number, parts in of.items()} for backend, of in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
