"""What every cloud adapter must pass: named checks, so that a new adapter inherits its tests and writes none.

::

    @pytest.mark.parametrize("check", checks(), ids=str)
    def test_my_cloud(check: Check) -> None:
        check(lambda: MyCloud(...), pool)

The checks use the cloud for real: give them a pool that nothing else uses, with room for one replica more or less (an adapter
that only shifts traffic: with all its traffic).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from forecastle.ports import Cloud
from forecastle.testing import cloud_promises as promises
from forecastle.testing.cloud_promises import Bench, fresh_token
from forecastle.types import Pool


class BrokenPromise(AssertionError):
    """The adapter broke the promise named ``promise``."""

    def __init__(self, promise: str, found: str) -> None:
        super().__init__(f"{promise}: {found}")
        self.promise = promise


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and how to test it. Called with the adapter, it returns or raises BrokenPromise."""

    test: Callable[[Bench], str]

    @property
    def name(self) -> str:
        """What the promise is called."""
        return self.test.__name__

    def __str__(self) -> str:
        return self.name

    def __call__(
        self,
        connect: Callable[[], Cloud],
        pool: Pool,
        *,
        absent: Pool | None = None,
        creates: bool = False,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """Test the promise; the arguments are those of `check_cloud`."""
        bench = Bench(connect, pool, absent or _elsewhere(pool), creates, settle)
        try:
            found = self.test(bench)
        except Exception as error:
            raise BrokenPromise(self.name, f"{self.test.__doc__} But {type(error).__name__}: {error}") from error
        if found:
            raise BrokenPromise(self.name, f"{self.test.__doc__} But {found}")


def checks() -> tuple[Check, ...]:
    """Every promise of `forecastle.ports.Cloud` that can be tested from outside; the simple ones first."""
    return (
        Check(promises.observe_steady),
        Check(promises.absent_not_found),
        Check(promises.preview_no_effect),
        Check(promises.effect_visible),
        Check(promises.used_token),
        Check(promises.used_token_everywhere),
        Check(promises.already_true),
        Check(promises.generation_once),
        Check(promises.expected_conflict),
        Check(promises.undeclared_unsupported),
        Check(promises.quota_exceeded),
        Check(promises.close_idempotent),
    )


def check_cloud(
    connect: Callable[[], Cloud],
    pool: Pool,
    *,
    absent: Pool | None = None,
    creates: bool = False,
    settle: Callable[[], None] = lambda: None,
) -> tuple[str, ...]:
    """Run every check; the names of the promises, all kept. Raises BrokenPromise at the first that is not.

    ``connect`` makes a new connection to the same provider each time. ``absent`` is a pool that does not exist there, by
    default ``pool`` under another name and target; ``creates`` says that observing it creates it with ``max(min, 1)``
    replicas. ``settle`` waits until an effect can be observed.
    """
    every = checks()
    for check in every:
        check(connect, pool, absent=absent, creates=creates, settle=settle)
    return tuple(check.name for check in every)


def _elsewhere(pool: Pool) -> Pool:
    suffix = fresh_token()[:8]
    return replace(pool, name=f"{pool.name}-{suffix}", target={key: f"{value}-{suffix}" for key, value in pool.target.items()})
