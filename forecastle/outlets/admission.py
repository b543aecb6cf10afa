"""Who may ring: bearer tokens and passwords for Alertmanager, signatures for everybody else. Nothing is let in unasked.

A door without a secret cannot be made. What is wrong with a refused request is logged, never told to who sent it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from forecastle.errors import ConfigError, Denied, Transient
from forecastle.outlets import signature

SHORTEST_SECRET = 16


class Passwords:
    """Bearer tokens and ``user:password`` pairs, held as digests. ``tokens`` and ``pairs`` name environment variables."""

    def __init__(self, tokens: Sequence[str], pairs: Sequence[str], environment: Mapping[str, str]) -> None:
        bearers = [f"Bearer {_secret(environment, name, 'tokens')}" for name in tokens]
        basics = [_secret(environment, name, "basic") for name in pairs]
        for name, pair in zip(pairs, basics, strict=True):
            if ":" not in pair:
                raise ConfigError(f"outlets.doorbell.basic: {name} does not hold user:password")
        encoded = [f"Basic {base64.b64encode(pair.encode()).decode()}" for pair in basics]
        self._known = [_digest(text) for text in (*bearers, *encoded)]
        if not self._known:
            raise ConfigError("outlets.doorbell: a route needs a secret; name a variable in tokens or basic")

    def check(self, authorization: str) -> None:
        """Raises Denied unless the header ``Authorization`` is one of those known; all are compared, in constant time."""
        scheme, _, rest = authorization.partition(" ")
        asked, fits = _digest(f"{scheme.capitalize()} {rest.strip()}"), False
        for known in self._known:
            fits |= hmac.compare_digest(known, asked)
        if not fits:
            raise Denied("Authorization is missing or not known")


class Signatures:
    """Standard Webhooks with a memory of what came, so that the same request does not count twice.

    Ids are remembered for as long as their timestamp would be accepted. When ``most`` of them are, newcomers have to wait:
    none is forgotten early.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        environment: Mapping[str, str],
        *,
        tolerance_s: float = 300.0,
        most: int = 10_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = [signature.key(environment.get(name, ""), name, "outlets.doorbell.secrets") for name in secrets]
        if not self._keys:
            raise ConfigError("outlets.doorbell: a route needs a secret; name a variable in secrets")
        self._tolerance_s, self._most, self._now = tolerance_s, most, now
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def accept(self, named: Mapping[str, str], body: bytes, take: Callable[[], None]) -> bool:
        """Verify, and ``take`` what is new. False when it is a sender's second try of what was taken already.

        A sender's next try carries a later timestamp; the same id with the same or an earlier one is a replay. Raises Denied
        for that and for what is not signed or stale, Transient when the memory is full. What ``take`` raises is passed on,
        and the id is not remembered.
        """
        stamp = signature.verify(self._keys, named, body, now_s=self._now(), tolerance_s=self._tolerance_s)
        with self._lock:
            self._forget()
            known = self._seen.get(stamp.ident)
            if known is not None and stamp.at_s <= known:
                raise Denied("the delivery was seen before")
            if known is None:
                if len(self._seen) >= self._most:
                    raise Transient("too many deliveries to remember", retry_after=self._tolerance_s)
                take()
            self._seen[stamp.ident] = stamp.at_s
            self._seen.move_to_end(stamp.ident)
            return known is None

    def _forget(self) -> None:
        """Drop ids whose timestamp is stale by now. One that came out of order hides at most those behind it, for a while."""
        oldest = self._now() - self._tolerance_s
        while self._seen and next(iter(self._seen.values())) < oldest:
            self._seen.popitem(last=False)


def _secret(environment: Mapping[str, str], name: str, field: str) -> str:
    found = environment.get(name, "").strip()
    if len(found) < SHORTEST_SECRET:
        raise ConfigError(
            f"outlets.doorbell.{field}: {name} holds less than {SHORTEST_SECRET} characters; "
            "make a secret with: openssl rand -hex 32"
        )
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
