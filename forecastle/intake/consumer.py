"""The Kafka consumer: a member of a group that commits only after effects and rebuilds its state from the log.

On assignment a partition is read again from one look-back of event time before its committed position (``offsets_for_times``
over the records' timestamps, which producers of history must set to the event time). Repeated records rebuild the windows; they
are neither dead-lettered nor committed a second time. The order inside `poll` is the promise: decode, deliver the dead letters,
only then move on. Partitions far ahead in event time are paused until the slowest catches up, so that open slots stay few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake.codecs import Codec, Decoded, open_codec
from forecastle.intake.connection import options, speaking
from forecastle.intake.dead_letters import DeadLetters, Letter
from forecastle.intake.naming import Naming
from forecastle.intake.positions import Position, event_time
from forecastle.intake.series import SeriesTable
from forecastle.intake.skew import Skew
from forecastle.ports import Clock
from forecastle.settings import IntakeSettings
from forecastle.types import Origin, Progress, Samples

TOPIC_STRIDE = 1 << 16  # partition p of the k-th configured topic is number k * TOPIC_STRIDE + p
ENOUGH_SAMPLES = 200_000  # samples a poll aims at, whatever the size of the messages
FIRST_RECORDS = 1000  # of the first poll, when their size is not known yet
PROBE_S = 5.0  # silence after which the broker is asked whether it is there
REQUEST_MS = 10_000
JOIN_MS = 2_000
SLICE_MS = 100  # a poll is this long at most, so that a change of the assignment is seen soon
Batches = Mapping[Any, list[Any]]


class KafkaIntake:
    """See `forecastle.ports.Intake`. Not thread-safe: one loop owns it."""

    def __init__(self, settings: IntakeSettings, clock: Clock, dead_letters: DeadLetters | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._options = options(settings)
        self._series = SeriesTable(settings.max_series, settings.max_series_total)
        self._skew = Skew()
        self._codecs = _codecs(settings, self._series)
        self._letters = dead_letters or DeadLetters(settings)
        self._look_back_ms = 0
        self._resume_at: int | None = None
        self._consumer: Any = None
        self._listener: Any = None
        self._at: dict[Any, Position] = {}
        self._held: Batches = {}
        self._per_record = ENOUGH_SAMPLES / FIRST_RECORDS
        self._heard = 0.0
        self.dead_lettered = 0

    def start(self, look_back_ms: int, resume_at: int | None = None) -> None:
        """Join the group; see `Intake.start`. Raises BrokerUnavailable, after which it may be called again."""
        from kafka import KafkaConsumer

        self._look_back_ms, self._resume_at = look_back_ms, resume_at
        settings = self._settings
        with speaking(f"connecting to {settings.bootstrap}"):
            self._consumer = KafkaConsumer(
                **self._options,
                group_id=settings.group,
                group_instance_id=settings.instance,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_poll_records=settings.max_poll_records,
                request_timeout_ms=REQUEST_MS,
                bootstrap_timeout_ms=REQUEST_MS,
                reconnect_backoff_max_ms=1000,
                metrics_enabled=False,
            )
            self._listener = _listener(self._consumer)
            self._consumer.subscribe(list(settings.topics), listener=self._listener)
        self._heard = self._clock.monotonic()

    def poll(self, timeout_s: float = 1.0) -> Samples:
        """The next samples in order of arrival per partition; see `Intake.poll`."""
        if self._consumer is None:
            raise BrokerUnavailable("the intake was not started, or start failed; call start first")
        if not self._held:
            self._held = self._fetch(timeout_s)
        samples, letters = self._decode(self._held)
        if letters:
            self._letters.send(letters)
            self.dead_lettered += len(letters)
        records, self._held = self._held, {}
        self._move(records, samples)
        return samples

    def commit(self) -> None:
        """Commit everything returned by poll so far; never moves a committed position back."""
        from kafka.structs import OffsetAndMetadata

        due = {
            part: OffsetAndMetadata(here.next, here.metadata, -1)
            for part, here in self._at.items()
            if here.next > here.committed
        }
        if due:
            with speaking("committing offsets"):
                self._consumer.commit(due, timeout_ms=REQUEST_MS)
            for part, offset in due.items():
                self._at[part].committed = offset.offset

    def progress(self) -> Progress:
        """See `Intake.progress`. A partition never fetched from has an unknown end and is not drained."""
        lag: dict[int, int] = {}
        for part, here in self._at.items():
            end = self._consumer.highwater(part) if part in self._consumer.assignment() else None
            lag[here.number] = max(0, end - here.next) if end is not None else 1
        drained = frozenset(number for number, left in lag.items() if not left)
        rebuilding = frozenset(here.number for here in self._at.values() if here.rebuilding)
        return Progress(frozenset(lag), drained, rebuilding, lag, self._skew.largest_s(self._clock.monotonic()))

    def close(self) -> None:
        """Leave without committing. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with speaking("leaving the group"):
                consumer.close(autocommit=False, timeout_ms=REQUEST_MS)
        self._letters.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _fetch(self, timeout_s: float) -> Batches:
        most = int(min(self._settings.max_poll_records, max(50.0, ENOUGH_SAMPLES / self._per_record)))
        with speaking("polling"):
            records = self._wait(round(timeout_s * 1000), most)
            if self._listener.changed:
                self._assigned()
                records = {}
        now = self._clock.monotonic()
        if records:
            self._heard = now
        elif now - self._heard > PROBE_S:
            with speaking(f"no answer from {self._settings.bootstrap}"):
                self._consumer.end_offsets(list(self._at) or [], timeout_ms=round(PROBE_S * 1000))
            self._heard = now
        return records

    def _wait(self, timeout_ms: int, most: int) -> Batches:
        """Up to ``most`` records, or none when the time is up or the assignment changed (then everything is paused)."""
        for waited in range(0, max(timeout_ms, 1), SLICE_MS):
            _wait_joined(self._consumer)
            _free_slot(self._consumer)
            records: Batches = self._consumer.poll(min(SLICE_MS, timeout_ms - waited), max_records=most)
            if records or self._listener.changed:
                return records
        return {}

    def _assigned(self) -> None:
        """Seek the partitions that are new to us, and let them flow; the caller drops what was fetched before."""
        lost = self._listener.settled()  # first of all: what changes from here on is seen by the next poll
        try:
            held: set[Any] = self._consumer.assignment()
            kept = {part: here for part, here in self._at.items() if part in held and part not in lost}
            for part, here in kept.items():  # a rebalance sets positions back to the committed ones
                self._consumer.seek(part, here.next)
            fresh = sorted(held - kept.keys())
            found = self._look_back(fresh) if fresh else {}
        except BaseException:
            self._listener.again(lost)
            raise
        self._at = kept | found
        self._consumer.resume(*held)

    def _look_back(self, parts: list[Any]) -> dict[Any, Position]:
        begins = self._consumer.beginning_offsets(parts)
        positions: dict[Any, Position] = {}
        wanted: dict[Any, int] = {}
        for part in parts:
            stored = self._consumer.committed(part, metadata=True, timeout_ms=REQUEST_MS)
            committed = max(stored.offset if stored else 0, begins[part])
            positions[part] = Position(self._number(part), committed, committed)
            reached = event_time(stored.metadata) if stored else None
            times = [at for at in (reached, self._resume_at) if at is not None]
            if stored and times:
                margin = round(self._settings.max_skew_s * 1000)
                wanted[part] = max(0, min(times) - self._look_back_ms - margin)
        found = self._consumer.offsets_for_times(wanted) if wanted else {}
        for part in wanted:
            if found.get(part):
                positions[part].next = min(positions[part].next, found[part].offset)
        self._letters.scan(min((wanted.get(part, 0) for part in parts), default=0))
        for part, here in positions.items():
            self._consumer.seek(part, here.next)
        return positions

    def _number(self, part: Any) -> int:
        return self._settings.topics.index(part.topic) * TOPIC_STRIDE + int(part.partition)

    # --- decoding ---------------------------------------------------------------------------------------------------

    def _decode(self, batches: Batches) -> tuple[Samples, list[Letter]]:
        """All samples, and a letter for each refused record that has none yet."""
        now = self._clock.now()
        not_after = now + round(self._settings.max_skew_s * 1000)
        parts: list[tuple[int, Decoded]] = []
        letters: list[Letter] = []
        for part, fetched in batches.items():
            here = self._at[part]
            records = fetched
            if self._letters.any_sent:
                records = [r for r in fetched if Origin(part.topic, part.partition, r.offset) not in self._letters]
            decoded = self._codecs[part.topic].decode([record.value for record in records], not_after)
            parts.append((here.number, decoded))
            if decoded.newest >= 0:
                self._skew.note(f"{part.topic}/{part.partition}", decoded.newest - now, self._clock.monotonic())
            if decoded.refused:
                letters.extend(self._write(part, here, records, decoded))
        return _join(parts, self._series), letters

    def _write(self, part: Any, here: Position, records: list[Any], decoded: Decoded) -> Iterable[Letter]:
        stamps = np.maximum.accumulate(np.array([here.stamp, *(r.timestamp for r in records)], np.int64))[1:]
        for number, reason, detail in decoded.refused:
            record = records[number]
            if record.offset < here.committed:
                continue  # delivered before its position was committed
            origin = Origin(part.topic, part.partition, record.offset)
            yield Letter(origin, reason, detail, record.value or b"", int(stamps[number]))

    def _move(self, batches: Batches, samples: Samples) -> None:
        if total := sum(map(len, batches.values())):
            self._per_record = max(1.0, 0.5 * self._per_record + 0.5 * len(samples) / total)
        for part, records in batches.items():
            here = self._at[part]
            here.next = records[-1].offset + 1
            here.stamp = max(here.stamp, *(record.timestamp for record in records))
            mine = samples.at[samples.partition == here.number] if len(batches) > 1 else samples.at
            if len(mine):
                here.at = max(here.at, int(mine.max()))
        if len(self._at) > 1 and not self._listener.changed:
            self._align()

    def _align(self) -> None:
        """Pause partitions that run ahead of the slowest unfinished one; resume the others.

        Also when a poll brought nothing: it may have told that the slowest one is empty.
        """
        behind = [here.at for part, here in self._at.items() if self._unread(part, here)]
        limit = min(behind, default=0) + round(self._settings.align_s * 1000)
        ahead = {part for part, here in self._at.items() if behind and here.at > limit}
        paused = self._consumer.paused()
        if ahead - paused:
            self._consumer.pause(*(ahead - paused))
        if paused - ahead:
            self._consumer.resume(*(paused - ahead))

    def _unread(self, part: Any, here: Position) -> bool:
        end = self._consumer.highwater(part)
        return end is None or end > here.next


