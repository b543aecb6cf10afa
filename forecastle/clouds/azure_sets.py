"""VM scale sets: capacity and image of the model by conditional writes, and one instance at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from azure.core import MatchConditions

from forecastle.clouds.aws_claims import Claim, Claims
from forecastle.clouds.azure_client import Account, Json
from forecastle.clouds.azure_resource import Sight, refuse
from forecastle.errors import NotFound, QuotaExceeded, Unsupported
from forecastle.types import Action, Kind

_MOVES = {"0": "begin_deallocate", "100": "begin_start"}
_SURGING = frozenset({Kind.REPLACE, Kind.QUARANTINE})
_URN = ("publisher", "offer", "sku", "version")
_IDS = ("id", "sharedGalleryImageId", "communityGalleryImageId")


class ScaleSet:
    """The scale set ``name`` of a resource ``group``. A replica is an instance id; its release is the image of the model.

    Deallocated instances are aside: Azure counts them as capacity, they are no replicas. ``quota`` bounds the capacity while
    an instance is replaced; ``reimage``: REPLACE gives an instance a new disk in place instead of another instance for it.
    """

    def __init__(self, account: Account, group: str, name: str, *, quota: int, reimage: bool) -> None:
        self._account = account
        self._where = (group, name)
        self._quota = quota
        self._reimage = reimage

    def look(self, replica: str = "") -> Sight:
        """Read the model and every instance."""
        model: Json = self._account.compute("virtual_machine_scale_sets", "get", *self._where)
        found = self._account.compute("virtual_machine_scale_set_vms", "list", *self._where, expand="instanceView")
        states = {str(one["instanceId"]): _state(one) for one in found}
        aside = tuple(sorted(name for name, state in states.items() if state == "aside"))
        capacity = int(model["sku"]["capacity"])
        wanted = max(capacity - len(aside), 0)
        properties: Json = model.get("properties", {})
        return Sight(
            replicas=wanted,
            ready=min(sum(state == "ready" for state in states.values()), wanted),
            release=_release(properties),
            etag=str(model.get("etag", "")),
            tags=model.get("tags") or {},
            unhealthy=tuple(sorted(name for name, state in states.items() if state == "sick")),
            aside=aside,
            replica=states.get(replica, ""),
            touched=next((_touched(one) for one in found if str(one["instanceId"]) == replica), ""),
            facts={"sku": model["sku"], "properties": properties},
        )

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for a whole set to be restarted and for an image that is spelled as none."""
        pool_wide = action.kind in {Kind.SCALE, Kind.ROLLBACK}
        if pool_wide and action.replica:
            raise refuse(action, "a scale set", "leave the replica out")
        if action.kind is Kind.ROLLBACK:
            _check_image(action, sight)
        if not pool_wide:
            self._check_instance(action, sight)

    def _check_instance(self, action: Action, sight: Sight) -> None:
        if not action.replica:
            raise refuse(action, "a scale set", "Azure would take every instance down at once; name one as the replica")
        if _properties(sight).get("orchestrationMode", "Uniform") != "Uniform":
            raise refuse(action, "a scale set of flexible orchestration", "its instances are virtual machines of their own")
        if not sight.replica:
            raise NotFound(f"{action.target}: the pool has no such replica; it may have been replaced: observe again")
        if action.kind is Kind.DRAIN and str(action.desired) not in _MOVES:
            raise Unsupported(f"{action.target}: an instance runs or is deallocated; drain it to 0 or 100 percent")
        if self._surges(action) and _capacity(sight) >= self._quota:
            fix = "raise the quota, or set `reimage` in the cloud's options"
            raise QuotaExceeded(f"{action.target}: no room for another before this one goes, {self._quota} at most; {fix}")

    def steps(self, action: Action) -> int:
        """SCALE and ROLLBACK are one write of the model."""
        return 1 if action.kind in {Kind.SCALE, Kind.ROLLBACK} else 2

    def begin(self, action: Action, sight: Sight, claims: Claims) -> None:
        """PATCH the model: the claims with the capacity, the image, or the capacity for one more while one goes."""
        change: Json = {}
        if action.kind is Kind.SCALE:
            change["sku"] = _sized(sight, int(action.desired) + len(sight.aside))
        elif action.kind is Kind.ROLLBACK:
            image = _reference(str(action.desired))
            change["properties"] = {"virtualMachineProfile": {"storageProfile": {"imageReference": image}}}
        elif self._surges(action):
            change["sku"] = _sized(sight, _capacity(sight) + 1)
        self._patch(sight, claims, change)

    def finish(self, action: Action, _: Sight) -> None:
        """One request about the instance."""
        methods = {Kind.RESTART: "begin_restart", Kind.QUARANTINE: "begin_deallocate"}
        methods[Kind.REPLACE] = "begin_reimage" if self._reimage else "begin_delete"
        method = methods.get(action.kind) or _MOVES[str(action.desired)]
        self._account.compute("virtual_machine_scale_set_vms", method, *self._where, action.replica, effect=True)

    def settle(self, sight: Sight, claims: Claims) -> None:
        """PATCH the tag alone."""
        self._patch(sight, claims, {})

    def holds(self, action: Action, sight: Sight) -> bool:
        """Whether the instance is aside, or not, as asked."""
        if action.kind is Kind.DRAIN and str(action.desired) == "100":
            return bool(sight.replica) and sight.replica != "aside"
        return action.kind in {Kind.DRAIN, Kind.QUARANTINE} and sight.replica == "aside"

    def happened(self, action: Action, sight: Sight, claim: Claim) -> bool:
        """Whether the instance is gone, as it should be, or was worked on since."""
        return not sight.replica or self.holds(action, sight) or sight.before(action) != claim.before

    def _surges(self, action: Action) -> bool:
        return action.kind in _SURGING and not (action.kind is Kind.REPLACE and self._reimage)

    def _patch(self, sight: Sight, claims: Claims, change: Json) -> None:
        body = {"tags": sight.tagged(claims), **change}
        condition = {"etag": sight.condition, "match_condition": MatchConditions.IfNotModified}
        update = (*self._where, body)
        self._account.compute("virtual_machine_scale_sets", "begin_update", *update, effect=True, **condition)


