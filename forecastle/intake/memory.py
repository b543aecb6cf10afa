"""An intake without Kafka: messages in a list, for `demo --naive`, tests and replays. Same codecs, same promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from forecastle.errors import BrokerUnavailable
from forecastle.intake.codecs import Refused, open_codec
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable
from forecastle.intake.skew import Skew
from forecastle.ports import Clock
from forecastle.settings import IntakeSettings
from forecastle.types import Progress, Samples


class MemoryIntake:
    """See `forecastle.ports.Intake`. ``messages`` are values in ``codec``'s format, read lazily, ``per_poll`` at a time.

    Refused messages are kept in ``dead_letters`` with their position. ``down`` makes poll and commit raise BrokerUnavailable.
    """

    def __init__(
        self,
        messages: Iterable[bytes],
        clock: Clock,
        settings: IntakeSettings | None = None,
        *,
        codec: str = "json",
        per_poll: int = 1000,
    ) -> None:
        self._settings = settings or IntakeSettings()
        self._clock = clock
        self._messages: Iterator[bytes] = iter(messages)
        self._series = SeriesTable(self._settings.max_series, self._settings.max_series_total)
        self._codec = open_codec(codec, self._series, Naming.of(self._settings))
        self._per_poll = per_poll
        self._drained = False
        self.position = 0
        self.committed = 0
        self.dead_letters: list[Refused] = []
        self.down = False
        self._skew = Skew()

    def start(self, look_back_ms: int, resume_at: int | None = None) -> None:
        """Nothing to join: the list starts at its beginning."""

    def poll(self, timeout_s: float = 1.0) -> Samples:  # noqa: ARG002 - what is not there now will not come
        """The next ``per_poll`` messages; see `Intake.poll`."""
        self._check()
        values = [value for _, value in zip(range(self._per_poll), self._messages, strict=False)]
        self._drained = len(values) < self._per_poll
        now = self._clock.now()
        decoded = self._codec.decode(values, now + round(self._settings.max_skew_s * 1000))
        if decoded.newest >= 0:
            self._skew.note("memory/0", decoded.newest - now, self._clock.monotonic())
        self.dead_letters += [refused._replace(record=self.position + refused.record) for refused in decoded.refused]
        self.position += len(values)
        return Samples(self._series.keys, decoded.series, decoded.at, decoded.value, np.zeros(len(decoded.at), np.int32))

    def commit(self) -> None:
        """Remember the position."""
        self._check()
        self.committed = self.position

    def progress(self) -> Progress:
        """One partition, number 0."""
        drained = frozenset({0}) if self._drained else frozenset[int]()
        return Progress(frozenset({0}), drained, skew_s=self._skew.largest_s(self._clock.monotonic()))

    def close(self) -> None:
        """Nothing to release."""

    def _check(self) -> None:
        if self.down:
            raise BrokerUnavailable("the memory intake was told to be down")
