"""A site behind its agent keeps every promise of the cloud plug: the real broker, and the agent as a process of its own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forecastle.clouds.edge import EdgeCloud
from forecastle.errors import CloudUnavailable, ConfigError
from forecastle.intake.publish import create_topics
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.edge import allowed, open_cloud, secrets
from forecastle.settings import IntakeSettings
from forecastle.testing.check_cloud import Check, checks
from forecastle.types import Pool

POOL = Pool("shop-ams", "shop", "ams", "edge", 0.1, startup_s=0, min=1, max=20, quota=12)
KEY = base64.b64encode(b"k" * 32).decode()


@dataclass
class Site:
    """Where the agent is, and how to reach it."""

    told: dict[str, Any]

    def connect(self) -> EdgeCloud:
        return open_cloud(clock=WallClock(), **self.told)


@pytest.fixture(scope="module")
def site(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("edge")
    orders, reports = f"orders-{os.getpid()}", f"reports-{os.getpid()}"
    create_topics(IntakeSettings(bootstrap=broker.bootstrap), [orders, reports])
    demands = [{"metric": "rps", "per_replica": 10}]
    pool = {
        "name": POOL.name,
        "site": "ams",
        "adapter": "local",
        "unit_price": 0.1,
        "startup_s": 0,
        "min": 1,
        "quota": 12,
        "max": 12,
    }
    names = {"orders_topic": orders, "reports_topic": reports}
    configuration = {
        "intake": {"bootstrap": broker.bootstrap},
        "agent": {
            "site": "ams",
            "key": "k1",
            "accept": {"k1": "EDGE_KEY"},
            "state": f"{folder}/agent.db",
            "report_s": 1,
            **names,
        },
        "clouds": {"local": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": f"{folder}/sim.db"}}},
        "fleet": {
            "sites": [{"name": "ams", "provider": "edge", "region": "ams"}],
            "workloads": [{"name": "shop", "demands": demands, "pools": [pool]}],
        },
    }
    (folder / "agent.yaml").write_text(json.dumps(configuration))
    command = [sys.executable, "-m", "forecastle.cli", "agent", "-c", str(folder / "agent.yaml")]
    os.environ["EDGE_KEY"] = KEY
    agent = subprocess.Popen(command, env=os.environ | {"EDGE_KEY": KEY})
    common = {"site": "ams", "key": "k1", "key_env": "EDGE_KEY", "sequence": f"{folder}/sequence", "wait_s": 20.0}
    made = Site({**common, **names, "bootstrap": broker.bootstrap})
    try:
        wait_until_heard(made, agent)
        yield made
    finally:
        os.environ.pop("EDGE_KEY")
        agent.terminate()
        assert agent.wait(30) == 0


def wait_until_heard(made: Site, agent: subprocess.Popen[bytes]) -> None:
    cloud, deadline = made.connect(), time.monotonic() + 60
    while time.monotonic() < deadline:
        assert agent.poll() is None, "the agent ended"
        try:
            cloud.observe(POOL)
        except CloudUnavailable:
            time.sleep(0.1)
        else:
            cloud.close()
            return
    pytest.fail("the agent was not heard of")


@pytest.mark.broker
@pytest.mark.parametrize("check", checks(), ids=str)
def test_a_site_keeps_its_promises(check: Check, site: Site) -> None:
    check(site.connect, POOL)


# --- what is configured wrongly -------------------------------------------------------------------------------------------


def told(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    made = {"site": "ams", "key": "k1", "key_env": "EDGE_K", "sequence": str(tmp_path / "s"), "bootstrap": "127.0.0.1:1"}
    return made | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": "scale, fly"}, "'fly' is no kind of action; they are scale, restart"),
        ({"kinds": " "}, "is no kind of action"),
        ({"bootstrap": "10.0.0.1:9092"}, "would cross a network in the clear"),
        ({"security_protocol": "TLS"}, "security_protocol: Input should be"),
        ({"colour": "red"}, "no option 'colour'; of the connection there are bootstrap"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u"}, "sasl_password"),
        ({"key_env": "NOT_SET"}, "NOT_SET of key 'k1' holds no base64; set it with: export NOT_SET="),
        ({"accept": "k2=NOT_SET"}, "NOT_SET of key 'k2'"),
    ],
)
def test_a_wrong_option_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("EDGE_K", KEY)
    with pytest.raises(ConfigError, match=words):
        open_cloud(clock=WallClock(), **told(tmp_path, **changes))


def test_a_password_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_K", KEY)
    monkeypatch.setenv("EDGE_P", "p4ss")
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u", "sasl_password_env": "EDGE_P"}
    open_cloud(clock=WallClock(), **told(tmp_path, bootstrap="10.0.0.1:9092", **sasl)).close()


def test_a_secret_that_is_no_base64_is_not_told() -> None:
    with pytest.raises(ConfigError) as found:
        secrets({"k1": "V"}, {"V": "not base64 at all"})
    assert "not base64" not in str(found.value)


def test_further_keys_are_accepted() -> None:
    assert secrets({"k1": "A", "k2": "B"}, {"A": "YQ==", "B": "Yg=="}) == {"k1": b"a", "k2": b"b"}


def test_kinds_by_name() -> None:
    assert {kind.value for kind in allowed(["scale", " restart ", ""])} == {"scale", "restart"}
