"""Which IAM permissions each method needs, from the references of the APIs."""

from __future__ import annotations

from forecastle.testing.fake_gcp_discovery import Call

_READ, _WRITE = "compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update"
_VERBS = {"get": _READ, "listManagedInstances": _READ, "resize": _WRITE, "patch": _WRITE}
_VERBS |= {"recreateInstances": _WRITE, "abandonInstances": _WRITE}
_NEEDED = {
    **{f"compute.instanceGroupManagers.{verb}": needed for verb, needed in _VERBS.items()},
    **{f"compute.regionInstanceGroupManagers.{verb}": needed for verb, needed in _VERBS.items()},
    "run.projects.locations.services.get": "run.services.get",
    "run.projects.locations.services.patch": "run.services.update",
    "run.projects.locations.operations.get": "run.operations.get",
    "container.projects.locations.clusters.nodePools.get": "container.clusters.get",
    "container.projects.locations.clusters.nodePools.setSize": "container.clusters.update",
    "container.projects.locations.clusters.nodePools.update": "container.clusters.update",
    "container.projects.locations.operations.get": "container.operations.get",
}


def permissions(call: Call) -> set[str]:
    """What the caller must have; a method that is not listed is a permission of its own name."""
    needed = {_NEEDED.get(call.method, call.method)}
    if call.method.endswith("InstanceGroupManagers.patch") or call.method.endswith("instanceGroupManagers.patch"):
        needed |= {"compute.instanceTemplates.useReadOnly"} if "versions" in call.body else set()
    return needed
