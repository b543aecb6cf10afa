"""Signatures by the Standard Webhooks specification 1.0: HMAC-SHA256 over ``id.timestamp.body``, base64, version ``v1``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from forecastle.errors import ConfigError, Denied

PREFIX = "whsec_"
LONGEST_ID = 256
MOST_SIGNATURES = 16


class Stamp(NamedTuple):
    """What a verified delivery says of itself: its idempotency key and when this try was sent (seconds since the epoch)."""

    ident: str
    at_s: int


def key(secret: str, name: str, setting: str = "outlets.webhooks.secrets") -> bytes:
    """The key of a ``whsec_...`` secret, 24 to 64 bytes. Raises ConfigError that speaks of ``name``, never of the secret."""
    try:
        raw = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raw = b""
    if not secret.startswith(PREFIX) or not 24 <= len(raw) <= 64:
        raise ConfigError(
            f"{setting}: {name} does not hold {PREFIX} and 24 to 64 bytes in base64; "
            f'make one with: echo "{PREFIX}$(openssl rand -base64 32)"'
        )
    return raw


def headers(keys: Sequence[bytes], ident: str, at_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a delivery at ``at_s`` (seconds since the epoch), with one signature per key."""
    made = (base64.b64encode(one).decode() for one in _digests(keys, ident, at_s, body))
    return {
        "webhook-id": ident,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in made),
    }


def verify(keys: Sequence[bytes], named: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float) -> Stamp:
    """The stamp of a delivery that one of ``keys`` signed within ``tolerance_s`` of now.

    ``named`` are its headers by lower-case name. Raises Denied. How long it takes does not tell which key or signature fits:
    every key is tried against every signature.
    """
    ident, at, claimed = (named.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
    if not 0 < len(ident) <= LONGEST_ID or "." in ident:
        raise Denied("webhook-id is missing, too long or holds a dot")
    if not (at.isascii() and at.isdigit() and len(at) <= 12):
        raise Denied("webhook-timestamp is not a number of seconds since the epoch")
    if abs(now_s - int(at)) > tolerance_s:
        raise Denied(f"webhook-timestamp is more than {tolerance_s:g} s from now")
    given = _given(claimed)
    fits = False
    for expected in _digests(keys, ident, int(at), body):
        for signature in given:
            fits |= hmac.compare_digest(expected, signature)
    if not fits:
        raise Denied("webhook-signature fits no configured secret")
    return Stamp(ident, int(at))


def _digests(keys: Sequence[bytes], ident: str, at_s: int, body: bytes) -> list[bytes]:
    signed = f"{ident}.{at_s}.".encode() + body
    return [hmac.digest(one, signed, hashlib.sha256) for one in keys]


def _given(claimed: str) -> list[bytes]:
    """The ``v1`` signatures of a header; other versions and what is no base64 are passed over."""
    found = []
    for word in claimed.split()[:MOST_SIGNATURES]:
        version, _, text = word.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found
