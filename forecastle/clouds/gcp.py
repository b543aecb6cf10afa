"""Google Cloud: managed instance groups, Cloud Run services and GKE node pools.

A token goes where the service keeps it beyond the life of this process: into the request id of the operation, into the very
update that has the effect, or, where the API has neither, into a label that is written first.
"""

from __future__ import annotations

from forecastle.clouds.gcp_client import Access, Account
from forecastle.clouds.gcp_errors import Stale
from forecastle.clouds.gcp_groups import Group
from forecastle.clouds.gcp_nodepools import NodePool
from forecastle.clouds.gcp_resource import Resource, Sight
from forecastle.clouds.gcp_services import Service
from forecastle.errors import ConfigError, Conflict, QuotaExceeded, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

_JUDGED = 3


class GcpCloud:
    """One ``project``; a pool is a managed instance group, a Cloud Run service or a GKE node pool.

    ``Pool.target``: ``{mig, zone}``, ``{mig, region}``, ``{run, region}`` or ``{nodepool, cluster, location}``.
    A replica is the name of an instance. ``timeout_s`` bounds every attempt and ``operation_timeout_s`` the wait for an
    operation; reads are tried ``read_attempts`` times, writes once. Use it from one thread. Raises ConfigError for a
    senseless option.
    """

    capabilities = frozenset({Kind.SCALE, Kind.RESTART, Kind.REPLACE, Kind.ROLLBACK, Kind.QUARANTINE})

    def __init__(
        self,
        *,
        clock: Clock,
        project: str,
        provider: str = "gcp",
        endpoint_url: str = "",
        timeout_s: float = 10.0,
        operation_timeout_s: float = 60.0,
        read_attempts: int = 3,
    ) -> None:
        if not project or timeout_s <= 0 or operation_timeout_s < 0 or read_attempts < 1:
            raise ConfigError("gcp cloud: name the project; timeouts are above 0 s and read_attempts at least 1")
        self.name = provider
        self._clock = clock
        self._account = Account(Access(project, endpoint_url, timeout_s, operation_timeout_s, read_attempts))

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now. Raises NotFound when it does not exist."""
        seen = self._resource(pool).look()
        at = self._clock.now()
        return Observed(pool.name, seen.replicas, seen.ready, at, seen.version, seen.release, seen.unhealthy)

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no request."""
        before = str(observed.replicas if action.kind is Kind.SCALE else observed.version)
        if action.kind is Kind.ROLLBACK:
            before = observed.release
        return Change(action.id, before, str(action.desired), noop=before == str(action.desired))

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, QuotaExceeded, Unsupported or CloudUnavailable."""
        if action.kind not in self.capabilities:
            raise Unsupported(f"{action.target}: {action.kind} is nothing that Google Cloud can do for a pool")
        resource = self._resource(pool)
        for _ in range(_JUDGED):
            sight = resource.look()
            if used := resource.used(action, sight, token):
                return Receipt(action.id, already=True, detail=used)
            if _holds(action, sight):
                return Receipt(action.id, already=True, detail="it is so already")
            _check(action, sight, pool, resource)
            try:
                resource.effect(action, sight, token)
            except Stale:
                continue
            return Receipt(action.id, already=False, detail="done")
        raise Conflict(f"{action.target}: somebody else keeps changing it; observe and plan again")

    def close(self) -> None:
        """Close every connection. Idempotent; the next call opens one again."""
        self._account.close()

    def _resource(self, pool: Pool) -> Resource:
        target = dict(pool.target)
        if all(target.values()):
            match sorted(target):
                case ["mig", "zone" | "region" as kind]:
                    return Group(self._account, target["mig"], (kind, target[kind]))
                case ["region", "run"]:
                    return Service(self._account, target["run"], target["region"])
                case ["cluster", "location", "nodepool"]:
                    return NodePool(self._account, target["nodepool"], target["cluster"], target["location"])
        ways = "{mig: NAME, zone or region: PLACE}, {run: NAME, region: R} or {nodepool: NAME, cluster: C, location: L}"
        raise ConfigError(f"pool {pool.name}: its target is {target}; write one of {ways}")


def _holds(action: Action, sight: Sight) -> bool:
    """Whether what the action asks for is so already."""
    if action.kind is Kind.SCALE:
        return sight.replicas == action.desired
    return action.kind is Kind.ROLLBACK and sight.release == action.desired


def _check(action: Action, sight: Sight, pool: Pool, resource: Resource) -> None:
    """Everything that forbids the effect, judged on the state just read."""
    found = sight.replicas if action.kind is Kind.SCALE else sight.version
    if found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
    if action.kind is Kind.SCALE:
        _bounded(action, sight, pool)
    resource.check(action, sight)


def _bounded(action: Action, sight: Sight, pool: Pool) -> None:
    wanted = action.desired
    if not isinstance(wanted, int) or wanted < 0:
        raise Unsupported(f"scale {action.pool} to {wanted!r}: ask for a whole number of replicas, 0 or more")
    most = min(pool.quota, pool.quota if sight.most is None else sight.most)
    if wanted > most:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, {most} allowed at most; raise the quota or the maximum")
    if wanted < sight.least:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, it keeps {sight.least} at least; lower its minimum")


open_cloud = GcpCloud
