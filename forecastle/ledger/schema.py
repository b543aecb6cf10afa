"""Tables. ``entries`` is the truth and only grows; the others are derived from it for queries, or coordinate workers.

What must never happen is forbidden here rather than in code, so that no writer can forget it: a tick is decided once, an
action has one intent, a target has one intent in flight, an epoch never decreases (the update says so in its WHERE).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("prev", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("entries_at", "at"),
)

ticks = Table(
    "ticks",
    metadata,
    Column("scope", String(128), primary_key=True),
    Column("tick", BigInteger, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("scope", String(128), primary_key=True),
    Column("tick", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False, index=True),
    Column("expires_at", BigInteger, nullable=False),
)

recommendations = Table(
    "recommendations",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("workload", String(256), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("replicas", Integer, nullable=False),
)

panics = Table(
    "panics",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("tick", BigInteger, nullable=False, index=True),
)

fingerprints = Table(
    "fingerprints",
    metadata,
    Column("scope", String(128), primary_key=True),
    Column("fingerprint", String(256), primary_key=True),
    Column("tick", BigInteger, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("action_id", String(64), primary_key=True),
    Column("target", String(512), nullable=False),
    Column("pool", String(256), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("action", Text, nullable=False),
    Column("before", Text),
    Index(
        "one_in_flight",
        "target",
        unique=True,
        sqlite_where=text("state = 'open'"),
        postgresql_where=text("state = 'open'"),
    ),
    Index("intents_state", "state"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("action_id", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("body", Text, nullable=False),
)

ready = Table(
    "ready",
    metadata,
    Column("action_id", String(64), primary_key=True),
    Column("pool", String(256), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("lag_s", Float, nullable=False),
)
"""When growth was first seen to be all ready, and how long after its order: what start-up lags are learned from."""

drained = Table(
    "drained",
    metadata,
    Column("pool", String(256), primary_key=True),
    Column("base", Integer, nullable=False),
    Column("left", Integer),
)
"""Pools whose traffic a failover took away: the weight to give back, and the one they were left with."""

leases = Table(
    "leases",
    metadata,
    Column("target", String(512), primary_key=True),
    Column("holder", String(256), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

buckets = Table(
    "buckets",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("capacity", Float, nullable=False),
    Column("per_hour", Float, nullable=False),
    Column("tokens", Float, nullable=False),
    Column("at", BigInteger, nullable=False),
)

modes = Table(
    "modes",
    metadata,
    Column("workload", String(256), primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("who", String(256), nullable=False),
    Column("at", BigInteger, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    Column("target", String(512), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("who", String(256), nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""The kill switch is the hold on the target ``*``: the one row that stops everything."""

requests = Table(
    "requests",
    metadata,
    Column("plan_hash", String(64), primary_key=True),
    Column("plan_id", String(64), nullable=False),
    Column("requester", String(256), nullable=False),
    Column("people", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("plan_hash", String(64), primary_key=True),
    Column("person", String(256), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
