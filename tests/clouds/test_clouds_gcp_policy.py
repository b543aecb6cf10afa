"""The shipped custom role allows exactly the requests that the adapter makes."""

from __future__ import annotations

from importlib.resources import files

import pytest
from gcp_worlds import World, world
from ruamel.yaml import YAML

from forecastle.clouds import gcp_client
from forecastle.errors import Denied
from forecastle.types import Kind

ROLE = YAML(typ="safe").load((files("forecastle.clouds") / "policies" / "gcp.yaml").read_text())
ALLOWED = set(ROLE["includedPermissions"])


def act_in_every_way(gcp: World) -> None:
    """Each kind of action on each kind of pool."""
    for pool in (gcp.group(), gcp.regional()):
        one, two, three, *_ = sorted(gcp.instances(pool))
        gcp.do(Kind.SCALE, 6, pool)
        gcp.do(Kind.RESTART, "1", pool)
        gcp.do(Kind.REPLACE, "1", pool)
        gcp.do(Kind.ROLLBACK, "web-2", pool)
        gcp.do(Kind.RESTART, "2", pool, replica=one)
        gcp.do(Kind.REPLACE, "2", pool, replica=two)
        gcp.do(Kind.QUARANTINE, "sick", pool, replica=three)
    service = gcp.service()
    before = gcp.cloud.observe(service).release
    gcp.do(Kind.SCALE, 6, service)
    gcp.do(Kind.RESTART, "1", service)
    gcp.do(Kind.ROLLBACK, before, service)
    gcp.do(Kind.SCALE, 6, gcp.nodepool())


@pytest.fixture
def gcp(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(gcp_client, "_FIRST_WAIT_S", 0.001)
    with world() as here:
        yield here


def test_the_role_allows_what_is_called_and_nothing_more(gcp: World) -> None:
    act_in_every_way(gcp)
    assert gcp.gcp.asked == ALLOWED
    assert len(ROLE["includedPermissions"]) == len(ALLOWED)


def test_with_the_role_alone_everything_works(gcp: World) -> None:
    gcp.gcp.granted = ALLOWED
    act_in_every_way(gcp)
    assert gcp.gcp.done


@pytest.mark.parametrize("missing", sorted(ALLOWED))
def test_without_any_one_of_its_permissions_something_is_denied(missing: str, gcp: World) -> None:
    gcp.gcp.granted = ALLOWED - {missing}
    with pytest.raises(Exception, match=missing.replace(".", r"\.")) as caught:
        act_in_every_way(gcp)
    assert isinstance(caught.value, Denied) or isinstance(caught.value.__cause__, Denied)


def test_the_role_deletes_creates_and_grants_nothing() -> None:
    forbidden = ("delete", "create", "setiampolicy", "*")
    assert not [one for one in ALLOWED if any(word in one.lower() for word in forbidden)]
