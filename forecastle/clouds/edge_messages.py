"""What control and a site's agent say to each other: orders, answers, refusals and sights, each signed for its purpose.

The signature is HMAC-SHA256 over the kind of message, the key's id and the body's bytes as they travel, so that nothing has
to be put into a canonical form, and an order cannot be sent back as an answer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from forecastle.errors import ConfigError, Malformed
from forecastle.types import Action, Observed, Status

LARGEST = 262_144
LEAST_KEY = 24


@dataclass(frozen=True, slots=True)
class Order:
    """Do ``action`` at ``site`` before ``expires_at`` (ms), once for each ``token``; ``sequence`` grows with every order."""

    site: str
    sequence: int
    token: str
    issued_at: int
    expires_at: int
    action: Action


@dataclass(frozen=True, slots=True)
class Answer:
    """How an order ended at ``at`` (ms). ``error`` is the name of what was raised, ``reason`` a short code of a refusal.

    ``number`` grows with every message of the agent.
    """

    site: str
    number: int
    token: str
    at: int
    status: Status
    error: str = ""
    reason: str = ""
    detail: str = ""
    before: Observed | None = None
    after: Observed | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A record in the topic of orders that nobody may act on, and why; ``where`` is its partition and offset."""

    site: str
    number: int
    at: int
    reason: str
    detail: str
    where: str


@dataclass(frozen=True, slots=True)
class Sight:
    """Every pool of a site as its agent saw it at ``at`` (ms); ``unknown`` are those that could not be observed, with why."""

    site: str
    number: int
    at: int
    pools: Mapping[str, Observed] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


class Writer(Protocol):
    """One way of the link. ``send`` returns when all values are durable, or raises a Transient."""

    def send(self, site: str, values: list[bytes]) -> None:
        """Send the values in order, keyed by site."""

    def close(self) -> None:
        """Drop the connection; the next `send` opens another."""


class Reader(Protocol):
    """The other way: records of one site as partition, offset and value."""

    def poll(self, timeout_s: float) -> list[tuple[int, int, bytes]]:
        """What came since the last call, waiting up to ``timeout_s``. Raises a Transient."""

    def close(self) -> None:
        """Drop the connection; the next `poll` opens another."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    key: str
    signature: str
    body: str


class Signer:
    """Signs with the key ``key_id`` and accepts every key of ``keys``: id to secret, so that a key can be changed over."""

    def __init__(self, keys: Mapping[str, bytes], key_id: str) -> None:
        short = sorted(name for name, secret in keys.items() if len(secret) < LEAST_KEY)
        if key_id not in keys or short:
            raise ConfigError(
                f"edge: key '{short[0]}' has less than {LEAST_KEY} bytes; make one with: openssl rand -base64 32"
                if short
                else f"edge: there is no key '{key_id}'; the keys are {', '.join(sorted(keys)) or 'none'}"
            )
        self._keys, self._key_id = dict(keys), key_id

    def seal(self, message: Order | Answer | Refused | Sight) -> bytes:
        """The message as it travels."""
        kind, body = type(message).__name__.lower(), msgspec.json.encode(message).decode()
        signature = _signature(self._keys[self._key_id], kind, self._key_id, body)
        return msgspec.json.encode(_Envelope(kind, self._key_id, signature, body))

    def open(self, value: bytes, *expected: type) -> Any:
        """The message in ``value``, of one of the ``expected`` types.

        Raises Malformed with one of the reasons ``too_large``, ``not_json``, ``wrong_kind``, ``unknown_key``,
        ``bad_signature`` and ``bad_body``; nothing of a message that was not signed is told.
        """
        if len(value) > LARGEST:
            raise Malformed("too_large", f"{len(value)} bytes")
        try:
            found = msgspec.json.decode(value, type=_Envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Malformed("not_json") from None
        made = next((one for one in expected if one.__name__.lower() == found.kind), None)
        if made is None:
            raise Malformed("wrong_kind")
        secret = self._keys.get(found.key)
        if secret is None:
            raise Malformed("unknown_key")
        right = _signature(secret, found.kind, found.key, found.body)
        if not hmac.compare_digest(right.encode(), found.signature.encode()):
            raise Malformed("bad_signature")
        try:
            return msgspec.json.decode(found.body, type=made)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Malformed("bad_body", str(error)[:200]) from None


def _signature(secret: bytes, kind: str, key_id: str, body: str) -> str:
    said = "\n".join(("forecastle-edge-1", kind, key_id, body)).encode()
    return hmac.digest(secret, said, hashlib.sha256).hex()
