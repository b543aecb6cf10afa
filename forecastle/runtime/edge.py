"""Both ends of the link to a site, joined from the configuration: the adapter that control uses, and the agent.

They stand here because they need a connection to Kafka, which no adapter has.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forecastle.clouds.edge import EdgeCloud
from forecastle.clouds.edge_messages import Signer
from forecastle.clouds.edge_sequence import Sequence
from forecastle.errors import ConfigError
from forecastle.intake.connection import options
from forecastle.outlets.site_topic import SiteReader, SiteWriter
from forecastle.ports import Clock
from forecastle.runtime.agent import Agent, Post
from forecastle.runtime.agent_book import AgentBook
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.health import HealthFile
from forecastle.runtime.inventory import inventory
from forecastle.runtime.providers import clouds
from forecastle.runtime.worker import role, stopping
from forecastle.settings import IntakeSettings, Settings
from forecastle.types import Kind

log = logging.getLogger(__name__)
ORDERS, REPORTS = "forecastle.orders", "forecastle.reports"
PAUSE_S, BEAT_S = 1.0, 5.0


def open_cloud(
    *,
    clock: Clock,
    site: str,
    key: str,
    key_env: str,
    sequence: str,
    accept: str = "",
    kinds: str = "scale",
    stale_s: float = 120.0,
    wait_s: float = 5.0,
    timeout_s: float = 10.0,
    orders_topic: str = ORDERS,
    reports_topic: str = REPORTS,
    provider: str = "edge",
    **connection: Any,
) -> EdgeCloud:
    """The adapter for ``site``. ``key`` is the id of the key in the environment variable ``key_env``.

    ``accept`` has further keys as ``id=VARIABLE``, joined by commas; ``sequence`` is the file with the number of the last
    order; what else is given are fields of `IntakeSettings` for the connection. Raises ConfigError.
    """
    named = {key: key_env} | dict(part.strip().partition("=")[::2] for part in accept.split(",") if part.strip())
    linked = options(_connection(connection))
    patience_ms = round(stale_s * 1000)
    return EdgeCloud(
        clock=clock,
        site=site,
        writer=SiteWriter(orders_topic, linked, timeout_s=timeout_s),
        reader=SiteReader(reports_topic, site, linked, since=lambda: clock.now() - patience_ms, timeout_s=timeout_s),
        signer=Signer(secrets(named), key),
        sequence=Sequence(sequence),
        kinds=allowed(kinds.split(",")),
        stale_s=stale_s,
        wait_s=wait_s,
        provider=provider,
    )


def agent(settings: Settings, clock: Clock, cleanup: ExitStack, *, timeout_s: float = 10.0) -> Agent:
    """The agent that ``settings.agent`` describes, over the configured adapters of its site's pools. Raises ConfigError."""
    told = settings.agent
    stock = inventory(settings)
    pools = {name: pool for name, pool in stock.pools.items() if pool.site == told.site}
    if not told.site or not pools:
        raise ConfigError(f"agent.site: '{told.site}' has no pool in `fleet.workloads`; name a site that has")
    missing = sorted({pool.adapter for pool in pools.values()} - set(settings.clouds))
    if missing:
        raise ConfigError(f"agent: pools of '{told.site}' need the adapter '{missing[0]}'; add it to `clouds`")
    signer = Signer(secrets(told.accept), told.key)
    book = AgentBook(told.state)
    cleanup.callback(book.close)
    used = {pool.adapter for pool in pools.values()}
    here = settings.model_copy(update={"clouds": {name: one for name, one in settings.clouds.items() if name in used}})
    opened = clouds(here, clock)
    for cloud in opened.values():
        cleanup.callback(cloud.close)
    linked = options(settings.intake)
    reader = SiteReader(told.orders_topic, told.site, linked, position=book.position, timeout_s=timeout_s)
    writer = SiteWriter(told.reports_topic, linked, timeout_s=timeout_s)
    cleanup.callback(reader.close)
    cleanup.callback(writer.close)
    kinds = allowed(told.kinds)
    return Agent(Post(told.site, pools, opened, reader, writer, signer, book, clock, kinds, told.report_s))


def run_agent(settings: Settings, *, shift_s: float = float("inf")) -> None:
    """Serve the site until a signal or the end of the shift. A second agent over the same memory waits for the first."""
    with stopping() as stop, ExitStack() as cleanup:
        if not cleanup.enter_context(role(Path(settings.agent.state).with_suffix(".lock"), stop)):
            return
        health = HealthFile(heartbeat(settings), f"agent of {settings.agent.site}", BEAT_S)
        serve(agent(settings, WallClock(), cleanup), health, stop, time.monotonic() + shift_s)


def heartbeat(settings: Settings) -> Path:
    """The file of the agent's heartbeat, beside its memory."""
    return Path(settings.agent.state).with_suffix(".health.json")


def serve(working: Agent, health: HealthFile, stop: threading.Event, ends: float) -> None:
    """Turn the agent and say how it is; a word in the log when the link goes or comes back."""
    down = ""
    while not stop.is_set() and time.monotonic() < ends:
        working.turn(PAUSE_S)
        if bool(working.link) != bool(down):
            log.warning("link: %s", working.link or "up again")
        since = {} if bool(down) == bool(working.link) else {"hold_since": WallClock().now() if working.link else 0}
        down = working.link
        health.update(state="HOLD" if down else "RUNNING", detail=down, refusals=dict(working.refused), **since)
        if down:
            stop.wait(PAUSE_S)
    health.update(state="STOPPED")


def secrets(named: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, bytes]:
    """Key id to key, from id to environment variable. Raises ConfigError that names the variable, never what is in it."""
    found = {}
    for name, variable in named.items():
        try:
            found[name] = base64.b64decode(environment.get(variable, ""), validate=True)
        except binascii.Error:
            found[name] = b""
        if not found[name]:
            raise ConfigError(
                f"edge: the environment variable {variable} of key '{name}' holds no base64; "
                f'set it with: export {variable}="$(openssl rand -base64 32)"'
            )
    return found


def allowed(names: Iterable[str]) -> frozenset[Kind]:
    """The kinds of these names. Raises ConfigError for one that is none."""
    told = [name.strip() for name in names if name.strip()]
    unknown = sorted(set(told) - {kind.value for kind in Kind})
    if unknown or not told:
        known = ", ".join(kind.value for kind in Kind)
        raise ConfigError(f"edge: kinds: '{unknown[0] if unknown else ''}' is no kind of action; they are {known}")
    return frozenset(Kind(name) for name in told)


def _connection(given: Mapping[str, Any]) -> IntakeSettings:
    fields = ("bootstrap", "security_protocol", "ssl_cafile", "sasl_mechanism", "sasl_username")
    if unknown := sorted(set(given) - {*fields, "sasl_password_env"}):
        raise ConfigError(f"edge: no option '{unknown[0]}'; of the connection there are {', '.join(fields)}, sasl_password_env")
    told = {name: value for name, value in given.items() if name in fields}
    if variable := given.get("sasl_password_env"):
        told["sasl_password"] = os.environ.get(str(variable))
    try:
        return IntakeSettings(**told)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"edge: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
