"""A real HAProxy with a few small web servers behind it, all on the loopback, and a bounded load through it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from forecastle.clouds.haproxy import HaproxyCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
FRA = Pool("web-fra", "shop", "fra", "haproxy", 0.1, target={"backend": "web", "servers": "fra*"})
AMS = Pool("web-ams", "shop", "ams", "haproxy", 0.1, target={"backend": "web", "servers": "ams*"})
SERVERS = ("fra1", "fra2", "ams1", "ams2")
ANSWER_S = 0.04
MOST = 40


def program() -> str:
    """HAProxy, or a skip; a failure where REQUIRE_PROGRAMS is set."""
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        how = "haproxy is not installed; get it with: apt-get install haproxy"
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(how)
        pytest.skip(how)
    return found


class Webs:
    """Web servers by name, in a thread with a loop of its own; each says its name after ANSWER_S."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.busy: dict[str, set[asyncio.StreamWriter]] = {name: set() for name in names}
        self.servers = {name: self.run(self._listen(name)) for name in names}
        self.ports = {name: server.sockets[0].getsockname()[1] for name, server in self.servers.items()}

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _listen(self, name: str) -> asyncio.Server:
        return await asyncio.start_server(lambda reader, writer: self._serve(name, reader, writer), "127.0.0.1", 0)

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.busy[name].add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(ANSWER_S)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nConnection: close\r\n\r\n{name}".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.busy[name].discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def kill(self, *names: str) -> None:
        """The machines are gone: nothing listens and what was under way is cut off."""

        async def gone() -> None:
            for name in names:
                self.servers[name].close()
                for writer in list(self.busy[name]):
                    writer.transport.abort()

        self.run(gone())

    def close(self) -> None:
        self.kill(*self.servers)
        self.run(asyncio.sleep(2 * ANSWER_S))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@dataclass
class Load:
    """Requests at a steady rate until it is stopped; ``answers`` are the names of who answered, '' for a failure.

    A machine that is too slow for the rate gets less: at most ``MOST`` are under way.
    """

    port: int
    webs: Webs
    rate: float
    answers: list[str] = field(default_factory=list)
    under_way: set[int] = field(default_factory=set)
    stopped: bool = False

    async def _ask(self, number: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
                head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
            self.answers.append(body.decode() if head.startswith(b"HTTP/1.1 200") else "")
        except (OSError, TimeoutError):
            self.answers.append("")
        finally:
            self.under_way.discard(number)

    async def _run(self) -> None:
        begun, asked = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self.stopped:
                while asked < (time.monotonic() - begun) * self.rate and len(self.under_way) < MOST:
                    self.under_way.add(asked)
                    group.create_task(self._ask(asked))
                    asked += 1
                await asyncio.sleep(0.005)

    def wait(self, more: int) -> list[str]:
        """Until ``more`` requests are over: these."""
        had, deadline = len(self.answers), time.monotonic() + 60
        while len(self.answers) < had + more:
            assert time.monotonic() < deadline, "the load does not go through"
            time.sleep(0.01)
        return self.answers[had:]

    def settle(self) -> None:
        """Until every request that is under way now is over."""
        now, deadline = set(self.under_way), time.monotonic() + 60
        while now & set(self.under_way):
            assert time.monotonic() < deadline, "the load does not go through"
            time.sleep(0.01)


@dataclass
class Balancer:
    """HAProxy, what is behind it, and connections to its runtime API."""

    webs: Webs
    port: int
    admin: str
    tcp: int
    config: Path
    clock: EventClock
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start HAProxy, and wait until it listens."""
        Path(self.admin).unlink(missing_ok=True)
        self.process = subprocess.Popen([program(), "-db", "-q", "-f", str(self.config)])
        deadline = time.monotonic() + 60
        while not self._listens():
            assert self.process.poll() is None, "haproxy did not start"
            assert time.monotonic() < deadline, "haproxy did not start in time"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(self.admin) == 0

    def connect(self, **options: Any) -> HaproxyCloud:
        return open_cloud(**{"clock": self.clock, "socket": self.admin, **options})

    def seen(self, pool: Pool = FRA) -> Observed:
        return self.connect().observe(pool)

    def action(self, kind: Kind, desired: int | str, *, pool: Pool = FRA, replica: str = "") -> Action:
        """On the pool as it is."""
        self.clock.advance(self.clock.now() + 1000)
        tick, version = self.clock.now(), self.seen(pool).version
        return Action(kind, "shop", pool.name, desired, version, tick, tick + 300_000, replica)

    def do(self, kind: Kind, desired: int | str, *, pool: Pool = FRA, replica: str = "", **options: Any) -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, pool=pool, replica=replica)
        return self.connect(**options).apply(action, pool, token=action.id)

    def say(self, command: str) -> str:
        """What an operator does by hand."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.admin)
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def weight(self, server: str) -> str:
        return self.say(f"get weight web/{server}").strip()

    @contextmanager
    def load(self, rate: float = 200.0) -> Iterator[Load]:
        """Load for the length of a block, and until every request of it is over."""
        load = Load(self.port, self.webs, rate)
        running = asyncio.run_coroutine_threadsafe(load._run(), self.webs.loop)
        try:
            load.wait(20)
            yield load
        finally:
            load.stopped = True
            running.result(60)


def free_port() -> int:
    """Below the ports that outgoing connections get."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def configuration(webs: Webs, port: int, tcp: int, admin: Path, level: str) -> str:
    servers = "\n".join(f"  server {name} 127.0.0.1:{webs.ports[name]} weight 100" for name in webs.ports)
    return f"""
global
  stats socket {admin} mode 600 level {level}
  stats socket ipv4@127.0.0.1:{tcp} level {level}
  maxconn 500
  nbthread 1
defaults
  mode http
  retries 0
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend shop
  bind 127.0.0.1:{port}
  default_backend web
backend web
  balance roundrobin
{servers}
backend one
  server odd 127.0.0.1:{next(iter(webs.ports.values()))} weight 5
"""


@contextmanager
def balancer(folder: Path, *, level: str = "admin") -> Iterator[Balancer]:
    """HAProxy in front of SERVERS; it retries nothing, so that what a server loses is lost."""
    program()
    webs = Webs(SERVERS)
    port, tcp, admin, config = free_port(), free_port(), folder / "admin.sock", folder / "haproxy.cfg"
    config.write_text(configuration(webs, port, tcp, admin, level))
    made = Balancer(webs, port, str(admin), tcp, config, EventClock(START))
    try:
        made.start()
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        webs.close()
