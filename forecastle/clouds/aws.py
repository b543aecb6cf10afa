"""AWS: Auto Scaling groups, ECS services and EKS node groups.

AWS has no conditional write and few request tokens, so the adapter claims before it acts: the action's token goes into a tag of
the resource, the resource is read again, and only when the claim is there and the expectation still holds is the one request
with an effect sent. What an unanswered request did is judged by what can be seen, never by sending it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from forecastle.clouds.aws_claims import Claim, about, abridged, spelled
from forecastle.clouds.aws_client import Access, Account
from forecastle.clouds.aws_groups import Group
from forecastle.clouds.aws_instances import RESTART, Commands
from forecastle.clouds.aws_nodegroups import NodeGroup
from forecastle.clouds.aws_resource import Resource, Sight, happened, holds, member
from forecastle.clouds.aws_services import Service
from forecastle.errors import (
    CloudUnavailable,
    ConfigError,
    Conflict,
    ForecastleError,
    QuotaExceeded,
    Unsupported,
)
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

_USED = "this token was used"
_SO = "it is so already"


class AwsCloud:
    """One account in one ``region``. ``Pool.target``: an ``asg``, an ``ecs`` cluster/service or a ``nodegroup`` cluster/group.

    A replica is an instance id, or on ECS a task id or ``container-instance/<id>`` (DRAIN). ``connect_timeout_s`` and
    ``read_timeout_s`` bound every attempt; reads are tried ``read_attempts`` times, writes once. ``healthy_percent`` is what a
    rolling replacement of a group keeps in service. ``restart`` lists the shell lines that restart an instance through SSM.
    Several threads may use it. Raises ConfigError for a senseless option.
    """

    capabilities = frozenset({Kind.SCALE, Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.ROLLBACK, Kind.QUARANTINE})

    def __init__(
        self,
        *,
        clock: Clock,
        region: str,
        provider: str = "aws",
        profile: str = "",
        endpoint_url: str = "",
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 10.0,
        read_attempts: int = 3,
        healthy_percent: int = 90,
        restart: Sequence[str] = RESTART,
    ) -> None:
        if min(connect_timeout_s, read_timeout_s) <= 0 or read_attempts < 1 or not 0 <= healthy_percent <= 100:
            raise ConfigError("aws cloud: timeouts are above 0 s, read_attempts at least 1, healthy_percent 0 to 100")
        self.name = provider
        self._clock = clock
        self._commands = Commands(lines=tuple(restart))
        self._healthy_percent = healthy_percent
        self._account = Account(
            Access(region, profile, endpoint_url, connect_timeout_s, read_timeout_s, read_attempts),
        )

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now. Raises NotFound when it does not exist."""
        seen = self._resource(pool).look()
        at = self._clock.now()
        return Observed(pool.name, seen.replicas, seen.ready, at, seen.version, seen.release, seen.unhealthy)

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no request."""
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, QuotaExceeded, Unsupported or CloudUnavailable."""
        if action.kind not in self.capabilities:
            raise Unsupported(f"{action.target}: {action.kind} is nothing that AWS can do for a pool")
        resource = self._resource(pool)
        sight = resource.look(action.replica)
        claim = sight.claims.find(token)
        if claim is not None:
            if claim.done or sight.claims.newest != claim.token:
                return Receipt(action.id, already=True, detail=_USED)
            if happened(resource, action, sight, claim, token):
                self._settle(resource, sight, token)
                return Receipt(action.id, already=True, detail="it was done under this token and not answered")
        elif holds(resource, action, sight):
            return Receipt(action.id, already=True, detail=_SO)
        else:
            _check(action, sight, pool, resource)
            claim = Claim(spelled(token), abridged(action.kind), sight.before(action), about(action))
            resource.note(sight.claims.plus(claim))
            sight = _reread(resource, action, claim, sight)
        _check(action, sight, pool, resource)
        resource.effect(action, sight, token)
        self._settle(resource, sight, token)
        return Receipt(action.id, already=False, detail="accepted")

    def close(self) -> None:
        """Close every connection. Idempotent; the next call opens one again."""
        self._account.close()

    def _settle(self, resource: Resource, sight: Sight, token: str) -> None:
        """Mark the claim done. Where that fails it stays open, and a later look at the state says the same."""
        with suppress(ForecastleError):
            resource.note(sight.claims.settled(token))

    def _resource(self, pool: Pool) -> Resource:
        (service, name), *more = pool.target.items() or [("", "")]
        parts = name.split("/")
        if service == "asg" and name and not more:
            return Group(self._account, name, commands=self._commands, healthy_percent=self._healthy_percent)
        if service == "ecs" and len(parts) == 2 and not more:
            return Service(self._account, *parts)
        if service == "nodegroup" and len(parts) == 2 and not more:
            return NodeGroup(self._account, *parts, commands=self._commands)
        ways = "asg: NAME, ecs: CLUSTER/SERVICE or nodegroup: CLUSTER/GROUP"
        raise ConfigError(f"pool {pool.name}: its target is {dict(pool.target)}; write one of {ways}")


def _reread(resource: Resource, action: Action, claim: Claim, before: Sight) -> Sight:
    """The resource with ``claim`` as its newest. Raises CloudUnavailable while it cannot be read, Conflict when overtaken."""
    sight = resource.look(action.replica)
    if sight.claims.newest == claim.token:
        return sight
    if sight.claims.newest == before.claims.newest:
        raise CloudUnavailable(f"{action.target}: AWS does not show the claim yet; nothing was done")
    raise Conflict(f"{action.target}: somebody else claimed it in between; observe and plan again")


def _check(action: Action, sight: Sight, pool: Pool, resource: Resource) -> None:
    """Everything that forbids the effect, judged on the state just read."""
    found = sight.replicas if action.kind is Kind.SCALE else sight.version
    if found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
    resource.check(action)
    member(action, sight)
    if action.kind is not Kind.SCALE:
        return
    wanted = action.desired
    if not isinstance(wanted, int) or wanted < 0:
        raise Unsupported(f"scale {action.pool} to {wanted!r}: ask for a whole number of replicas, 0 or more")
    most = min(pool.quota, pool.quota if sight.most is None else sight.most)
    if wanted > most:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, {most} allowed at most; raise the quota or the group's maximum")
    if wanted < sight.least:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, the group keeps {sight.least} at least; lower its minimum")


open_cloud = AwsCloud
