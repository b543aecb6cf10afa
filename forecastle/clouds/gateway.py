"""Traffic between backends by the weights of a route: Kubernetes Gateway API (HTTPRoute, GRPCRoute) and Istio VirtualService.

One write for each action, conditional on the resourceVersion that was read; the action's token goes with it into the route.
"""

from __future__ import annotations

from forecastle.clouds import gateway_routes as routes
from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds import traffic_weights as weights
from forecastle.clouds.gateway_routes import Target
from forecastle.clouds.kubernetes_api import Clusters, Json, Stale
from forecastle.errors import ConfigError, Conflict, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt, Traffic

TRIES = 3


class GatewayCloud:
    """The routes of the clusters of one kubeconfig.

    ``Pool.target`` has ``namespace``, ``name`` and ``kind`` of the route (HTTPRoute; GRPCRoute, VirtualService), ``backend`` as
    the route names it (``name`` or ``namespace/name``; of Istio ``host`` or ``host/subset``) and, if need be, ``rule`` (name or
    number from 0; else every rule that names the backend), ``context`` and ``api`` (group/version).

    ``ramp`` is how many percent points one SHIFT moves at most: for a larger one it is to be asked again, as every tick does.
    ``timeout_s`` bounds every request. With ``dry_run`` the API server checks every write and keeps none.
    """

    capabilities = frozenset({Kind.SHIFT})

    def __init__(
        self,
        *,
        clock: Clock,
        provider: str = "gateway",
        kubeconfig: str = "",
        timeout_s: float = 10.0,
        ramp: int = weights.ALL,
        dry_run: bool = False,
    ) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"gateway cloud: timeout_s is {timeout_s:g}; write seconds above 0, for example 10")
        self.name = provider
        self._clock = clock
        self._dry_run = dry_run
        self._ramp = weights.checked_ramp(ramp, provider)
        self._clusters = Clusters(kubeconfig=kubeconfig, timeout_s=timeout_s, dry_run=dry_run)

    def observe(self, pool: Pool) -> Observed:
        """One replica, the backend; ready unless a gateway refused the route. The version begins with its share in percent."""
        target = Target.of(pool)
        route = self._route(target)
        traffic = Traffic(routes.share(route, target), Kind.SHIFT)
        at, ready = self._clock.now(), int(routes.accepted(route))
        return Observed(pool.name, 1, ready, at, _version(route, target), traffic=traffic)

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no request."""
        before, after = observed.version.partition("%")[0], str(action.desired)
        return Change(action.id, before, after, noop=before == after)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, Unsupported or CloudUnavailable.

        Where only the route's status moved between reading and writing, it is read and judged again: nothing had happened.
        """
        if action.kind not in self.capabilities or action.replica:
            raise Unsupported(f"{action.kind} {action.target}: a route only has weights, SHIFT the pool")
        target, goal = Target.of(pool), weights.wanted(action)
        for left in reversed(range(TRIES)):
            try:
                return self._shift(target, action, goal, token)
            except Stale:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every connection. Idempotent; the next call opens one again."""
        self._clusters.close()

    def _route(self, target: Target) -> Json:
        return self._clusters.get(target.context, target.path)

    def _shift(self, target: Target, action: Action, goal: int, token: str) -> Receipt:
        route = self._route(target)
        if objects.spelled(token) in objects.claims(route):
            return Receipt(action.id, already=True, detail="this token was used")
        patch = routes.shifted(route, target, goal, self._ramp)
        if not patch:
            return Receipt(action.id, already=True, detail="it is so already")
        if (found := _version(route, target)) != action.expected:
            raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
        mark = objects.claimed(route, token)
        annotations = {**mark["annotations"], **patch["metadata"]["annotations"]}
        after = self._clusters.patch(target.context, target.path, {**patch, "metadata": {**mark, "annotations": annotations}})
        return Receipt(action.id, already=False, detail=f"to {routes.share(after, target)}%", dry_run=self._dry_run)


open_cloud = GatewayCloud


def _version(route: Json, target: Target) -> str:
    return f"{routes.share(route, target)}%-{objects.version(route)}"
