"""Managed instance groups, zonal and regional: size, rolling restarts and replacements, templates, one instance at a time.

Compute Engine remembers every operation with the request id it was asked for under: that is where a token is found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from forecastle.clouds.gcp_claims import Mark
from forecastle.clouds.gcp_client import Account, Json
from forecastle.clouds.gcp_errors import operation_error
from forecastle.clouds.gcp_resource import Sight, refuse
from forecastle.errors import NotFound
from forecastle.types import Action, Kind, digest

Place: TypeAlias = tuple[str, str]
REMEMBERED = 500
_SICK = frozenset({"UNHEALTHY", "TIMEOUT"})
_MINIMAL = {Kind.RESTART: "RESTART", Kind.REPLACE: "REPLACE", Kind.ROLLBACK: "REPLACE"}
_MARKED = "forecastle-"


class Group:
    """The managed instance group ``name`` in ``place``: ("zone", Z) or ("region", R). Its release is its instance template."""

    def __init__(self, account: Account, name: str, place: Place) -> None:
        self._account = account
        self._place = place
        self._named = {"project": account.access.project, place[0]: place[1], "instanceGroupManager": name}
        self._collection = "instanceGroupManagers" if place[0] == "zone" else "regionInstanceGroupManagers"

    def look(self) -> Sight:
        """Read the group and its instances."""
        group = self._account.read("compute", f"{self._collection}.get", **self._named)
        members = list(managed(self._account, self._collection, self._named))
        wanted, versions = int(group["targetSize"]), _versions(group)
        rollout = [f"{v.get('name', '')} {_last(v['instanceTemplate'])}" for v in versions]
        return Sight(
            replicas=wanted,
            ready=min(sum(map(serving, members)), wanted),
            version=digest(wanted, *rollout)[:16],
            release=_last(versions[-1]["instanceTemplate"]) if versions else "",
            unhealthy=tuple(sorted(_last(m["instance"]) for m in members if _sick(m))),
            members={_last(m["instance"]): m["instance"] for m in members},
            facts=group,
        )

    def used(self, action: Action, sight: Sight, token: str) -> str:
        """Whether the newest operations on the target, or the names of the group's versions, carry the action's mark."""
        mark = Mark.of(action, token)
        for operation in self._operations(*self._acted_upon(action, sight)):
            asked = Mark.requested(operation.get("clientOperationId", ""))
            if asked is None or not mark.says(asked, action.kind):
                continue
            if asked.token == mark.token:
                self._await(operation, f"{action.target}: {action.kind}")
                return "this token was used"
            if operation_error(operation, "") is None:
                return "this restart or replacement was asked for before"
        names = " ".join(v.get("name", "") for v in _versions(sight.facts))
        return "the group's version has this mark" if any(mark.says(m, action.kind) for m in Mark.read(names)) else ""

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for a whole group in quarantine and for one instance to be rolled back."""
        if action.kind is Kind.QUARANTINE and not action.replica:
            raise refuse(action, "a managed instance group", "name the instance as the replica, or SCALE")
        if action.kind in {Kind.ROLLBACK, Kind.SCALE} and action.replica:
            raise refuse(action, "a managed instance group", "ask for it for the pool")
        if action.replica and action.replica not in sight.members:
            raise NotFound(f"{action.target}: the group has no such instance; it may have been replaced: observe again")

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """One request, and its operation awaited."""
        mark = Mark.of(action, token)
        asked: Json = {**self._named, "requestId": mark.request_id}
        instance = {"instances": [sight.members.get(action.replica, "")]}
        if action.kind is Kind.SCALE:
            operation = self._tell("resize", **asked, size=int(action.desired))
        elif action.kind is Kind.QUARANTINE:
            operation = self._tell("abandonInstances", **asked, body=instance)
        elif not action.replica:
            operation = self._tell("patch", **asked, body=self._rolled(action, sight, mark))
        elif action.kind is Kind.REPLACE:
            operation = self._tell("recreateInstances", **asked, body=instance)
        else:
            operation = self._reset(sight.members[action.replica], mark)
        self._await(operation, f"{action.target}: {action.kind}")

    def _rolled(self, action: Action, sight: Sight, mark: Mark) -> Json:
        """The patch that rolls the group: versions of another name, the template too for ROLLBACK, on this fingerprint."""
        kept = _versions(sight.facts)
        if action.kind is Kind.ROLLBACK:
            where = kept[-1]["instanceTemplate"].rpartition("/")[0]
            kept = [{"instanceTemplate": f"{where}/{action.desired}"}]
        named = [{**version, "name": f"{_MARKED}{i}-{mark}"} for i, version in enumerate(kept)]
        policy = {"type": "PROACTIVE", "minimalAction": _MINIMAL[action.kind], "mostDisruptiveAllowedAction": "REPLACE"}
        return {"fingerprint": sight.facts["fingerprint"], "versions": named, "updatePolicy": policy}

    def _reset(self, url: str, mark: Mark) -> Json:
        project, zone, instance = _placed(url)
        asked = {"project": project, "zone": zone, "instance": instance, "requestId": mark.request_id}
        return self._account.effect("compute", "instances.reset", **asked)

    def _tell(self, method: str, **asked: object) -> Json:
        return self._account.effect("compute", f"{self._collection}.{method}", **asked)

    def _acted_upon(self, action: Action, sight: Sight) -> tuple[Place, str]:
        """Where the operation is, and the URL of its target: only a restart of one instance is told to the instance."""
        url = sight.members.get(action.replica, "")
        if action.kind is Kind.RESTART and url:
            return ("zone", _placed(url)[1]), url
        return self._place, sight.facts["selfLink"]

    def _operations(self, place: Place, target: str) -> list[Json]:
        """The newest `REMEMBERED` operations on ``target``, newest first."""
        asked: Json = {"project": self._named["project"], place[0]: place[1], "filter": f'targetLink = "{target}"'}
        asked |= {"orderBy": "creationTimestamp desc", "maxResults": REMEMBERED}
        found: list[Json] = self._account.read("compute", f"{place[0]}Operations.list", **asked).get("items", [])
        return found

    def _await(self, operation: Json, said: str) -> None:
        kind = "zone" if operation.get("zone") else "region"
        place = {"project": self._named["project"], kind: _last(operation.get(kind, ""))}

        def again(name: str) -> Json:
            return self._account.read("compute", f"{kind}Operations.get", **place, operation=name)

        self._account.finished(operation, again, said)


