"""The agent as a process over the real broker: killed with an order in hand, cut off from the broker, and given forgeries."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from forecastle.clouds.edge_messages import Answer, Order, Refused, Sight, Signer
from forecastle.clouds.sim import SimCloud
from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake.connection import options
from forecastle.intake.publish import create_topics
from forecastle.outlets.site_topic import SiteReader, SiteWriter
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.runtime.config import load
from forecastle.runtime.edge import agent as agent_of
from forecastle.settings import IntakeSettings, Settings
from forecastle.types import Action, Kind, Pool, Status

pytestmark = pytest.mark.broker
KEY, OTHER = b"k" * 32, b"o" * 32
POOL = Pool("shop-ams", "shop", "ams", "local", 0.1, startup_s=0, min=1, max=12, quota=12)
DAY_MS = 86_400_000

SLOW = '''
"""A cloud that says when it begins and waits before its effect, or after it, until it is let go."""
import time
from pathlib import Path
from forecastle.clouds.sim import SimCloud

class SlowCloud(SimCloud):
    def __init__(self, *, folder, when, **options):
        super().__init__(**options)
        self.folder, self.when = Path(folder), when

    def apply(self, action, pool, *, token):
        if self.when == "before":
            self.stop()
        receipt = super().apply(action, pool, token=token)
        if self.when == "after":
            self.stop()
        return receipt

    def stop(self):
        (self.folder / "begun").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.01)

open_cloud = SlowCloud
'''


class Place:
    """A site: its folder, its topics, and processes that do not outlive the test."""

    def __init__(self, folder: Path, bootstrap: str, orders: str, reports: str) -> None:
        self.folder, self.bootstrap, self.orders, self.reports = folder, bootstrap, orders, reports
        self.started: list[subprocess.Popen[bytes]] = []
        self.linked = options(IntakeSettings(bootstrap=bootstrap))
        self.writer = SiteWriter(orders, self.linked)
        self.reader = SiteReader(reports, "ams", self.linked)
        self.signer = Signer({"k1": KEY}, "k1")
        self.heard: list[Any] = []

    def settings(self, *, when: str = "never", bootstrap: str = "") -> Path:
        (self.folder / "slow_cloud.py").write_text(SLOW)
        pool = {"name": "shop-ams", "site": "ams", "adapter": "local", "unit_price": 0.1, "startup_s": 0}
        site = {"site": "ams", "key": "k1", "accept": {"k1": "AGENT_KEY"}, "state": f"{self.folder}/agent.db", "report_s": 0.5}
        slow = {"path": f"{self.folder}/sim.db", "folder": str(self.folder), "when": when}
        told = {
            "intake": {"bootstrap": bootstrap or self.bootstrap},
            "agent": site | {"orders_topic": self.orders, "reports_topic": self.reports},
            "clouds": {"local": {"adapter": "slow_cloud:open_cloud", "options": slow}},
            "fleet": {
                "sites": [{"name": "ams", "provider": "edge", "region": "ams"}],
                "workloads": [
                    {
                        "name": "shop",
                        "demands": [{"metric": "rps", "per_replica": 10}],
                        "pools": [pool | {"min": 1, "max": 12, "quota": 12}],
                    }
                ],
            },
        }
        path = self.folder / f"{when}.yaml"
        path.write_text(json.dumps(told))
        return path

    def start(self, *, when: str = "never") -> subprocess.Popen[bytes]:
        environment = os.environ | {"AGENT_KEY": base64.b64encode(KEY).decode(), "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-m", "forecastle.cli", "agent", "-c", str(self.settings(when=when))]
        self.started.append(subprocess.Popen(command, env=environment))
        return self.started[-1]

    def order(self, desired: int, *, expected: int = 1, key: bytes = KEY, **changes: Any) -> bytes:
        now = int(time.time() * 1000)
        action = Action(Kind.SCALE, "shop", "shop-ams", desired, expected, now, now + 300_000)
        made = {"site": "ams", "sequence": now, "token": action.id, "issued_at": now, "expires_at": now + 300_000}
        return Signer({"k1": key}, "k1").seal(Order(action=action, **{**made, **changes}))

    def hear(self, kind: type, count: int = 1) -> list[Any]:
        """What the agent said, once there are ``count`` messages of one kind."""
        deadline = time.monotonic() + 60
        while len(found := [message for message in self.heard if isinstance(message, kind)]) < count:
            assert time.monotonic() < deadline, f"only heard {self.heard}"
            self.heard += [self.signer.open(value, Answer, Refused, Sight) for _, _, value in self.reader.poll(0.2)]
        return found

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} did not come"
            time.sleep(0.01)

    def replicas(self) -> int:
        with closing(SimCloud(clock=WallClock(), path=f"{self.folder}/sim.db")) as cloud:
            return cloud.observe(POOL).replicas

    def effects(self) -> int:
        """How often the cloud accepted an order."""
        with closing(sqlite3.connect(self.folder / "sim.db")) as db:
            return int(db.execute("select count(*) from orders").fetchone()[0])

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        self.writer.close()
        self.reader.close()


@pytest.fixture
def place(broker: LocalBroker, tmp_path: Path, topic_name: Callable[[str], str]) -> Iterator[Place]:
    orders, reports = topic_name("orders"), topic_name("reports")
    create_topics(IntakeSettings(bootstrap=broker.bootstrap), [orders, reports], partitions=2)
    made = Place(tmp_path, broker.bootstrap, orders, reports)
    yield made
    made.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_with_an_order_in_hand(place: Place, when: str) -> None:
    first = place.start(when=when)
    place.writer.send("ams", [place.order(5)])
    place.wait_for("begun")
    first.kill()
    first.wait()
    place.start()
    (answer,) = place.hear(Answer)
    assert answer.status == (Status.ALREADY if when == "after" else Status.APPLIED)
    assert (answer.before.replicas, answer.after.replicas, place.replicas(), place.effects()) == (1, 5, 5, 1)


def test_forged_and_replayed_orders(place: Place) -> None:
    place.start()
    order = place.order(5)
    place.writer.send("ams", [place.order(9, key=OTHER), order, order, b"junk"])
    place.writer.send("fra", [place.order(9, site="fra")])
    place.writer.send("ams", [place.order(7, expected=5, sequence=2**60)])
    assert [answer.status for answer in place.hear(Answer, 2)] == [Status.APPLIED, Status.APPLIED]
    assert [refused.reason for refused in place.hear(Refused, 3)] == ["bad_signature", "replayed", "not_json"]
    assert (place.replicas(), place.effects()) == (7, 2)


def test_a_second_agent_waits_for_the_first(place: Place) -> None:
    first, second = place.start(), place.start()
    place.hear(Sight, 2)
    waiting = second if first.poll() is None else first
    waiting.terminate()
    assert waiting.wait(30) == 0
    place.writer.send("ams", [place.order(4)])
    assert place.hear(Answer)[0].status in {Status.APPLIED}
    assert place.effects() == 1


def in_process(place: Place, clock: EventClock, cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch, bootstrap: str) -> Any:
    """The agent in this process, so that its clock can be turned, with connections that give up soon."""
    monkeypatch.setenv("AGENT_KEY", base64.b64encode(KEY).decode())
    monkeypatch.syspath_prepend(place.folder)
    monkeypatch.delitem(sys.modules, "slow_cloud", raising=False)
    settings: Settings = load([place.settings(bootstrap=bootstrap)])
    return agent_of(settings, clock, cleanup, timeout_s=0.3)


def test_a_day_without_the_broker(place: Place, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time() * 1000)
    clock = EventClock(now)
    with ExitStack() as cleanup:
        agent = in_process(place, clock, cleanup, monkeypatch, place.bootstrap)
        place.writer.send("ams", [place.order(5)])
        while not any(isinstance(message, Answer) for message in place.heard):
            agent.turn(0.2)
            place.hear(Sight)
            place.heard += [place.signer.open(value, Answer, Refused, Sight) for _, _, value in place.reader.poll(0.1)]
    place.writer.send("ams", [place.order(9, expected=5, sequence=now * 2)])
    with ExitStack() as cleanup:
        agent = in_process(place, clock, cleanup, monkeypatch, f"127.0.0.1:{free_port}")
        for _ in range(4):
            clock.advance(clock.now() + DAY_MS // 4)
            agent.turn(0.0)
            assert agent.link
        assert len(agent.post.book.letters()) == 1
    with ExitStack() as cleanup:
        agent = in_process(place, clock, cleanup, monkeypatch, place.bootstrap)
        while len([message for message in place.heard if isinstance(message, Answer)]) < 2:
            agent.turn(0.2)
            place.heard += [place.signer.open(value, Answer, Refused, Sight) for _, _, value in place.reader.poll(0.1)]
    late = place.hear(Answer, 2)[-1]
    assert (late.status, late.reason, place.replicas(), place.effects()) == (Status.REFUSED, "expired", 5, 1)
    assert max(message.at for message in place.hear(Sight)) >= now + DAY_MS


def test_a_broker_that_stops_and_comes_back(tmp_path: Path, free_port: int) -> None:
    with LocalBroker(tmp_path / "broker", free_port) as broker:
        create_topics(IntakeSettings(bootstrap=broker.bootstrap), ["orders", "reports"], partitions=1)
        place = Place(tmp_path, broker.bootstrap, "orders", "reports")
        try:
            place.start()
            place.hear(Sight)
            broker.stop()
            broker.start()
            place.writer.close()
            place.writer.send("ams", [place.order(6)])
            assert place.hear(Answer)[0].status is Status.APPLIED
        finally:
            place.close()


def test_a_topic_that_is_not_there(place: Place) -> None:
    reader = SiteReader("nowhere-at-all", "ams", place.linked, timeout_s=2.0)
    with pytest.raises(BrokerUnavailable, match="nowhere-at-all"):
        reader.poll(0.1)
    reader.close()


def test_reading_begins_where_it_is_told(place: Place) -> None:
    place.writer.send("ams", [b"one", b"two", b"three"])
    place.writer.send("fra", [b"other"])
    first = SiteReader(place.orders, "ams", place.linked)
    seen: list[tuple[int, int, bytes]] = []
    while len(seen) < 3:
        seen += first.poll(0.2)
    assert [value for _, _, value in seen] == [b"one", b"two", b"three"]
    later = SiteReader(place.orders, "ams", place.linked, position={seen[2][0]: seen[2][1]}.get)
    again: list[tuple[int, int, bytes]] = []
    while not again:
        again += later.poll(0.2)
    assert again == seen[2:]
    future = SiteReader(place.orders, "ams", place.linked, since=lambda: int(time.time() * 1000) + 60_000)
    assert future.poll(0.5) == []
    for reader in (first, later, future):
        reader.close()
        reader.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["agent.site=nowhere"], "agent.site: 'nowhere' has no pool"),
        (["agent.site="], "agent.site: '' has no pool"),
        (["agent.key=k9"], "there is no key 'k9'; the keys are k1"),
        (["agent.kinds=[fly]"], "'fly' is no kind of action"),
    ],
)
def test_what_is_configured_wrongly(place: Place, monkeypatch: pytest.MonkeyPatch, changes: list[str], words: str) -> None:
    monkeypatch.setenv("AGENT_KEY", base64.b64encode(KEY).decode())
    monkeypatch.syspath_prepend(place.folder)
    settings = load([place.settings()], flags=changes)
    with ExitStack() as cleanup, pytest.raises(ConfigError, match=words):
        agent_of(settings, WallClock(), cleanup)
