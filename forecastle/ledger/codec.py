"""Exact bytes for what is recorded: a plan read back equals the plan that was decided, and its hash is always the same.

Encoding is canonical (mappings sorted by key, no white space), so that equal values have equal bytes: approvals bind to
the hash of a plan, and the hash chain to the bytes of its entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from forecastle.types import Action, Observed, Outcome, Plan

_encoder = msgspec.json.Encoder(order="deterministic")
_action = msgspec.json.Decoder(Action)
_observed = msgspec.json.Decoder(Observed)
_outcome = msgspec.json.Decoder(Outcome)
_tick = msgspec.json.Decoder(dict[str, msgspec.Raw])
_plans = msgspec.json.Decoder(tuple[Plan, ...])


def encode(value: Any) -> str:
    """Canonical JSON of a type of `forecastle.types`, or of a mapping or sequence of them. NaN becomes null."""
    return _encoder.encode(value).decode()


def decode(text: str) -> Any:
    """Plain JSON values of an entry's body."""
    return msgspec.json.decode(text)


def action(text: str) -> Action:
    """The action that `encode` wrote."""
    return _action.decode(text)


def observed(text: str | None) -> Observed | None:
    """The observation that `encode` wrote, if one was."""
    return _observed.decode(text) if text else None


def outcome(text: str) -> Outcome:
    """The outcome that `encode` wrote."""
    return _outcome.decode(text)


def tick_body(tick: int, scope: str, plans: Sequence[Plan]) -> str:
    """Body of a tick's entry."""
    return encode({"tick": tick, "scope": scope, "plans": list(plans)})


def plans(body: str) -> tuple[Plan, ...]:
    """The plans in a tick's entry, exactly as they were recorded."""
    return _plans.decode(_tick.decode(body)["plans"])


def plan_hash(plan: Plan) -> str:
    """SHA-256 of the whole plan, evidence included: what an approval is bound to."""
    return hashlib.sha256(_encoder.encode(plan)).hexdigest()


def entry_hash(previous: str, seq: int, at: int, kind: str, body: str) -> str:
    """SHA-256 that links an entry to the one before it."""
    return hashlib.sha256(f"{previous}\n{seq}\n{at}\n{kind}\n{body}".encode()).hexdigest()
