"""Azure: VM scale sets, Container Apps and AKS node pools.

The action's token goes into a tag of the resource in the same conditional write as what it asks for, so that a token that was
used can be seen by every process. What needs a second request (one instance) is claimed by the first, and whoever retries looks
at what became of it before asking again.
"""

from __future__ import annotations

from contextlib import suppress

from azure.identity import DefaultAzureCredential

from forecastle.clouds.aws_claims import Claim, about, abridged, spelled
from forecastle.clouds.azure_apps import ContainerApp
from forecastle.clouds.azure_client import PUBLIC, Access, Account, Changed, Token
from forecastle.clouds.azure_nodepools import NodePool
from forecastle.clouds.azure_resource import Resource, Sight, holds
from forecastle.clouds.azure_sets import ScaleSet
from forecastle.errors import ConfigError, Conflict, ForecastleError, QuotaExceeded, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

_USED = "this token was used"
_SO = "it is so already"
_ROUNDS = 3


class AzureCloud:
    """One ``subscription``. ``Pool.target``: ``vmss`` or ``containerapp`` group/name, or ``nodepool`` group/cluster/name.

    A replica is an instance id of a scale set. The timeouts bound every request, in seconds; nothing is sent twice. The end of
    an operation is waited for ``wait_s`` at most. ``reimage``: REPLACE gives an instance a new disk in place. ``credential`` is
    an azure-core TokenCredential, by default the SDK's own chain. Use it from one thread. Raises ConfigError for a senseless
    option.
    """

    capabilities = frozenset({Kind.SCALE, Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.ROLLBACK, Kind.QUARANTINE})

    def __init__(
        self,
        *,
        clock: Clock,
        subscription: str,
        provider: str = "azure",
        credential: Token | None = None,
        endpoint_url: str = PUBLIC,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 10.0,
        wait_s: float = 20.0,
        reimage: bool = False,
    ) -> None:
        if min(connect_timeout_s, read_timeout_s) <= 0 or wait_s < 0 or not subscription:
            raise ConfigError("azure cloud: timeouts are above 0 s, wait_s at least 0, subscription is its id")
        self.name = provider
        self._clock = clock
        self._reimage = reimage
        access = Access(subscription, endpoint_url.rstrip("/"), connect_timeout_s, read_timeout_s, wait_s)
        self._account = Account(access, credential or DefaultAzureCredential())

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
            raise Unsupported(f"{action.target}: {action.kind} is nothing that Azure can do for a pool")
        resource = self._resource(pool)
        for _ in range(_ROUNDS):
            with suppress(Changed):
                return self._attempt(resource, action, pool, token)
        raise Conflict(f"{action.target}: somebody else keeps changing it; observe and plan again")

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._account.close()

    def _attempt(self, resource: Resource, action: Action, pool: Pool, token: str) -> Receipt:
        """One reading of the pool and what follows from it. Raises Changed when it was out of date: nothing was done."""
        sight = resource.look(action.replica)
        claim = sight.claims.find(token)
        if claim is None:
            if holds(resource, action, sight):
                return Receipt(action.id, already=True, detail=_SO)
            _check(action, sight, pool)
            resource.check(action, sight)
            whole = resource.steps(action) == 1
            claim = Claim(spelled(token), abridged(action.kind), sight.before(action), about(action), done=whole)
            resource.begin(action, sight, sight.claims.plus(claim))
            if whole:
                return Receipt(action.id, already=False, detail="accepted")
        elif claim.done or sight.claims.newest != claim.token:
            return Receipt(action.id, already=True, detail=_USED)
        elif resource.happened(action, sight, claim):
            self._settle(resource, action, token)
            return Receipt(action.id, already=True, detail="it was done under this token and not answered")
        resource.finish(action, sight)
        self._settle(resource, action, token)
        return Receipt(action.id, already=False, detail="accepted")

    def _settle(self, resource: Resource, action: Action, token: str) -> None:
        """Mark the claim done. Where that fails it stays open, and a later look at the state says the same."""
        for _ in range(_ROUNDS):
            with suppress(ForecastleError):
                sight = resource.look(action.replica)
                resource.settle(sight, sight.claims.settled(token))
                return

    def _resource(self, pool: Pool) -> Resource:
        (service, name), *more = pool.target.items() or [("", "")]
        parts = [part for part in name.split("/") if part]
        if service == "vmss" and len(parts) == 2 and not more:
            return ScaleSet(self._account, *parts, quota=pool.quota, reimage=self._reimage)
        if service == "containerapp" and len(parts) == 2 and not more:
            return ContainerApp(self._account, *parts)
        if service == "nodepool" and len(parts) == 3 and not more:
            return NodePool(self._account, *parts)
        ways = "vmss: GROUP/NAME, containerapp: GROUP/NAME or nodepool: GROUP/CLUSTER/NAME"
        raise ConfigError(f"pool {pool.name}: its target is {dict(pool.target)}; write one of {ways}")


def _check(action: Action, sight: Sight, pool: Pool) -> None:
    """What forbids the effect whichever service runs the pool, judged on the state just read."""
    found = sight.replicas if action.kind is Kind.SCALE else sight.version
    if found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
    if action.kind is not Kind.SCALE:
        return
    wanted = action.desired
    if not isinstance(wanted, int) or wanted < 0:
        raise Unsupported(f"scale {action.pool} to {wanted!r}: ask for a whole number of replicas, 0 or more")
    most = min(pool.quota, pool.quota if sight.most is None else sight.most)
    if wanted > most:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, {most} allowed at most; raise the quota or the pool's maximum")
    if wanted < sight.least:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, the pool keeps {sight.least} at least; lower its minimum")


open_cloud = AzureCloud