def managed(account: Account, collection: str, named: Json) -> Iterator[Json]:
    """The instances of a group, page by page."""
    more: Json = {}
    while True:
        page = account.read("compute", f"{collection}.listManagedInstances", **named, **more)
        yield from page.get("managedInstances", ())
        if not page.get("nextPageToken"):
            return
        more = {"pageToken": page["nextPageToken"]}


def serving(member: Json) -> bool:
    """Whether an instance runs, is left alone, and its health checks (if any) pass."""
    running = member.get("instanceStatus") == "RUNNING" and member.get("currentAction") == "NONE"
    return running and all(h.get("detailedHealthState") == "HEALTHY" for h in member.get("instanceHealth", ()))


def _sick(member: Json) -> bool:
    return any(h.get("detailedHealthState") in _SICK for h in member.get("instanceHealth", ()))


def _versions(group: Json) -> list[Json]:
    """The templates the group runs; one that is not named counts as the only version."""
    versions: list[Json] = group.get("versions") or [{"instanceTemplate": group.get("instanceTemplate", "")}]
    return [
        {k: _asked(v) for k, v in version.items() if k in {"instanceTemplate", "name", "targetSize"}} for version in versions
    ]


def _asked(part: str | Json) -> str | Json:
    """A part of a version without what the server calculates and does not take back."""
    return part if isinstance(part, str) else {k: v for k, v in part.items() if k != "calculated"}


def _placed(url: str) -> tuple[str, str, str]:
    """Project, zone and name of an instance, from its URL."""
    _, _, path = url.partition("projects/")
    project, _, zone, _, name = path.split("/")
    return project, zone, name


def _last(url: str) -> str:
    return url.rpartition("/")[2]
