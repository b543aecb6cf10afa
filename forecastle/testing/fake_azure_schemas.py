"""Which requests Azure Resource Manager knows, and what their bodies may hold: facts of the published REST API, our words.

Only what the adapter could send is here: the properties that a node pool is read with are written back as they were.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

COMPUTE, APPS, AKS = "2026-04-01", "2025-01-01", "2026-05-01"
_GROUP = r"/subscriptions/(?P<sub>[0-9a-f-]{36})/resourceGroups/[-\w.()]{1,90}/providers"
_SET = rf"{_GROUP}/Microsoft\.Compute/virtualMachineScaleSets/[-\w]{{1,64}}"
_APP = rf"{_GROUP}/Microsoft\.App/containerApps/[a-z][-a-z0-9]{{0,30}}[a-z0-9]"
_POOL = rf"{_GROUP}/Microsoft\.ContainerService/managedClusters/[-\w]{{1,63}}/agentPools/[a-z][a-z0-9]{{0,11}}"
_OPERATION = r"/subscriptions/(?P<sub>[0-9a-f-]{36})/providers/(?P<provider>[\w.]+)/locations/westeurope/\w+/(?P<id>[-0-9a-f]+)"


def _object(required: tuple[str, ...] = (), **properties: Json) -> Json:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


_TEXT: Json = {"type": "string", "minLength": 1}
_TAGS: Json = {
    "type": "object",
    "maxProperties": 50,
    "propertyNames": {"pattern": r"^[^<>%&\\?/]{1,512}$"},
    "additionalProperties": {"type": "string", "maxLength": 256},
}
_IMAGE = _object(
    (),
    publisher=_TEXT,
    offer=_TEXT,
    sku=_TEXT,
    version=_TEXT,
    id={"type": "string", "pattern": "^/subscriptions/"},
    sharedGalleryImageId={"type": "string", "pattern": "^/(?i:sharedGalleries)/"},
    communityGalleryImageId={"type": "string", "pattern": "^/(?i:communityGalleries)/"},
)
SET_UPDATE = _object(
    (),
    tags=_TAGS,
    sku=_object(("capacity",), name=_TEXT, tier=_TEXT, capacity={"type": "integer", "minimum": 0, "maximum": 1000}),
    properties=_object((), virtualMachineProfile=_object((), storageProfile=_object((), imageReference=_IMAGE))),
)
_REPLICAS: Json = {"type": "integer", "minimum": 0, "maximum": 1000}
APP_UPDATE = _object(
    (),
    tags=_TAGS,
    properties=_object(
        (),
        template=_object(
            (),
            revisionSuffix={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40},
            scale=_object((), minReplicas=_REPLICAS, maxReplicas=_REPLICAS),
            containers={
                "type": "array",
                "minItems": 1,
                "items": {"type": "object", "required": ["name", "image"], "properties": {"name": _TEXT, "image": _TEXT}},
            },
        ),
    ),
)
POOL_PUT = _object(
    ("properties",),
    properties=_object(
        ("count", "vmSize"),
        count={"type": "integer", "minimum": 0, "maximum": 1000},
        vmSize=_TEXT,
        mode={"enum": ["System", "User", "Gateway"]},
        osType={"enum": ["Linux", "Windows"]},
        type={"enum": ["VirtualMachineScaleSets", "AvailabilitySet", "VirtualMachines"]},
        orchestratorVersion=_TEXT,
        enableAutoScaling={"type": "boolean"},
        powerState=_object((), code={"enum": ["Running", "Stopped"]}),
        tags=_TAGS,
        nodeLabels={"type": "object"},
    ),
)


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request: what it needs (``action`` of a role), its api-version, queries and the schema of its body."""

    name: str
    method: str
    path: re.Pattern[str]
    action: str
    api: str
    queries: frozenset[str] = frozenset()
    body: Json | None = None


def _route(said: str, path: str, action: str, api: str, queries: str = "", body: Json | None = None) -> Route:  # noqa: PLR0917 - a table's columns
    name, method = said.split(" ")
    return Route(name, method, re.compile(path), action, api, frozenset(queries.split()), body)


_VM = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
_ONE = rf"{_SET}/virtualMachines/(?P<one>\d+)"
ROUTES = (
    _route("set GET", _SET, "Microsoft.Compute/virtualMachineScaleSets/read", COMPUTE, "$expand"),
    _route("set PATCH", _SET, "Microsoft.Compute/virtualMachineScaleSets/write", COMPUTE, body=SET_UPDATE),
    _route("instances GET", rf"{_SET}/virtualMachines", f"{_VM}/read", COMPUTE, "$expand $filter $select $skiptoken"),
    _route("instance DELETE", _ONE, f"{_VM}/delete", COMPUTE, "forceDeletion"),
    *(_route(f"{verb} POST", f"{_ONE}/{verb}", f"{_VM}/{verb}/action", COMPUTE) for verb in ("restart", "start", "deallocate")),
    _route("reimage POST", f"{_ONE}/reimage", f"{_VM}/reimage/action", COMPUTE, body={"type": "object"}),
    _route("app GET", _APP, "Microsoft.App/containerApps/read", APPS),
    _route("app PATCH", _APP, "Microsoft.App/containerApps/write", APPS, body=APP_UPDATE),
    _route("revision GET", rf"{_APP}/revisions/(?P<one>[-a-z0-9]+)", "Microsoft.App/containerApps/revisions/read", APPS),
    _route("pool GET", _POOL, "Microsoft.ContainerService/managedClusters/agentPools/read", AKS),
    _route("pool PUT", _POOL, "Microsoft.ContainerService/managedClusters/agentPools/write", AKS, body=POOL_PUT),
    _route(
        "machines GET",
        rf"{_POOL}/machines",
        "Microsoft.ContainerService/managedClusters/agentPools/machines/read",
        AKS,
        "$skiptoken",
    ),
    _route("operation GET", _OPERATION, "", "", "monitor"),
)
OPERATIONS = {
    "Microsoft.Compute": ("operations", COMPUTE, "Microsoft.Compute/locations/operations/read"),
    "Microsoft.App": ("containerappOperationStatuses", APPS, "Microsoft.App/locations/containerappOperationStatuses/read"),
    "Microsoft.ContainerService": ("operations", AKS, "Microsoft.ContainerService/locations/operations/read"),
}
