"""Staying within what a provider grants an account, instead of finding out by being throttled together with everybody else."""

from __future__ import annotations

import threading
from collections.abc import Callable

from forecastle.clouds.layer import Answer, Layer
from forecastle.errors import CloudUnavailable
from forecastle.ports import Cloud


class Crowded(CloudUnavailable):
    """Our own limit is used up for now. The provider was not asked, so this says nothing about its health."""


class TokenBucket:
    """``burst`` tokens at first, ``rate_per_s`` more each second up to ``burst``. Safe to share between threads.

    Who comes to an empty bucket reserves a token that is still to come, so that those who wait are served in their order.
    """

    def __init__(self, rate_per_s: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._rate, self._burst, self._monotonic = rate_per_s, float(burst), monotonic
        self._tokens, self._at = self._burst, monotonic()
        self._lock = threading.Lock()

    def reserve(self, longest_wait_s: float) -> float:
        """Take one token. Returns the seconds until it is there: 0 or less than ``longest_wait_s``.

        Raises Crowded, and takes nothing, when that is longer.
        """
        with self._lock:
            now = self._monotonic()
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
            self._at = max(self._at, now)
            wait_s = max(0.0, (1.0 - self._tokens) / self._rate)
            if wait_s > longest_wait_s:
                raise Crowded(f"our limit of {self._rate:g} calls/s is used up for {wait_s:.1f} s", retry_after=wait_s)
            self._tokens -= 1.0
            return wait_s


class RateLimited(Layer):
    """Has each request wait for a token of ``bucket``, which all adapters of one provider account share.

    Raises Crowded at once instead of waiting longer than ``longest_wait_s`` seconds.
    """

    def __init__(self, inner: Cloud, bucket: TokenBucket, *, longest_wait_s: float, sleep: Callable[[float], None]) -> None:
        super().__init__(inner)
        self._bucket, self._longest_wait_s, self._sleep = bucket, longest_wait_s, sleep

    def _ask(self, operation: str, request: Callable[[], Answer]) -> Answer:  # noqa: ARG002 - all kinds cost the same
        wait_s = self._bucket.reserve(self._longest_wait_s)
        if wait_s > 0:
            self._sleep(wait_s)
        return request()