def _wait_joined(consumer: Any) -> None:
    """Bring a join that is under way to its end.

    kafka-python 3.0.12 drops a join whose reason (topics it did not know yet) is gone before it has ended, and joins again when
    one ends between two polls: partitions would then be held and not fetched, for ever, or as long as polls are short.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    if coordinator is None:
        return
    if coordinator.rejoining and not coordinator.need_rejoin():
        coordinator.request_rejoin()
    if coordinator.need_rejoin():
        coordinator.ensure_active_group(JOIN_MS)


def _free_slot(consumer: Any) -> None:
    """Let records that were set aside while their partition was paused come back.

    kafka-python 3.0.12 looks for them only while its slot for half-read batches is None, but leaves a fully read batch in it:
    a resumed partition would then be neither returned nor fetched, for ever.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    batch = getattr(fetcher, "_next_partition_records", None)
    if batch is not None and not batch:
        fetcher._next_partition_records = None


def _codecs(settings: IntakeSettings, series: SeriesTable) -> dict[str, Codec]:
    missing = [topic for topic in settings.topics if topic not in settings.codecs]
    if missing:
        raise ConfigError(f"intake.codecs: the topic '{missing[0]}' has no codec; add '{missing[0]}: json'")
    if settings.dead_letter_topic in settings.topics:
        raise ConfigError("intake.dead_letter_topic: must not be one of intake.topics; choose another name")
    naming = Naming.of(settings)
    return {topic: open_codec(settings.codecs[topic], series, naming) for topic in settings.topics}


