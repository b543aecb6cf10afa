"""`forecastle import`: a month of what others have recorded becomes the history that models learn from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from forecastle.errors import ConfigError
from forecastle.intake.archive import write_history
from forecastle.intake.naming import Naming
from forecastle.intake.prometheus_history import Request, fetch
from forecastle.settings import Settings
from forecastle.types import Samples


def epoch_ms(moment: datetime | None) -> int:
    """Milliseconds of ``moment``, which is UTC unless it says otherwise; None is now."""
    if moment is None:
        return round(datetime.now(UTC).timestamp() * 1000)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def from_prometheus(settings: Settings, request: Request, out: Path, token_env: str, said: Callable[[int, int], None]) -> str:
    """Write the answer of a range query; returns what was done. Raises ConfigError when it is empty, and what `fetch` does."""
    if token_env:
        token = os.environ.get(token_env, "")
        if not token:
            raise ConfigError(f"--token-env: the variable {token_env} is empty; export it first")
        request = request._replace(token=token)
    return _written(fetch(request, Naming.of(settings.intake), said), out, request.query)


def from_cloudwatch(
    *, region: str, endpoint_url: str, metric: str, dimensions: Sequence[str], out: Path, **asked: str | int
) -> str:
    """Write a metric of CloudWatch, named ``NAMESPACE:METRIC``; ``asked`` is the rest of a `MetricQuery`."""
    from forecastle.clouds.aws_client import Access, Account
    from forecastle.clouds.aws_history import MetricQuery
    from forecastle.clouds.aws_history import fetch as fetch_metric

    namespace, colon, name = metric.rpartition(":")
    if not (namespace and colon and name):
        raise ConfigError(f"--metric: '{metric}' has no namespace; write AWS/ApplicationELB:RequestCount")
    pairs = dict(_pair(text) for text in dimensions)
    query = MetricQuery(namespace=namespace, metric=name, dimensions=pairs, **asked)  # type: ignore[arg-type]  # checked by it
    account = Account(Access(region, endpoint_url=endpoint_url))
    try:
        return _written(fetch_metric(account.read, query), out, metric)
    finally:
        account.close()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"--dimension: '{text}' is no pair; write LoadBalancer=app/shop/0123456789abcdef")
    return name, value


def _written(samples: Samples, out: Path, what: str) -> str:
    if not len(samples):
        raise ConfigError(f"{what}: no samples in that time; check the query, --from and --to")
    count = write_history(samples, out)
    return f"{out}: {count} samples of {len(samples.keys)} series"
