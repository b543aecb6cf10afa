"""What can go wrong, typed by what the caller should do about it.

::

    ForecastleError
    |-- Transient              try again, not before retry_after
    |   |-- BrokerUnavailable    hold: offsets stay where they are
    |   |-- StoreUnavailable     no recordable intent, no action
    |   |-- CloudUnavailable     throttled, timed out or 5xx: reconcile with the same token
    |   `-- RegistryUnavailable  serve the last good model
    `-- Permanent              trying again cannot help
        |-- ConfigError          the message names file, line and fix
        |-- Malformed            one record: dead-letter it, go on
        |-- Conflict             the target is not in the expected state: observe and plan again
        |-- Denied               permission, policy or approval is missing
        |-- NotFound             the target does not exist
        |-- QuotaExceeded        the provider refuses to grow
        |-- Unsupported          the adapter lacks the capability
        |-- ModelRefused         corrupt, hostile or mismatched model: keep the last good one
        `-- LedgerCorrupt        the hash chain is broken: stop acting, page
"""


class ForecastleError(Exception):
    """Root of every error this package raises on purpose. The message prints the fix where there is one."""


class Transient(ForecastleError):
    """May succeed later. ``retry_after``: least seconds to wait; ``ambiguous``: the effect may have happened."""

    def __init__(self, message: str, *, retry_after: float = 1.0, ambiguous: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.ambiguous = ambiguous


class BrokerUnavailable(Transient):
    """Kafka cannot be reached or refuses for now."""


class StoreUnavailable(Transient):
    """The ledger's database cannot be reached, is full or failed to sync."""


class CloudUnavailable(Transient):
    """A provider throttled, timed out or failed on its side."""


class RegistryUnavailable(Transient):
    """The model registry cannot be reached."""


class Permanent(ForecastleError):
    """Will not succeed by trying again."""


class ConfigError(Permanent):
    """A setting is wrong; the message says file, line and what to write instead."""


class Malformed(Permanent):
    """A record cannot be understood. ``reason`` is a short, stable code for counting."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Conflict(Permanent):
    """The target's state is not the one the action expected."""


class Denied(Permanent):
    """A permission, policy or approval forbids it."""


class NotFound(Permanent):
    """The target does not exist."""


class QuotaExceeded(Permanent):
    """The provider has no more of it to give."""


class Unsupported(Permanent):
    """The adapter does not have the capability it was asked for."""


class ModelRefused(Permanent):
    """A model file was not accepted for serving."""


class LedgerCorrupt(Permanent):
    """The ledger's hash chain does not verify."""
