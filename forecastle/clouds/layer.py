"""A cloud over a cloud: what is the same for every provider is laid over an adapter instead of being written into each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from forecastle.ports import Cloud
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

Answer = TypeVar("Answer")


class Layer:
    """Passes everything on to ``inner``. A layer overrides `_ask`, which every request to the provider goes through.

    `preview` has the observation in hand and asks nobody, so it goes through nothing.
    """

    def __init__(self, inner: Cloud) -> None:
        self.inner = inner
        self.name: str = inner.name
        self.capabilities: frozenset[Kind] = inner.capabilities

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now, as ``inner`` says."""
        return self._ask("observe", lambda: self.inner.observe(pool))

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do, as ``inner`` says; no effect."""
        return self.inner.preview(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Have ``inner`` make it so under the same ``token``."""
        return self._ask("apply", lambda: self.inner.apply(action, pool, token=token))

    def close(self) -> None:
        """Close ``inner``. Idempotent."""
        self.inner.close()

    def _ask(self, operation: str, request: Callable[[], Answer]) -> Answer:  # noqa: ARG002 - layers name it in figures
        return request()


def layers(cloud: Cloud) -> Iterator[Layer]:
    """The layers over an adapter, the outermost first."""
    while isinstance(cloud, Layer):
        yield cloud
        cloud = cloud.inner