def _join(parts: list[tuple[int, Decoded]], series: SeriesTable) -> Samples:
    """The parts one after the other; each keeps its own order."""
    if not parts:
        none = np.empty(0, np.int32)
        return Samples(series.keys, none, np.empty(0, np.int64), np.empty(0, np.float64), none)
    decoded = [part for _, part in parts]
    return Samples(
        series.keys,
        np.concatenate([part.series for part in decoded]).astype(np.int32, copy=False),
        np.concatenate([part.at for part in decoded]),
        np.concatenate([part.value for part in decoded]),
        np.repeat(np.array([number for number, _ in parts], np.int32), [len(part.at) for part in decoded]),
    )


def _listener(consumer: Any) -> Any:
    """Notes changes only: callbacks run on the client's I/O loop, where nothing may block.

    What is assigned is paused at once, so that nothing is fetched from a position that is about to be moved.
    """
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library is untyped
        def __init__(self) -> None:
            self.changed, self.lost = False, set[Any]()

        def settled(self) -> set[Any]:
            """What was lost since the last call; nothing has changed since now."""
            lost, self.changed, self.lost = self.lost, False, set[Any]()
            return lost

        def again(self, lost: Iterable[Any]) -> None:
            """A change that is still to be followed."""
            self.lost.update(lost)
            self.changed = True

        def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:  # noqa: ARG002 - what stays is asked for later
            self.changed = True

        def on_partitions_lost(self, lost: Iterable[Any]) -> None:
            self.again(lost)

        def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
            consumer.pause(*assigned)
            self.changed = True  # last: whoever sees it may resume them

    return Listener()
