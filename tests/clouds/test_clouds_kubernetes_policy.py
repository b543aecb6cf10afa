"""The shipped RBAC policy is what the adapter calls, no more and no less, and the server of the tests enforces it."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from kubernetes_worlds import CLONE_SET, POOL, Shop, hpa, pool_of, scaled_object, shop, template, workload
from ruamel.yaml import YAML

from forecastle.errors import Denied
from forecastle.testing.fake_kubernetes_requests import Call
from forecastle.testing.fake_kubernetes_store import check_schema
from forecastle.types import Kind, Pool


def roles() -> list[dict[str, Any]]:
    text = (files("forecastle.clouds") / "policies" / "kubernetes.yaml").read_text()
    return list(YAML(typ="safe", pure=True).load_all(text))


def rules(*names: str) -> list[dict[str, Any]]:
    return [rule for role in roles() if not names or role["metadata"]["name"] in names for rule in role["rules"]]


def granted(found: list[dict[str, Any]]) -> set[Call]:
    return {
        Call(verb, group, resource)
        for rule in found
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def everything(here: Shop, pool: Pool, kind: str) -> None:
    """All that can be done to a workload of this kind."""
    first = here.seen(pool).release
    watched = here.cloud.watch(pool, timeout_s=1)
    next(watched)
    here.cluster.change(kind, "shop", "web", {"metadata": {"annotations": {"seen": "yes"}}})
    next(watched)
    watched.close()
    here.do(Kind.SCALE, 4, pool=pool)
    here.wait(200)
    if pool is CLONE_SET:
        return
    here.do(Kind.RESTART, str(here.clock.now()), pool=pool)
    here.cluster.change(kind, "shop", "web", {"spec": {"template": template("shop/web:2")}})
    for _ in range(6):
        here.wait()
    here.do(Kind.ROLLBACK, first, pool=pool)
    for _ in range(6):
        here.wait()
    here.do(Kind.REPLACE, str(here.clock.now()), replica=here.names()[0], pool=pool)
    if kind == "Deployment":
        here.do(Kind.QUARANTINE, "why", replica=here.names()[0], pool=pool)
        here.do(Kind.CORDON, "why", replica="node/n2", pool=pool)
        for quarantined in [p for p in here.cluster.every("Pod") if "app" not in p["metadata"]["labels"]]:
            with here.cluster.inside():
                here.cluster.controllers.delete_pod(quarantined)
        here.do(Kind.DRAIN, 0, replica="node/n1", pool=pool)


WORLDS = [
    ("Deployment", pool_of(), [workload()]),
    ("StatefulSet", pool_of("StatefulSet"), [workload("StatefulSet")]),
    ("Rollout", pool_of("Rollout"), [workload("Rollout")]),
    ("CloneSet", CLONE_SET, [workload("CloneSet")]),
]


def test_the_calls_of_every_action_are_the_policy(tmp_path: Path) -> None:
    called: set[Call] = set()
    for kind, pool, objects in WORLDS:
        (tmp_path / kind).mkdir()
        with shop(tmp_path / kind, *objects, rules=rules()) as here:
            everything(here, pool, kind)
            called |= set(here.cluster.calls)
    for way, more in (("hpa-min", hpa()), ("keda-min", scaled_object())):
        (tmp_path / way).mkdir()
        with shop(tmp_path / way, workload(), more, rules=rules()) as here:
            here.do(Kind.SCALE, 5, pool=pool_of(scale=way))
            called |= set(here.cluster.calls)
    assert called == granted(rules())


def test_the_policy_is_valid_and_names_no_wildcard() -> None:
    for role in roles():
        check_schema(role)
        assert role["kind"] == "ClusterRole"
    assert not any("*" in part for call in granted(rules()) for part in call)
    assert not any(call.resource in {"secrets", "configmaps", "pods/exec"} for call in granted(rules()))


def test_workloads_alone_need_the_first_role_alone(tmp_path: Path) -> None:
    with shop(tmp_path, rules=rules("forecastle-workloads")) as here:
        here.do(Kind.SCALE, 4)
        here.wait()
        here.do(Kind.REPLACE, str(here.clock.now()), replica=here.names()[0])
        version = here.version()
        for kind, desired in ((Kind.CORDON, "why"), (Kind.DRAIN, 0)):
            with pytest.raises(Denied, match="cannot get resource"):
                here.do(kind, desired, replica=here.names()[0])
        assert here.version() == version


@pytest.mark.parametrize("missing", sorted(granted(rules("forecastle-workloads"))))
def test_a_missing_right_is_denied_and_says_which(tmp_path: Path, missing: Call) -> None:
    """Each right of the first role is needed by something that a Deployment or StatefulSet can be asked for."""
    left = [
        {"verbs": [call.verb], "apiGroups": [call.group], "resources": [call.resource]}
        for call in granted(rules("forecastle-workloads", "forecastle-nodes")) - {missing}
    ]
    denied: list[str] = []
    for kind, pool, objects in WORLDS[:2]:
        (tmp_path / kind).mkdir()
        with shop(tmp_path / kind, *objects, rules=left) as here:
            try:
                everything(here, pool, kind)
            except Denied as error:
                denied.append(str(error))
    if missing != Call("patch", "autoscaling", "horizontalpodautoscalers"):
        assert denied
        assert all(f'cannot {missing.verb} resource "{missing.resource}"' in said for said in denied)
    else:
        (tmp_path / "floor").mkdir()
        with shop(tmp_path / "floor", workload(), hpa(), rules=left) as here, pytest.raises(Denied):
            here.do(Kind.SCALE, 5, pool=pool_of(scale="hpa-min"))


def test_a_stranger_is_denied(tmp_path: Path) -> None:
    with shop(tmp_path) as here:
        text = Path(here.config).read_text()
        Path(here.config).write_text(text.replace("a-service-account", "nobody"))
        with pytest.raises(Denied, match="401"):
            here.connect().observe(POOL)


def test_the_client_is_loaded_on_use() -> None:
    code = "import sys, forecastle.clouds.kubernetes; sys.exit('kubernetes.client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
