"""Kubernetes: Deployments, StatefulSets, Argo Rollouts and whatever else has a scale subresource, in many clusters.

Every write is conditional on the resourceVersion that was read, and carries the action's token into the object it changes:
the token is used exactly if the effect happened, and any process can see it.
"""

from __future__ import annotations

from collections.abc import Iterator

from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds import kubernetes_steps as steps
from forecastle.clouds import kubernetes_templates as templates
from forecastle.clouds.kubernetes_api import Clusters, Json, Stale
from forecastle.clouds.kubernetes_levers import Lever, Sight, lever
from forecastle.clouds.kubernetes_objects import PODS, Target
from forecastle.clouds.kubernetes_steps import ON_NODES
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, QuotaExceeded, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

TRIES = 3
PATIENCE_MS = 30_000
_USED = "this token was used"
_SO = "it is so already"


class KubernetesCloud:
    """The clusters of one kubeconfig.

    ``Pool.target`` has ``namespace``, ``name`` and, where they differ from the defaults, ``kind``
    (Deployment; StatefulSet, Rollout, or any other with ``api`` and ``plural``), ``context`` (the kubeconfig's current;
    ``in-cluster`` for the pod's service account) and ``scale`` (`kubernetes_objects.CONTROLS`).

    ``timeout_s`` bounds every request. With ``dry_run`` the API server checks every write and keeps none. A replica is a pod's
    name, or ``node/<name>`` for CORDON and DRAIN. The release is the images of the pod template.
    """

    capabilities = frozenset(set(Kind) - {Kind.SHIFT, Kind.NOTIFY})

    def __init__(
        self,
        *,
        clock: Clock,
        provider: str = "kubernetes",
        kubeconfig: str = "",
        timeout_s: float = 10.0,
        dry_run: bool = False,
    ) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"kubernetes cloud: timeout_s is {timeout_s:g}; write seconds above 0, for example 10")
        self.name = provider
        self._clock = clock
        self._dry_run = dry_run
        self._clusters = Clusters(kubeconfig=kubeconfig, timeout_s=timeout_s, dry_run=dry_run)

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now: what is asked for, its ready pods, and those that waiting will not heal."""
        return self._observed(self._look(pool), pool)

    def watch(self, pool: Pool, *, timeout_s: int = 300) -> Iterator[Observed]:
        """The pool's state now and after every change of its workload, until a watch of ``timeout_s`` seconds ends in silence.

        When the watch breaks, or is older than what the API server remembers, all is read again and nothing is missed. Raises
        CloudUnavailable when it breaks time after time without telling anything.
        """
        fruitless = 0
        while True:
            sight = self._look(pool)
            yield self._observed(sight, pool)
            try:
                for _ in self._events(sight, timeout_s):
                    fruitless = 0
                    yield self.observe(pool)
            except CloudUnavailable:
                fruitless += 1
                if fruitless == TRIES:
                    raise
            else:
                return

    def _events(self, sight: Sight, timeout_s: int) -> Iterator[Json]:
        target, version = sight.target, sight.workload["metadata"]["resourceVersion"]
        path = target.resource.path(target.namespace)
        return self._clusters.watch(target.context, path, name=target.name, version=version, timeout_s=timeout_s)

    def _observed(self, sight: Sight, pool: Pool) -> Observed:
        target, at = sight.target, self._clock.now()
        every = self._clusters.listed(target.context, PODS.path(target.namespace), labels=sight.selector)
        ready, wanted = sum(map(objects.is_ready, every)), sight.lever.replicas
        before = at - int(pool.startup_s * 1000) - PATIENCE_MS
        sick = sorted(pod["metadata"]["name"] for pod in every if objects.is_unhealthy(pod, before=before))
        if sight.lever.field == "replicas":
            ready = min(ready, wanted)
        runs = objects.release(sight.workload["spec"].get("template"))
        return Observed(pool.name, wanted, ready, at, sight.version, runs, tuple(sick))

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no request."""
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, QuotaExceeded, Unsupported or CloudUnavailable.

        Where only the object's status moved between reading and writing, it is read and judged again: nothing had happened.
        """
        if action.kind not in self.capabilities:
            raise Unsupported(f"{action.kind} {action.target}: not a thing to do with a Kubernetes workload")
        for left in reversed(range(TRIES)):
            try:
                return self._apply(action, pool, token)
            except Stale:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every connection. Idempotent; the next call opens one again."""
        self._clusters.close()

    def _look(self, pool: Pool) -> Sight:
        target = Target.of(pool)
        workload = self._clusters.get(target.context, target.path())
        return Sight(target, workload, lever(self._clusters, target, workload))

    def _apply(self, action: Action, pool: Pool, token: str) -> Receipt:
        sight = self._look(pool)
        carrier = sight.lever.found if action.kind is Kind.SCALE else sight.workload
        about = objects.claims(carrier).get(objects.spelled(token))
        if about is not None:
            newest = next(iter(objects.claims(carrier))) == objects.spelled(token)
            if about and newest:
                return self._finished(sight, action, token, about)
            return self._receipt(action, did=False, detail=_USED)
        if action.kind is Kind.SCALE:
            return self._scale(sight, action, pool, token)
        if action.replica or action.kind in ON_NODES:
            return self._two_steps(sight, action, token)
        return self._change_template(sight, action, token)

    def _receipt(self, action: Action, *, did: bool, detail: str = "accepted") -> Receipt:
        return Receipt(action.id, already=not did, detail=detail, dry_run=self._dry_run and did)

    # --- one write ---

    def _scale(self, sight: Sight, action: Action, pool: Pool, token: str) -> Receipt:
        there, wanted = sight.lever, _replicas_wanted(action)
        if there.replicas == wanted:
            return self._receipt(action, did=False, detail=_SO)
        _check_expected(action, there.replicas)
        _check_allowed(there, pool, wanted)
        if there.scale is None:
            self._clusters.patch(sight.target.context, there.path, there.write(wanted, token))
            return self._receipt(action, did=True)
        about = f"scale/{there.found['metadata']['generation']}/{wanted}"
        self._claim(sight, token, about)
        return self._finished(sight, action, token, about)

    def _change_template(self, sight: Sight, action: Action, token: str) -> Receipt:
        target, workload = sight.target, sight.workload
        if action.kind is Kind.ROLLBACK:
            if objects.release(templates.template(target, workload)) == action.desired:
                return self._receipt(action, did=False, detail=_SO)
            _check_expected(action, sight.version)
            patch = templates.rollback(self._clusters, target, workload, action, token)
        elif action.kind is Kind.QUARANTINE:
            raise Unsupported(f"quarantine {action.pool}: name the pod as the replica; a whole pool is emptied with SHIFT")
        else:
            if templates.restarted(target, workload, str(action.desired)):
                return self._receipt(action, did=False, detail=_SO)
            _check_expected(action, sight.version)
            patch = templates.restart(target, workload, action, token)
        self._clusters.patch(target.context, target.path(), patch)
        return self._receipt(action, did=True)

    # --- two steps: the claim, then an effect that can happen only once ---

    def _two_steps(self, sight: Sight, action: Action, token: str) -> Receipt:
        about, so = steps.about(self._clusters, sight, action)
        if so:
            return self._receipt(action, did=False, detail=_SO)
        _check_expected(action, sight.version)
        self._claim(sight, token, about)
        return self._finished(sight, action, token, about)

    def _claim(self, sight: Sight, token: str, about: str) -> None:
        metadata = objects.claimed(sight.workload, token, about)
        self._clusters.patch(sight.target.context, sight.target.path(), {"metadata": metadata})

    def _finished(self, sight: Sight, action: Action, token: str, about: str) -> Receipt:
        did = steps.finish(self._clusters, sight, action, token, about)
        return self._receipt(action, did=did, detail=about if did else _USED)


open_cloud = KubernetesCloud


def _replicas_wanted(action: Action) -> int:
    if isinstance(action.desired, int) and action.desired >= 0:
        return action.desired
    raise Unsupported(f"scale {action.pool} to {action.desired!r}: ask for a whole number of replicas, 0 or more")


def _check_expected(action: Action, found: int | str) -> None:
    if found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")


def _check_allowed(there: Lever, pool: Pool, wanted: int) -> None:
    if there.taken:
        raise Denied(f"{pool.name}: {there.taken} decides its replicas; set target.scale to hpa-min to raise its floor")
    if wanted > pool.quota:
        raise QuotaExceeded(f"{pool.name}: {wanted} replicas asked for, the quota is {pool.quota}; raise it or the price")
    if there.most is not None and wanted > there.most:
        raise QuotaExceeded(f"{pool.name}: {wanted} asked for, {there.path} allows {there.most} at most; raise its maximum")
