"""HAProxy keeps every promise of the cloud plug, over both kinds of socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from haproxy_worlds import FRA, Balancer, balancer

from forecastle.testing.check_cloud import Check, checks


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    folder: Path = tmp_path_factory.mktemp("haproxy")
    with balancer(folder) as made:
        yield made


@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("check", checks(), ids=str)
def test_haproxy_keeps_its_promises(check: Check, way: str, here: Balancer) -> None:
    address = here.admin if way == "unix" else f"127.0.0.1:{here.tcp}"
    check(lambda: here.connect(socket=address), FRA)