def _state(instance: Json) -> str:
    """'ready', 'aside' (deallocated), 'sick' or 'coming' and going."""
    properties = instance.get("properties", {})
    view: Json = properties.get("instanceView") or {}
    codes = {str(status.get("code", "")).lower() for status in view.get("statuses", ())}
    if codes & {"powerstate/deallocated", "powerstate/deallocating"}:
        return "aside"
    health = str(view.get("vmHealth", {}).get("status", {}).get("code", "")).lower()
    provisioned = str(properties.get("provisioningState", "")).lower()
    if health == "healthstate/unhealthy" or provisioned == "failed":
        return "sick"
    up = "powerstate/running" in codes and provisioned in {"succeeded", "updating"}
    return "ready" if up and health in {"", "healthstate/healthy"} else "coming"


def _touched(instance: Json) -> str:
    """Time of the instance's provisioning status, which every operation on it sets anew."""
    statuses: Iterable[Json] = (instance.get("properties", {}).get("instanceView") or {}).get("statuses", ())
    return next((str(s.get("time", s["code"])) for s in statuses if str(s.get("code", "")).startswith("Provisioning")), "")


def _properties(sight: Sight) -> Json:
    found: Any = sight.facts["properties"]
    return dict(found)


def _capacity(sight: Sight) -> int:
    return sight.replicas + len(sight.aside)


def _sized(sight: Sight, capacity: int) -> Json:
    sku: Any = sight.facts["sku"]
    return {**sku, "capacity": capacity}


def _release(properties: Json) -> str:
    """The image of the model: the id of one of ours, ``publisher:offer:sku:version`` of one of the marketplace."""
    image: Mapping[str, Any] = properties.get("virtualMachineProfile", {}).get("storageProfile", {}).get("imageReference") or {}
    own = next((str(image[key]) for key in _IDS if image.get(key)), "")
    return own or ":".join(str(image.get(key, "")) for key in _URN).strip(":")


def _reference(release: str) -> Json:
    """An image reference from what `_release` spells. Raises ValueError."""
    parts = release.split(":")
    if len(parts) == len(_URN) and all(parts):
        return dict(zip(_URN, parts, strict=True))
    lowered = release.lower()
    for prefix, key in (("/subscriptions/", "id"), ("/sharedgalleries/", _IDS[1]), ("/communitygalleries/", _IDS[2])):
        if lowered.startswith(prefix):
            return {key: release}
    raise ValueError(release)


def _check_image(action: Action, sight: Sight) -> None:
    policy = _properties(sight).get("upgradePolicy") or {}
    if policy.get("mode") != "Rolling":
        raise refuse(action, "a scale set without rolling upgrades", "set its upgradePolicy.mode to Rolling")
    try:
        _reference(str(action.desired))
    except ValueError:
        raise Unsupported(f"{action.target}: '{action.desired}' is no image; ask for a release that was observed") from None
