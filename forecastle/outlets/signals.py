"""What others tell us is wrong: kept in a journal, heard by the loop at each tick, and never more than one witness.

What is firing at a tick is a function of the journal: the records that came before it, folded. A restart that rebuilds past
ticks hears again what was heard then. A signal that nobody repeats for ``hold_s`` is let go: its sender may be gone.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from forecastle.errors import ConfigError, StoreUnavailable
from forecastle.types import Anomaly, AnomalyKind, Inventory, SeriesKey, Severity

logger = logging.getLogger(__name__)

WITNESS = "alert"
_SCORES = {Severity.INFO: 1.0, Severity.WARNING: 2.0, Severity.CRITICAL: 3.0}


class Signal(msgspec.Struct, frozen=True):
    """Something is wrong with a workload, or (``firing`` false) is not any more. ``name`` is the same for both and for repeats.

    ``at`` (ms) is when we were told. ``site`` empty: anywhere.
    """

    name: str
    alert: str
    workload: str
    site: str
    severity: Severity
    kind: AnomalyKind
    firing: bool
    at: int
    source: str = "alertmanager"
    summary: str = ""


class SignalBook:
    """The journal. Written by the doorbell's threads, heard by the loop's.

    ``keep_ms`` is how far back a restart may ask; ``most`` bounds the records. Raises ConfigError for a journal that cannot
    be read.
    """

    def __init__(
        self,
        path: Path,
        stock: Inventory,
        now: Callable[[], int],
        *,
        hold_s: float = 3600.0,
        keep_ms: int = 172_800_000,
        most: int = 10_000,
    ) -> None:
        self._path, self._stock, self._now = path, stock, now
        self._hold_ms, self._keep_ms, self._most = int(hold_s * 1000), keep_ms, most
        self._lock = threading.Lock()
        self._records = self._load()

    def refusal(self, signal: Signal) -> str:
        """Why ``signal`` is not for us, '' when it is."""
        if signal.workload not in self._stock.workloads:
            return "workload unknown" if signal.workload else "no workload"
        return "site unknown" if signal.site and signal.site not in self._stock.sites else ""

    def now(self) -> int:
        """The time signals are stamped with (ms)."""
        return self._now()

    def accept(self, signals: Sequence[Signal]) -> None:
        """Make ``signals`` durable, those that change nothing excepted. Raises StoreUnavailable when that fails."""
        with self._lock:
            newest = {record.name: record for record in self._records}
            fresh = [s for s in signals if self._news(s, newest.get(s.name))]
            if not fresh:
                return
            if len(self._records) + len(fresh) > self._most:
                self._shrink()
            if len(self._records) + len(fresh) > self._most:
                raise StoreUnavailable(f"{self._path} holds {len(self._records)} signals of the recent past", retry_after=60.0)
            self._write(fresh)
            self._records += fresh

    def heard(self, tick: int) -> tuple[Anomaly, ...]:
        """What is firing at ``tick`` (ms), by the name of the signal."""
        with self._lock:
            before = {record.name: record for record in self._records if record.at < tick}
        firing = (s for s in before.values() if s.firing and tick - s.at <= self._hold_ms)
        return tuple(anomaly(signal, tick) for signal in sorted(firing, key=lambda s: s.name))

    def _news(self, signal: Signal, known: Signal | None) -> bool:
        """Whether it changes what is known, or refreshes it in time."""
        if known is None or not known.firing:
            return signal.firing
        same = msgspec.structs.replace(known, at=signal.at) == signal
        return not same or signal.at - known.at > self._hold_ms // 4

    def _write(self, fresh: Sequence[Signal]) -> None:
        lines = b"".join(msgspec.json.encode(signal) + b"\n" for signal in fresh)
        try:
            with self._path.open("ab", buffering=0) as out:
                end = out.tell()
                try:
                    if out.write(lines) != len(lines):
                        raise OSError(0, "short write")  # noqa: TRY301 - handled like every failure to write
                    os.fsync(out.fileno())
                except OSError:
                    with suppress(OSError):
                        out.truncate(end)
                    raise
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror}", retry_after=10.0) from error

    def _shrink(self) -> None:
        """Leave out what no restart can ask for any more: it was followed by another record, resolved or let go long ago."""
        oldest = self._now() - self._keep_ms - self._hold_ms
        kept = [record for record in self._records if record.at >= oldest]
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in kept))
            draft.replace(self._path)
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror}", retry_after=10.0) from error
        self._records = kept

    def _load(self) -> list[Signal]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._path.read_bytes() if self._path.exists() else b""
            body, _, torn = whole.rpartition(b"\n")
            if torn:
                logger.warning("%s: a half record at its end, left by a crash, is dropped", self._path)
                self._path.write_bytes(whole[: len(whole) - len(torn)])
            return [msgspec.json.decode(line, type=Signal) for line in body.splitlines()]
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"outlets.cursors: {self._path} cannot be used ({error}); remove it") from error


def anomaly(signal: Signal, tick: int) -> Anomaly:
    """As the detectors would tell it. All signals name one ``witness``: together they count as one independent signal."""
    key = SeriesKey(signal.workload, f"alert/{signal.alert}", (("site", signal.site),) if signal.site else ())
    evidence = {
        "witness": WITNESS,
        "families": [WITNESS],
        "source": signal.source,
        "signal": signal.name,
        "severity": signal.severity.value,
        "summary": signal.summary,
        "told_at": signal.at,
    }
    return Anomaly(key, tick, _SCORES[signal.severity], 1.0, signal.kind, evidence)
