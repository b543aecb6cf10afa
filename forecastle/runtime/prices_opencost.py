"""``forecastle prices opencost``: what a replica of each controller has cost by OpenCost becomes a version of a price book.

OpenCost splits nodes over pods; the price of a replica-hour is what the pods of a controller cost together, divided by the
hours they ran together.
"""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from forecastle.decide.prices import Point, Price
from forecastle.errors import CloudUnavailable, ConfigError, Denied, Malformed
from forecastle.runtime.prices_publish import Draft, newest, next_since, publish

MAX_BYTES = 64 << 20
HOUR_MS = 3_600_000
UNITS_MS = {"m": 60_000, "h": HOUR_MS, "d": 24 * HOUR_MS}
FIXED = frozenset({"daemonset", "job", "cronjob"})
"""Kinds of controllers whose replicas nobody scales."""


def refresh_opencost(
    folder: Path,
    url: str,
    place: Point,
    *,
    now: int,
    window: str = "24h",
    currency: str = "USD",
    book: str = "opencost",
    only: Sequence[str] = (),
    timeout_s: float = 30.0,
) -> Path | None:
    """Write what a replica-hour of every controller cost in the last ``window``, as sku ``namespace/controller`` at ``place``.

    ``only`` names the skus to take, ``place.sku`` is not used. Returns the new file, None when no price has changed. Raises
    ConfigError, CloudUnavailable, Denied or Malformed.
    """
    span = window_ms(window)
    costs = replica_hours(fetch(url, window, timeout_s))
    missing = sorted(set(only) - set(costs))
    if missing:
        known = ", ".join(sorted(costs)) or "none"
        raise ConfigError(f"OpenCost has no replicas of {', '.join(missing)} in the last {window}; known are {known}")
    rows = tuple((sku, money, hours) for sku, (money, hours) in sorted(costs.items()) if not only or sku in only)
    if not rows:
        raise ConfigError(f"OpenCost has no replicas in the last {window}; give it a longer --window")
    since = next_since(newest(folder, book), now - span, now)
    prices = tuple(Price(place._replace(sku=sku), since, price=float(f"{money / hours:.6g}")) for sku, money, hours in rows)
    return publish(folder, Draft(book, currency, since, max(now, since + 1), prices))


def window_ms(window: str) -> int:
    """Milliseconds of ``30m``, ``12h`` or ``7d``. Raises ConfigError."""
    found = re.fullmatch(r"([1-9]\d{0,4})([mhd])", window)
    if not found:
        raise ConfigError(f"--window {window}: is no duration that OpenCost takes; write 30m, 12h or 7d")
    return int(found[1]) * UNITS_MS[found[2]]


def fetch(url: str, window: str, timeout_s: float) -> Any:
    """The answer to ``/allocation`` by pod, as JSON. Raises ConfigError, CloudUnavailable, Denied or Malformed."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"--url {url}: is no address of OpenCost's API; write http://localhost:9003")
    query = urllib.parse.urlencode({"window": window, "aggregate": "pod", "accumulate": "true"})
    asked = f"{url.rstrip('/')}/allocation?{query}"
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:  # noqa: S310 - the scheme was checked
            body = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise _refused(asked, error) from error
    except (OSError, HTTPException) as error:
        raise CloudUnavailable(f"{asked}: {error}; is OpenCost there? 'kubectl port-forward' opens its port 9003") from error
    if len(body) > MAX_BYTES:
        raise Malformed("opencost_too_large", f"{asked} answers more than {MAX_BYTES >> 20} MiB; give it a shorter --window")
    try:
        return json.loads(body)
    except ValueError as error:
        raise Malformed("opencost_json", f"{asked}: {error}; is that OpenCost's API, not its pages?") from error


def _refused(asked: str, error: urllib.error.HTTPError) -> Exception:
    with error:
        said = error.read(200).decode("utf-8", "replace").strip()
    words = f"{asked}: {error.code} {said}".rstrip()
    if error.code in (401, 403):
        return Denied(f"{words}; let the proxy before OpenCost pass this machine")
    if error.code == 429 or error.code >= 500:
        return CloudUnavailable(words)
    return ConfigError(f"{words}; correct --url, it ends before '/allocation'")


def replica_hours(answer: Any) -> dict[str, tuple[float, float]]:
    """``namespace/controller`` -> money and hours of its pods together. Raises Malformed."""
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, item in _allocations(answer):
        properties = item.get("properties") or {}
        controller, namespace = properties.get("controller"), properties.get("namespace")
        if name.startswith("__") or not controller or properties.get("controllerKind", "").lower() in FIXED:
            continue
        sums = total[f"{namespace or 'default'}/{controller}"]
        sums[0] += _number(name, item, "totalCost")
        sums[1] += _number(name, item, "minutes") / 60.0
    return {sku: (money, hours) for sku, (money, hours) in total.items() if hours > 0}


def _allocations(answer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    sets = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(sets, list):
        said = answer.get("message", "") if isinstance(answer, dict) else ""
        raise Malformed("opencost_shape", f"has no list 'data'{f': {said}' if said else ''}; is that OpenCost's API?")
    for step in sets:
        for name, item in (step or {}).items():
            if not isinstance(item, dict):
                raise Malformed("opencost_shape", f"allocation {name} is no object")
            yield name, item


def _number(name: str, item: dict[str, Any], field: str) -> float:
    value = item.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Malformed("opencost_number", f"{field} of {name} is {value!r}, not a number from 0 on")
    return float(value)
